"use strict";

const METHODS = ["get", "post", "put", "patch", "delete"];
let api;

start();

async function start() {
  const main = document.getElementById("operations");
  try {
    api = await (await fetch("openapi.json")).json();
  } catch (error) {
    main.replaceChildren(element("p", {}, `The document could not be loaded: ${error.message}`));
    return;
  }
  document.title = `${api.info.title} ${api.info.version}`;
  document.getElementById("title").textContent = document.title;
  document.getElementById("description").textContent = api.info.description;
  main.replaceChildren(...api.tags.flatMap(section));
  document.getElementById("session").addEventListener("submit", (event) => event.preventDefault());
  if (api.paths["/dev/token"]) {
    const button = document.getElementById("dev-token");
    button.hidden = false;
    button.addEventListener("click", fetchToken);
    fetchToken();
  }
}

async function fetchToken() {
  const response = await fetch("dev/token");
  if (response.ok) document.getElementById("token").value = (await response.json()).token;
}

function section(tag) {
  const operations = [];
  for (const [path, item] of Object.entries(api.paths)) {
    for (const method of METHODS) {
      if (item[method]?.tags?.includes(tag.name)) operations.push(operationView(method, path, item));
    }
  }
  return [element("h2", {}, tag.name), element("p", { class: "hint" }, tag.description), ...operations];
}

function operationView(method, path, item) {
  const operation = item[method];
  const fields = [...(item.parameters ?? []), ...(operation.parameters ?? [])]
    .map(resolve)
    .filter((parameter) => parameter.name !== "campaignId")
    .map((parameter) => field(operation, parameter));
  const body = bodyField(operation);
  const reply = element("div", { class: "reply", "aria-live": "polite" });
  const form = element(
    "form", {},
    element("div", { class: "fields" }, ...fields.flatMap((each) => each.nodes)),
    ...(body ? body.nodes : []),
    element("p", {}, element("button", { class: "send", type: "submit" }, "Send")),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send(method, path, operation, fields, body, reply);
  });
  return element(
    "details", { class: "operation" },
    element(
      "summary", {},
      element("span", { class: `method ${method}` }, method.toUpperCase()), " ",
      element("span", { class: "path" }, path), " ",
      element("span", { class: "summary" }, `– ${operation.summary}`),
    ),
    element(
      "div", {},
      element("p", {}, operation.description ?? ""),
      form,
      reply,
      element("h3", {}, "Responses"),
      responsesTable(operation.responses),
    ),
  );
}

function field(operation, parameter) {
  const schema = resolve(parameter.schema ?? {});
  const id = `${operation.operationId}-${parameter.name}`;
  let input;
  if (schema.enum) {
    const choices = parameter.required ? schema.enum : ["", ...schema.enum];
    input = element("select", { id }, ...choices.map((value) => element("option", { value }, value)));
  } else {
    const type = schema.type === "integer" ? "number" : "text";
    input = element("input", { id, type, autocomplete: "off", spellcheck: "false" });
    if (parameter.required && schema.examples) input.value = schema.examples[0];
    if (schema.minimum !== undefined) input.min = schema.minimum;
    if (schema.maximum !== undefined) input.max = schema.maximum;
  }
  const name = parameter.required ? `${parameter.name} *` : parameter.name;
  return {
    parameter,
    input,
    nodes: [
      element("label", { for: id }, name),
      input,
      element("p", { class: "hint" }, `${parameter.description ?? ""} (${parameter.in})`),
    ],
  };
}

function bodyField(operation) {
  const media = operation.requestBody?.content["application/json"];
  if (!media) return null;
  const id = `${operation.operationId}-body`;
  const input = element("textarea", { id, spellcheck: "false" });
  input.value = JSON.stringify(example(resolve(media.schema)), null, 2);
  const label = operation.requestBody.required ? "Body *" : "Body (may be left empty)";
  return { input, nodes: [element("h3", {}, element("label", { for: id }, label)), input] };
}

async function send(method, path, operation, fields, body, reply) {
  const campaign = document.getElementById("campaign").value;
  const query = new URLSearchParams();
  const headers = {};
  for (const { parameter, input } of fields) {
    if (input.value === "") continue;
    if (parameter.in === "query") query.set(parameter.name, input.value);
    if (parameter.in === "header") headers[parameter.name] = input.value;
  }
  const token = document.getElementById("token").value.trim();
  const secured = (operation.security ?? api.security).length > 0;
  if (secured && token) headers.Authorization = `Bearer ${token}`;
  const options = { method: method.toUpperCase(), headers, cache: "no-store" };
  if (body && body.input.value.trim() !== "") {
    headers["Content-Type"] = "application/json";
    options.body = body.input.value;
  }
  const filled = path.slice(1).replace("{campaignId}", encodeURIComponent(campaign));
  const address = query.size ? `${filled}?${query}` : filled;
  reply.replaceChildren(element("p", { class: "hint" }, "Waiting…"));
  const started = performance.now();
  try {
    const response = await fetch(address, options);
    const text = await response.text();
    const milliseconds = Math.round(performance.now() - started);
    reply.replaceChildren(...replyView(response, text, milliseconds));
  } catch (error) {
    reply.replaceChildren(element("p", { class: "status bad" }, `No response: ${error.message}`));
  }
}

function replyView(response, text, milliseconds) {
  const kind = response.ok ? "good" : "bad";
  const lines = [...response.headers].map(([name, value]) => `${name}: ${value}`).join("\n");
  return [
    element(
      "p", {},
      element("span", { class: `status ${kind}` }, `${response.status} ${response.statusText}`),
      ` in ${milliseconds} ms`,
    ),
    element("h3", {}, "Headers"),
    element("pre", { tabindex: "0" }, lines),
    element("h3", {}, "Body"),
    element("pre", { tabindex: "0" }, pretty(response, text)),
  ];
}

function pretty(response, text) {
  if (!(response.headers.get("Content-Type") ?? "").includes("json")) return text;
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function responsesTable(responses) {
  const rows = Object.entries(responses).map(([status, response]) =>
    element("tr", {}, element("td", {}, status), element("td", {}, response.description)));
  return element("table", {}, element("tbody", {}, ...rows));
}

function example(schema) {
  const found = {};
  for (const [name, member] of Object.entries(schema.properties ?? {})) {
    const resolved = resolve(member);
    if (resolved.examples) found[name] = resolved.examples[0];
    else if (resolved.default !== undefined) found[name] = resolved.default;
    else if (resolved.enum) found[name] = resolved.enum[0];
  }
  return found;
}

function resolve(node) {
  if (!node.$ref) return node;
  return node.$ref.slice(2).split("/").reduce((found, step) => found[step], api);
}

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}
