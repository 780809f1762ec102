/* The uploads of a campaign: the form that starts one, and the list with its live progress. */

import { Api, NetworkError } from "./api.js";
import { confirmed } from "./confirm.js";
import { attempt, byId, onSubmit, plural, save, tell, tellError } from "./dom.js";
import { UploadView, fileName, isActive, kind } from "./upload.js";

// A browser opens six connections to a host (HTTP/1.1): streams must leave some of them to calls.
const MOST_STREAMS = 3;
const FIRST_SHOWN = 5;
const PAGE = 20;
const BUSY_MILLISECONDS = 3_000;
const QUIET_MILLISECONDS = 15_000;
const AGAIN_MILLISECONDS = 2_000;

export class Uploads {
  #api;
  #finished;
  #campaign = "";
  #views = new Map();
  #streams = new Map();
  #timer = 0;
  #most = FIRST_SHOWN;
  #older = null;

  /** ``finished()`` is called whenever an upload that was seen under way has come to its end. */
  constructor(api, finished) {
    this.#api = api;
    this.#finished = finished;
    onSubmit(byId("upload-form"), byId("upload-told"), () => this.#start());
    for (const id of ["upload-type", "upload-name"]) byId(id).addEventListener("input", () => this.#showKey());
    byId("upload-form").addEventListener("reset", () => setTimeout(() => this.#showKey()));
    byId("uploads-more").addEventListener("click", () => this.#showMore());
    document.addEventListener("visibilitychange", () => this.#schedule(0));
    document.addEventListener("signed-out", () => this.#clear(""));
  }

  /** Show the uploads of a campaign, from now on. */
  async open(campaign) {
    this.close();
    if (campaign !== this.#campaign) this.#clear(campaign);
    this.#showKey();
    await this.#refresh();
  }

  /** End everything that goes on in the background. */
  close() {
    clearTimeout(this.#timer);
    for (const stream of this.#streams.values()) stream.abort();
    this.#streams.clear();
  }

  #clear(campaign) {
    this.#campaign = campaign;
    this.#views.clear();
    this.#most = FIRST_SHOWN;
    this.#older = null;
    byId("uploads").replaceChildren();
    for (const id of ["upload-told", "uploads-told"]) tell(byId(id));
  }

  #fileKey() {
    // Pasted as a whole, a key is taken for what it is.
    const name = byId("upload-name").value.trim();
    return name.startsWith("codes/") ? name : `codes/${this.#campaign}/${byId("upload-type").value}/${name}`;
  }

  #showKey() {
    byId("upload-key").textContent = this.#fileKey();
  }

  async #start() {
    const campaign = this.#campaign;
    const { data } = await this.#api.call("POST", Api.path(campaign, "codes"), {
      headers: { Prefer: "respond-async" },
      body: {
        fileKey: this.#fileKey(),
        header: byId("upload-header").checked,
        strict: byId("upload-strict").checked,
        dryRun: byId("upload-dry-run").checked,
      },
    });
    if (campaign !== this.#campaign) return;
    this.#show(data, { first: true });
    announce(`The ${kind(data)} of ${fileName(data)} has started.`);
    this.#follow();
  }

  async #refresh() {
    const campaign = this.#campaign;
    try {
      const { data } = await this.#page();
      if (campaign !== this.#campaign) return;
      tell(byId("uploads-told"));
      if (!this.#views.size) this.#older = data.next ?? null;
      // The oldest first, each put before the others: what is new comes to the top.
      for (const upload of [...data.uploads].reverse()) this.#show(upload, { first: !this.#views.has(upload.uploadId) });
    } catch (error) {
      this.#complain(error);
    }
    this.#limit();
    this.#follow();
  }

  #page(query = {}) {
    return this.#api.call("GET", Api.path(this.#campaign, "uploads"), { query: { limit: PAGE, ...query } });
  }

  /** Tell once that the list is not up to date; an alert that is said every few seconds helps nobody. */
  #complain(error) {
    if (this.#api.signedIn && !byId("uploads-told").hasChildNodes()) tellError(byId("uploads-told"), error);
  }

  #show(upload, { first = false } = {}) {
    let view = this.#views.get(upload.uploadId);
    if (!view) {
      view = new UploadView(upload, {
        cancel: (each) => this.#cancel(each),
        download: (each) => this.#download(each),
        takeBack: (each) => this.#takeBack(each),
      });
      this.#views.set(upload.uploadId, view);
      if (first) byId("uploads").prepend(view.node);
      else byId("uploads").append(view.node);
      this.#limit();
      return;
    }
    const was = view.upload;
    // A reply that overtook a later event knows less.
    if (upload.updatedAt < was.updatedAt) return;
    view.update(upload);
    if (isActive(was) && !isActive(upload)) {
      announce(`The ${kind(upload)} of ${fileName(upload)} has ${ENDS[upload.state]}: ${plural(upload.count.in, "code")}, `
        + `${plural(upload.invalid?.count ?? 0, "invalid row")}.`);
      this.#finished();
    }
  }

  #limit() {
    const nodes = [...byId("uploads").children];
    nodes.forEach((node, index) => { node.hidden = index >= this.#most; });
    byId("uploads-none").hidden = nodes.length > 0 || byId("uploads-told").hasChildNodes();
    byId("uploads-more").hidden = nodes.length <= this.#most && !this.#older;
  }

  async #showMore() {
    const from = this.#most;
    this.#most += PAGE;
    try {
      if (this.#older && byId("uploads").children.length < this.#most) {
        const { data } = await this.#page({ after: this.#older });
        this.#older = data.next ?? null;
        for (const upload of data.uploads) this.#show(upload);
      }
    } catch (error) {
      this.#complain(error);
    }
    this.#limit();
    byId("uploads").children[from]?.focus();
  }

  /** Open streams of the uploads under way, the latest first, and say when to look at the list again. */
  #follow() {
    if (!this.#api.signedIn) return;
    const active = [...byId("uploads").children].map((node) => node.dataset.upload)
      .filter((id) => isActive(this.#views.get(id).upload));
    for (const id of active) {
      if (this.#streams.size < MOST_STREAMS && !this.#streams.has(id)) this.#stream(id);
    }
    this.#schedule(active.some((id) => !this.#streams.has(id)) ? BUSY_MILLISECONDS : QUIET_MILLISECONDS);
  }

  #schedule(milliseconds) {
    clearTimeout(this.#timer);
    if (!document.hidden && this.#api.signedIn) this.#timer = setTimeout(() => this.#refresh(), milliseconds);
  }

  async #stream(id) {
    const stream = new AbortController();
    this.#streams.set(id, stream);
    const path = Api.path(this.#campaign, "uploads", id, "events");
    try {
      for await (const upload of this.#api.events(path, stream.signal)) this.#show(upload);
    } catch (error) {
      if (error instanceof NetworkError) this.#complain(error);
    }
    if (stream.signal.aborted) return;
    this.#streams.delete(id);
    // Over because the upload is, or broken off: the list tells which.
    this.#schedule(AGAIN_MILLISECONDS);
  }

  async #cancel(view) {
    const { upload } = view;
    const path = Api.path(this.#campaign, "uploads", upload.uploadId);
    if (!(await confirmed(cancelQuestion(upload)))) return;
    tell(view.told);
    try {
      // It may end by itself meanwhile: then its codes stay.
      this.#show((await this.#api.call("DELETE", path, { query: { takeBack: "false" } })).data);
    } catch (error) {
      tellError(view.told, error);
    }
  }

  async #takeBack(view) {
    const { upload, told } = view;
    const path = Api.path(this.#campaign, "uploads", upload.uploadId);
    if (!(await confirmed(takeBackQuestion(upload)))) return;
    await attempt(view.takeBack, told, async () => {
      let now;
      // The service waits for a while itself, and goes on with it meanwhile.
      do {
        now = (await this.#api.call("DELETE", path, { query: { takeBack: "true" } })).data;
        this.#show(now);
      } while (now.takenBack && !now.takenBack.done);
      announce(`Of ${fileName(now)}, ${plural(now.takenBack?.count ?? 0, "code")} taken back.`);
      this.#finished();
    });
  }

  async #download(view) {
    if (view.download.hasAttribute("aria-disabled")) return;
    const { upload, told } = view;
    const path = Api.path(this.#campaign, "uploads", upload.uploadId, "invalid");
    await attempt(view.download, told, async () => save(invalidName(upload), await this.#api.file(path)));
  }
}

const ENDS = { succeeded: "succeeded", failed: "failed", cancelled: "been cancelled" };

const cancelQuestion = (upload) => ({
  title: "Cancel this upload?",
  text: `${fileName(upload)}: the codes that are stored by then stay. Sending the upload again later is safe.`,
  yes: "Cancel the upload",
});

const takeBackQuestion = (upload) => ({
  title: "Take this upload back?",
  text: `${fileName(upload)}: the codes that it added and that are available now are deleted. Codes that are reserved, `
    + "assigned, or were there before it stay.",
  yes: "Take the upload back",
});

/** Name the list of a file's invalid rows after that file. */
const invalidName = (upload) => `${fileName(upload).replace(/\.csv$/i, "").replaceAll("/", "-")}-invalid-rows.csv`;

function announce(text) {
  byId("announcements").textContent = text;
}
