/* The console: wires signing in, the stock, the uploads and the codes of one campaign together. */

import { Api } from "./api.js";
import { Codes } from "./codes.js";
import { Session } from "./session.js";
import { Stock } from "./stock.js";
import { Uploads } from "./uploads.js";

const api = new Api();
const stock = new Stock(api);
const uploads = new Uploads(api, () => stock.refresh());
const codes = new Codes(api, () => stock.refresh());
const session = new Session(api, {
  async open(campaign) {
    // The first call proves the token and the campaign's name; nothing changes on the page if it fails.
    await stock.open(campaign);
    codes.open(campaign);
    await uploads.open(campaign);
  },
  close: () => uploads.close(),
});

learn();

/** What this service offers is in its OpenAPI document, which every service shows. */
async function learn() {
  let document;
  try {
    document = (await api.call("GET", "openapi.json")).data;
  } catch {
    // The page works without: whether the service is there, signing in will tell.
    return;
  }
  if (document.paths["/dev/token"]) session.offerDevToken();
  codes.limit({ mostReserved: document.components.schemas.ReserveRequest.properties.count.maximum });
}
