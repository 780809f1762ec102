/* One upload as the list shows it. Its nodes stay while its figures change, so that the focus stays where it is. */

import { bytes, button, duration, element, instant, number, percent, plural, tell, tellError } from "./dom.js";

const BADGES = { queued: "warn", running: "live", succeeded: "good", failed: "bad", cancelled: "warn" };

export const isActive = (upload) => upload.state === "queued" || upload.state === "running";
export const kind = (upload) => (upload.dryRun ? "dry run" : "upload");
export const fileName = (upload) => upload.fileKey.split("/").slice(3).join("/");

export class UploadView {
  #facts = new Map();
  #list = element("dl", { class: "facts" });
  #badge = element("span", { class: "badge" });
  #about = element("p", { class: "hint" });
  #fill = element("span");
  #meter;
  #read = element("span", { "data-fact": "Read" });
  #pace = element("span", { class: "hint", "data-fact": "Pace" });
  #progress;
  #error = element("div", { role: "status" });
  #invalid = new InvalidRows();
  #upload;

  /** ``cancel``, ``download`` and ``takeBack`` are called with the view; what goes wrong is told at its ``told``. */
  constructor(upload, { cancel, download, takeBack }) {
    const name = fileName(upload);
    const title = `upload-${upload.uploadId}`;
    this.told = element("div", { role: "alert" });
    this.#meter = element(
      "div",
      { class: "meter", role: "progressbar", "aria-labelledby": title, "aria-valuemin": "0", "aria-valuemax": "100" },
      this.#fill,
    );
    this.#progress = element(
      "div", {}, this.#meter, element("p", { class: "under-meter" }, this.#read, this.#pace));
    this.cancel = button(
      "Cancel", () => cancel(this), { class: "small", "aria-label": `Cancel the ${kind(upload)} ${name}`, "data-action": "cancel" });
    this.download = button(
      "Download all invalid rows", () => download(this),
      { class: "small", "aria-label": `Download all invalid rows of ${name}`, "data-action": "invalid" });
    this.takeBack = button(
      "Take back", () => takeBack(this),
      { class: "small", "aria-label": `Take back the ${kind(upload)} ${name}`, "data-action": "take-back" });
    this.actions = element("div", { class: "row" }, this.download, this.takeBack, this.cancel);
    this.node = element(
      "li", { class: "panel stack upload", tabindex: "-1", "data-upload": upload.uploadId },
      element("div", { class: "upload-head" }, element("h4", { id: title }, name), this.#badge, this.#about),
      this.#progress, this.#list, this.#error, this.#invalid.node, this.actions, this.told,
    );
    this.update(upload);
  }

  get upload() {
    return this.#upload;
  }

  update(upload) {
    this.#upload = upload;
    const active = isActive(upload);
    const { done, total } = upload.bytes;
    this.node.dataset.state = upload.state;
    this.#badge.className = `badge ${BADGES[upload.state] ?? ""}`;
    this.#badge.textContent = upload.state;
    this.#about.textContent = about(upload);
    const share = total ? Math.min(done / total, 1) : 0;
    this.#progress.hidden = !active;
    this.#meter.setAttribute("aria-valuenow", String(Math.floor(100 * share)));
    this.#fill.style.width = `${100 * share}%`;
    this.#read.textContent = total ? `${percent(done, total)} · ${bytes(done)} of ${bytes(total)}` : "Waiting to begin";
    this.#pace.textContent = pace(upload);
    this.#fact("Codes", upload.count.in);
    this.#fact("New", upload.count.inserted);
    this.#fact("Known before", upload.count.updated);
    this.#fact("Invalid rows", upload.invalid?.count ?? 0);
    if (upload.takenBack) this.#fact("Taken back", upload.takenBack.count);
    if (upload.error) tellError(this.#error, asError(upload.error));
    else tell(this.#error);
    this.#invalid.update(upload.invalid);
    // A button that goes away must not take the focus with it.
    if (!active && document.activeElement === this.cancel) this.node.focus();
    this.cancel.hidden = !active;
    // Only when it has ended are all of them stored.
    this.download.hidden = active || !upload.invalid?.count;
    this.takeBack.hidden = active || upload.dryRun === true || !upload.count.inserted;
    this.actions.hidden = this.cancel.hidden && this.download.hidden && this.takeBack.hidden;
  }

  #fact(name, value) {
    let told = this.#facts.get(name);
    if (!told) {
      told = element("dd", { "data-fact": name });
      this.#facts.set(name, told);
      this.#list.append(element("div", {}, element("dt", {}, name), told));
    }
    told.textContent = number(value);
  }
}

/** The first invalid rows: the API shows a hundred of them here, and all of them as CSV. */
class InvalidRows {
  #rows = element("tbody");
  #summary = element("summary");
  #shown = -1;

  #more = element("p", { class: "hint", hidden: true });

  constructor() {
    const table = element(
      "table", {},
      element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "Line"), element("th", { scope: "col" }, "Why"))),
      this.#rows,
    );
    this.node = element(
      "details", { hidden: true }, this.#summary,
      element(
        "div", { class: "stack" },
        element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "The first invalid rows" }, table),
        this.#more,
      ),
    );
  }

  update(invalid) {
    const count = invalid?.count ?? 0;
    this.node.hidden = !count;
    if (!count) return;
    this.#summary.textContent = plural(count, "invalid row");
    const samples = invalid.samples ?? [];
    this.#more.hidden = samples.length === count;
    this.#more.textContent = `These are the first ${number(samples.length)} of them.`;
    if (samples.length === this.#shown) return;
    this.#shown = samples.length;
    this.#rows.replaceChildren(...samples.map(({ line, reason }) =>
      element("tr", {}, element("td", {}, number(line)), element("td", {}, reason))));
  }
}

function about(upload) {
  const { bytes: read, type, startedAt, finishedAt, dryRun } = upload;
  const parts = [`Type ${type}`];
  if (dryRun) parts.unshift("Dry run, nothing is stored");
  if (startedAt) parts.push(instant(startedAt));
  if (finishedAt) parts.push(bytes(read.done));
  if (startedAt && finishedAt) {
    const seconds = (new Date(finishedAt) - new Date(startedAt)) / 1000;
    if (seconds < 0.1) parts.push("< 0.1 s");
    else parts.push(seconds < 10 ? `${seconds.toFixed(1)} s` : duration(seconds));
  }
  return parts.join(" · ");
}

function pace({ codesPerSecond: rate, secondsLeft: left }) {
  const parts = [];
  if (rate) parts.push(`${number(rate)} codes/s`);
  if (typeof left === "number") parts.push(`${duration(left)} left`);
  return parts.join(" · ");
}

const asError = (error) => (typeof error === "string" ? { title: "The upload failed", detail: error } : error);
