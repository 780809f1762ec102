/* A campaign's stock: for each type a bar by status, and the figures it is made of. */

import { Api } from "./api.js";
import { byId, clock, element, number, percent, plural, tell, tellError } from "./dom.js";

const TYPES = ["tm", "external"];
const STATUSES = ["available", "reserved", "assigned"];

export class Stock {
  #api;
  #campaign = "";

  constructor(api) {
    this.#api = api;
    byId("stock-refresh").addEventListener("click", () => this.refresh());
  }

  /** Load the figures of a campaign, which from then on is the one that is shown; throws what the API said. */
  async open(campaign) {
    const counts = await this.#load(campaign);
    this.#campaign = campaign;
    this.#show(counts);
  }

  /** Load the figures again; an error is told in place, and the old figures stay. */
  async refresh() {
    const campaign = this.#campaign;
    const button = byId("stock-refresh");
    button.setAttribute("aria-disabled", "true");
    try {
      const counts = await this.#load(campaign);
      if (campaign === this.#campaign) this.#show(counts);
    } catch (error) {
      tellError(byId("stock-told"), error);
    } finally {
      button.removeAttribute("aria-disabled");
    }
  }

  #load(campaign) {
    const path = Api.path(campaign, "codes", "count");
    return Promise.all(TYPES.map(async (type) => (await this.#api.call("GET", path, { query: { type } })).data));
  }

  #show(counts) {
    tell(byId("stock-told"));
    byId("stock-time").textContent = `as of ${clock(new Date())}`;
    byId("stock").replaceChildren(...TYPES.map((type, index) => typeView(type, counts[index])));
  }
}

function typeView(type, counts) {
  const total = STATUSES.reduce((sum, status) => sum + counts[status], 0);
  const title = `stock-${type}`;
  const told = STATUSES.map((status) => `${status} ${percent(counts[status], total)}`).join(", ");
  const bar = element("div", { class: "bar", role: "img", "aria-label": total ? told : "no codes" });
  for (const status of STATUSES.filter((each) => counts[each])) {
    const part = element("span", { class: status });
    part.style.flexGrow = String(counts[status] / total);
    bar.append(part);
  }
  const figures = STATUSES.map((status) => element(
    "div", {},
    element("dt", {}, element("span", { class: `key ${status}`, "aria-hidden": "true" }), status),
    element("dd", { class: "figure", "data-figure": `${type}-${status}` }, number(counts[status])),
    element("dd", { class: "hint" }, percent(counts[status], total)),
  ));
  return element(
    "article", { class: "panel stack", "aria-labelledby": title },
    element(
      "div", { class: "type-head" },
      element("h3", { id: title }, element("span", { class: "visually-hidden" }, "Type "), type),
      element("p", { class: "hint" }, total ? plural(total, "code") : "No codes of this type yet"),
    ),
    bar,
    element("dl", { class: "figures" }, ...figures),
  );
}
