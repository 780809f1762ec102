/* One request of the API: what it takes, a form that sends it, and the reply as it came. */

import { bytes, copyButton, element, onSubmit, save, tell } from "./dom.js";
import { NetworkError } from "./api.js";
import { example, kindOf, membersTable, prose, resolve } from "./schema.js";

const MOST_SHOWN = 200_000;

export class Operation {
  #api;
  #method;
  #path;
  #told;
  #session;
  #fields;
  #body = null;
  #accept = null;
  #reply = element("div", { class: "reply", role: "status" });
  #stop = new AbortController();

  /** ``session()`` returns the token and the campaign that requests are sent with. */
  constructor(api, { method, path, item, session }) {
    this.#api = api;
    this.#method = method;
    this.#path = path;
    this.#told = item[method];
    this.#session = session;
    // None of the page's own ids begins like this.
    this.id = `op-${this.#told.operationId}`;
    const parameters = [...(item.parameters ?? []), ...(this.#told.parameters ?? [])].map((each) => resolve(api, each));
    this.#fields = parameters.filter((each) => each.name !== "campaignId").map((each) => this.#field(each));
    this.node = this.#view();
  }

  get summary() {
    return this.#told.summary;
  }

  #view() {
    const inside = element("div", { class: "inside stack" });
    const node = element(
      "details", { class: "operation", id: this.id },
      element(
        "summary", {},
        element("span", { class: `method ${this.#method}` }, this.#method.toUpperCase()),
        element(
          "h3", {},
          element("span", { class: "path" }, this.#path),
          element("span", { class: "told-in-short" }, this.summary),
        ),
      ),
      inside,
    );
    inside.append(
      ...(this.#told.description ? [element("p", {}, ...prose(this.#told.description))] : []),
      this.#form(), this.#reply, this.#responses(),
    );
    return node;
  }

  #form() {
    const rare = ({ parameter }) => parameter.in === "header" && !parameter.required;
    const common = this.#fields.filter((field) => !rare(field));
    const headers = this.#fields.filter(rare);
    const told = element("div", { role: "alert" });
    const form = element("form", { class: "stack", "aria-label": `Send ${this.summary}` });
    const fields = [...common.map((field) => field.node), ...this.#acceptField()];
    if (fields.length) form.append(element("div", { class: "fields" }, ...fields));
    form.append(...this.#bodyField());
    if (headers.length) {
      form.append(element(
        "details", {}, element("summary", {}, "Headers"),
        element("div", { class: "fields" }, ...headers.map((field) => field.node)),
      ));
    }
    const line = copyButton("Copy as curl", () => this.#curl(), { "data-action": "curl" });
    form.append(
      element("div", { class: "row" }, element("button", { class: "primary", type: "submit" }, "Send"), line), told);
    onSubmit(form, told, () => this.#send());
    return form;
  }

  #field(parameter) {
    const schema = resolve(this.#api, parameter.schema);
    const id = `${this.id}-${parameter.name}`;
    const hint = `${id}-hint`;
    let input;
    if (schema.enum) {
      const choices = parameter.required ? schema.enum : ["", ...schema.enum];
      input = element("select", { id }, ...choices.map((value) => element("option", { value }, value)));
    } else {
      const type = schema.type === "integer" ? "number" : "text";
      const { minimum: min, maximum: max } = schema;
      input = element("input", { id, type, min, max, class: "mono", autocomplete: "off", spellcheck: "false" });
      const given = parameter.example ?? schema.examples?.[0];
      if (parameter.required && given !== undefined) input.setAttribute("value", given);
      if (parameter.required) input.required = true;
    }
    input.setAttribute("aria-describedby", hint);
    const where = `in the ${parameter.in}, ${kindOf(this.#api, parameter.schema)}`;
    const node = element(
      "div", { class: "field" },
      element("label", { for: id }, parameter.name, parameter.required ? "" : element("span", { class: "hint" }, " (optional)")),
      input,
      element("p", { class: "hint", id: hint }, ...prose(parameter.description), ` (${where})`),
    );
    return { parameter, input, node };
  }

  /** Where the reply comes in several media types, let the caller choose. */
  #acceptField() {
    const types = Object.keys(this.#told.responses["200"]?.content ?? {});
    if (types.length < 2) return [];
    const id = `${this.id}-accept`;
    this.#accept = element("select", { id }, ...types.map((type) => element("option", {}, type)));
    return [element("div", { class: "field" }, element("label", { for: id }, "Accept"), this.#accept)];
  }

  #bodyField() {
    const media = this.#told.requestBody?.content["application/json"];
    if (!media) return [];
    const id = `${this.id}-body`;
    this.#body = element("textarea", { id, rows: "6", spellcheck: "false", autocapitalize: "off" });
    this.#body.value = JSON.stringify(example(this.#api, media.schema) ?? {}, null, 2);
    const told = this.#told.requestBody.required ? "Body" : "Body (optional)";
    const table = membersTable(this.#api, media.schema);
    return [
      element("div", { class: "field" }, element("label", { for: id }, told), this.#body),
      ...(table ? [element("details", {}, element("summary", {}, "Members of the body"), table)] : []),
    ];
  }

  #responses() {
    const row = ([status, reference]) => {
      const response = resolve(this.#api, reference);
      const schema = Object.values(response.content ?? {})[0]?.schema;
      const table = status.startsWith("2") && schema ? membersTable(this.#api, schema) : null;
      return element(
        "li", {}, element("span", {}, status),
        element(
          "div", {}, ...prose(response.description),
          table && element("details", {}, element("summary", {}, "Members of the reply"), table),
        ),
      );
    };
    const all = Object.entries(this.#told.responses);
    const list = (some) => element("ul", { class: "responses" }, ...some.map(row));
    return element(
      "div", { class: "stack" },
      element("h4", {}, "Responses"),
      list(all.filter(([status]) => status < "400")),
      element("details", {}, element("summary", {}, "Problems"), list(all.filter(([status]) => status >= "400"))),
    );
  }

  /** Put the request together from what stands in the fields. */
  #request() {
    const { token, campaign } = this.#session();
    const query = new URLSearchParams();
    const headers = {};
    let address = this.#path.slice(1).replace("{campaignId}", encodeURIComponent(campaign));
    for (const { parameter, input } of this.#fields) {
      const value = input.value;
      if (parameter.in === "path") address = address.replace(`{${parameter.name}}`, encodeURIComponent(value));
      else if (value === "") continue;
      else if (parameter.in === "query") query.set(parameter.name, value);
      else if (parameter.in === "header") headers[parameter.name] = value;
    }
    if (query.size) address += `?${query}`;
    if (this.#accept) headers.Accept = this.#accept.value;
    const secured = (this.#told.security ?? this.#api.security).length > 0;
    if (secured && token) headers.Authorization = `Bearer ${token}`;
    let body;
    if (this.#body && this.#body.value.trim() !== "") {
      headers["Content-Type"] = "application/json";
      body = this.#body.value;
    }
    return { address, method: this.#method.toUpperCase(), headers, body };
  }

  /** Write the request for a shell; the token is a variable there, as it has no business in a history. */
  #curl() {
    const { address, method, headers, body } = this.#request();
    const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
    const parts = ["curl -sS", method === "GET" ? "" : `-X ${method}`];
    for (const [name, value] of Object.entries(headers)) {
      parts.push(name === "Authorization" ? '-H "Authorization: Bearer $TOKEN"' : `-H ${quoted(`${name}: ${value}`)}`);
    }
    if (body !== undefined) parts.push(`-d ${quoted(body)}`);
    return [...parts, quoted(new URL(address, document.baseURI).href)].filter(Boolean).join(" ");
  }

  async #send() {
    this.#stop.abort();
    this.#stop = new AbortController();
    const { signal } = this.#stop;
    const { address, ...options } = this.#request();
    const started = performance.now();
    tell(this.#reply, "warn", "Waiting …");
    let response;
    try {
      response = await fetch(address, { ...options, cache: "no-store", signal });
    } catch (error) {
      this.#reply.replaceChildren();
      throw error.name === "TypeError" && !/fetch/i.test(error.message) ? error : new NetworkError(false);
    }
    await this.#show(response, started, signal);
  }

  async #show(response, started, signal) {
    const type = response.headers.get("Content-Type") ?? "";
    const note = element("span", { class: "hint" }, "reading …");
    const stop = element("button", { class: "small", type: "button" }, "Stop");
    stop.addEventListener("click", () => this.#stop.abort());
    const shown = element("pre", { tabindex: "0", role: "region", "aria-label": "Body of the reply", "aria-live": "off" });
    const actions = element("div", { class: "row" }, stop);
    const lines = [...response.headers].map(([name, value]) => `${name}: ${value}`).join("\n");
    this.#reply.replaceChildren(
      element("h4", {}, "Reply"),
      element(
        "div", { class: "reply-head" },
        element("span", { class: `badge ${response.ok ? "good" : "bad"}` }, `${response.status} ${response.statusText}`.trim()),
        note,
      ),
      shown, actions,
      element("details", {}, element("summary", {}, "Headers of the reply"), element("pre", { tabindex: "0" }, lines)),
    );
    const parts = [];
    let size = 0;
    let text = "";
    let end = "";
    const decoder = new TextDecoder();
    try {
      for await (const part of chunks(response.body)) {
        parts.push(part);
        size += part.byteLength;
        if (text.length < MOST_SHOWN) {
          text += decoder.decode(part, { stream: true });
          if (!type.includes("json")) shown.textContent = text;
        }
      }
    } catch {
      end = signal.aborted ? ", stopped" : ", then the connection broke";
    }
    stop.remove();
    shown.textContent = text.length < MOST_SHOWN ? pretty(type, text) : `${text.slice(0, MOST_SHOWN)}\n…`;
    shown.hidden = size === 0;
    note.textContent = `${Math.round(performance.now() - started)} ms, ${bytes(size)}${end}`;
    if (size) {
      const blob = () => new Blob(parts, { type });
      const download = element("button", { class: "small", type: "button" }, "Download");
      download.addEventListener("click", () => save(`${this.#told.operationId}-reply`, blob()));
      actions.append(copyButton("Copy", () => shown.textContent, { class: "small" }), download);
    }
  }
}

async function* chunks(body) {
  if (!body) return;
  const reader = body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield value;
  }
}

function pretty(type, text) {
  if (!type.includes("json")) return text;
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
