/* The page that shows the API: reads the OpenAPI document, and makes of each operation a form that sends it. */

import { Api } from "./api.js";
import { byId, element, tell, tellError } from "./dom.js";
import { Operation } from "./operation.js";
import { prose } from "./schema.js";

const METHODS = ["get", "post", "put", "patch", "delete"];
const calls = new Api();

const session = () => ({ token: byId("token").value.trim(), campaign: byId("campaign").value.trim() });

start();

async function start() {
  byId("session").addEventListener("submit", (event) => event.preventDefault());
  let api;
  try {
    api = (await calls.call("GET", "openapi.json")).data;
  } catch (error) {
    tellError(byId("loading"), error);
    return;
  }
  byId("loading").remove();
  document.title = `${api.info.title} ${api.info.version} · API docs`;
  byId("title").textContent = `${api.info.title} ${api.info.version}`;
  const paragraphs = api.info.description.trim().split(/\n\s*\n/);
  byId("description").replaceChildren(...paragraphs.map((text) => element("p", {}, ...prose(text))));
  for (const tag of api.tags) showTag(api, tag);
  if (api.paths["/console"]) byId("to-console").hidden = false;
  if (api.paths["/dev/token"]) {
    byId("dev-token").hidden = false;
    byId("dev-token").addEventListener("click", useDevToken);
  }
  addEventListener("hashchange", openNamed);
  openNamed();
}

function showTag(api, tag) {
  const operations = [];
  for (const [path, item] of Object.entries(api.paths)) {
    for (const method of METHODS) {
      if (item[method]?.tags?.includes(tag.name)) operations.push([method, new Operation(api, { method, path, item, session })]);
    }
  }
  if (!operations.length) return;
  const title = `tag-${tag.name.replaceAll(/\W+/g, "-")}`;
  byId("operations").append(element(
    "section", { "aria-labelledby": title },
    element("h2", { id: title }, tag.name),
    element("p", { class: "hint" }, ...prose(tag.description)),
    ...operations.map(([, operation]) => operation.node),
  ));
  byId("contents").append(element(
    "div", {},
    element("p", {}, tag.name),
    element("ul", {}, ...operations.map(([method, operation]) => element(
      "li", {},
      element(
        "a", { href: `#${operation.id}` },
        element("span", { class: `method ${method}` }, method.toUpperCase()), operation.summary,
      ),
    ))),
  ));
}

/** Open the operation that the address names. */
function openNamed() {
  const named = byId(decodeURIComponent(location.hash.slice(1)));
  if (named instanceof HTMLDetailsElement) {
    named.open = true;
    named.querySelector("summary").focus({ preventScroll: true });
    named.scrollIntoView();
  }
}

async function useDevToken() {
  tell(byId("token-told"));
  try {
    byId("token").value = (await calls.call("GET", "dev/token")).data.token;
    tell(byId("token-told"), "good", "A token is filled in.");
  } catch (error) {
    tellError(byId("token-told"), error);
  }
}
