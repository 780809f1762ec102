/* Reserving, assigning, releasing and looking up codes. They are shown and saved on demand, and kept nowhere. */

import { Api } from "./api.js";
import { confirmed } from "./confirm.js";
import { byId, button, copyButton, csvRecord, element, instant, number, onSubmit, plural, save, tell } from "./dom.js";

const STATUS_BADGES = { available: "good", reserved: "warn", assigned: "" };

export class Codes {
  #api;
  #changed;
  #campaign = "";
  #reservation = null;

  /** ``changed()`` is called after each change of the stock. */
  constructor(api, changed) {
    this.#api = api;
    this.#changed = changed;
    onSubmit(byId("reserve-form"), byId("reserve-told"), () => this.#reserve());
    onSubmit(byId("change-form"), byId("change-told"), (sender) => this.#change(sender.value));
    onSubmit(byId("find-form"), byId("find-told"), () => this.#find());
    byId("change-codes").addEventListener("input", showNumber);
    byId("reserved-actions").append(
      copyButton("Copy", () => byId("reserved-codes").value, { class: "small", "data-action": "copy" }),
      button("Download CSV", () => this.#download(), { class: "small", "data-action": "download" }),
      button("Assign or release …", takeOver, { class: "small", "data-action": "take-over" }),
    );
    document.addEventListener("signed-out", () => this.#clear());
  }

  /** Act on a campaign from now on; what was shown of another one goes. */
  open(campaign) {
    if (campaign === this.#campaign) return;
    this.#campaign = campaign;
    this.#clear();
  }

  /** Take over the limits that hold: the largest reservation. */
  limit({ mostReserved }) {
    byId("reserve-count").max = mostReserved;
  }

  #clear() {
    this.#reservation = null;
    byId("reserved").hidden = true;
    byId("reserved-codes").value = "";
    byId("change-codes").value = "";
    showNumber();
    for (const id of ["reserve-told", "reserved-told", "change-told", "changed", "find-told"]) tell(byId(id));
    byId("found").replaceChildren();
    byId("find-code").value = "";
  }

  async #reserve() {
    const wanted = Number(byId("reserve-count").value);
    const type = byId("reserve-type").value;
    const path = Api.path(this.#campaign, "reserve");
    const { data } = await this.#api.call("POST", path, { body: { type, count: wanted } });
    this.#reservation = data;
    byId("reserved").hidden = false;
    byId("reserved-codes").value = data.codes.map((each) => each.code).join("\n");
    byId("reserved-codes").scrollTop = 0;
    for (const each of byId("reserved-actions").children) each.hidden = data.count === 0;
    const place = byId("reserved-told");
    if (data.count === wanted) tell(place, "good", ...reservedNote(data));
    else if (data.count) tell(place, "warn", ...reservedNote(data, `of the ${number(wanted)} you asked for: no more are available`));
    else tell(place, "warn", `No code of type ${type} is available.`);
    this.#changed();
  }

  #download() {
    const { codes, reserveId } = this.#reservation;
    const rows = codes.map((each) => csvRecord([each.code, each.type, each.reserveId, each.date.reserved]));
    const lines = [csvRecord(["code", "type", "reserveId", "reserved"]), ...rows];
    save(`reservation-${reserveId}.csv`, new Blob(lines, { type: "text/csv" }));
  }

  async #change(action) {
    const codes = typedCodes();
    const place = byId("changed");
    tell(place);
    if (action === "assign" && !(await confirmed(assignQuestion(codes.length)))) return;
    const { data } = await this.#api.call("POST", Api.path(this.#campaign, action), { body: { codes } });
    const { in: sent, updated } = data.count;
    const done = action === "assign" ? "assigned" : "released";
    const rest = action === "assign" ? "is assigned already, or no code of this campaign" : "is not reserved";
    const left = sent - updated;
    const more = left ? [element("p", {}, `${number(left)} of ${number(sent)} left as they were: each ${rest}.`)] : [];
    tell(place, left ? "warn" : "good", element("p", {}, `${plural(updated, "code")} ${done}.`), ...more);
    this.#changed();
  }

  async #find() {
    const code = byId("find-code").value.trim();
    const place = byId("found");
    place.replaceChildren();
    if (code === "." || code === "..") {
      // RFC 3986, section 5.2.4: no client can send these as a part of a path.
      tell(byId("find-told"), "warn", "A code of nothing but dots cannot be looked up.");
      return;
    }
    const { data } = await this.#api.call("GET", Api.path(this.#campaign, "codes", code));
    place.append(codeView(data));
  }
}

function reservedNote({ count, reserveId, expiresAt }, more = "") {
  return [
    element("p", {}, `${plural(count, "code")} reserved${more && ` ${more}`}.`),
    element("p", { class: "hint" }, "Reservation ", element("code", {}, reserveId), ", until ", instant(expiresAt)),
  ];
}

function codeView(found) {
  const facts = [
    ["Status", element("span", { class: `badge ${STATUS_BADGES[found.status] ?? ""}` }, found.status)],
    ["Code", element("code", {}, found.code)],
    ["Type", found.type],
    ["Saved", found.date?.saved && instant(found.date.saved)],
    ["Reserved", found.date?.reserved && instant(found.date.reserved)],
    ["Assigned", found.date?.assigned && instant(found.date.assigned)],
    ["Reservation", found.reserveId && element("code", {}, found.reserveId)],
  ];
  const shown = facts.filter(([, value]) => value);
  return element(
    "dl", { class: "found" },
    ...shown.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]),
  );
}

/** The codes of the field: one in each line, without blanks around it, each once. */
function typedCodes() {
  const lines = byId("change-codes").value.split(/\r?\n/).map((line) => line.trim());
  return [...new Set(lines.filter(Boolean))];
}

function showNumber() {
  const count = typedCodes().length;
  byId("change-number").textContent = count ? plural(count, "code") : "No codes yet";
}

function takeOver() {
  byId("change-codes").value = byId("reserved-codes").value;
  showNumber();
  byId("change-codes").focus();
}

const assignQuestion = (count) => ({
  title: `Assign ${plural(count, "code")}?`,
  text: "An assigned code is given away for good: it never becomes available again.",
  yes: "Assign",
});
