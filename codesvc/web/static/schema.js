/* JSON schemas of the OpenAPI document: shown as tables of members, and as examples. */

import { element } from "./dom.js";

const DEEPEST = 4;

/** Follow a reference into the document (RFC 6901, for keys that need no escape but those two). */
export function resolve(api, node) {
  if (!node?.$ref) return node ?? {};
  const steps = node.$ref.slice(2).split("/").map((step) => step.replaceAll("~1", "/").replaceAll("~0", "~"));
  return resolve(api, steps.reduce((found, step) => found[step], api));
}

/** Return a value that fits a schema, from the examples and defaults in it; undefined where there is none. */
export function example(api, node) {
  const schema = flat(api, node);
  if (schema.example !== undefined) return schema.example;
  if (schema.examples?.length) return schema.examples[0];
  if (schema.const !== undefined) return schema.const;
  if (schema.default !== undefined) return schema.default;
  if (schema.enum) return schema.enum[0];
  if (!schema.properties) return undefined;
  const members = Object.entries(schema.properties).map(([name, member]) => [name, example(api, member)]);
  return Object.fromEntries(members.filter(([, value]) => value !== undefined));
}

/** Show the members of a schema, those of inner objects under dotted names; null if it has none. */
export function membersTable(api, node) {
  const rows = [...members(api, node, "", 0)];
  if (!rows.length) return null;
  const heads = ["Member", "Type", "Meaning"].map((text) => element("th", { scope: "col" }, text));
  return element(
    "div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Members" },
    element(
      "table", {},
      element("thead", {}, element("tr", {}, ...heads)),
      element("tbody", {}, ...rows.map((row) => element(
        "tr", {},
        element("td", { class: "name" }, row.name),
        element("td", { class: "kind" }, row.kind),
        element("td", {}, ...prose(row.told)),
      ))),
    ),
  );
}

/** Turn text with `code` in it into nodes. */
export function prose(text) {
  return (text ?? "").split("`").map((part, index) => (index % 2 ? element("code", {}, part) : part));
}

/** Name a schema's type in a word or two. */
export function kindOf(api, node) {
  const schema = flat(api, node);
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.type === "array") return `array of ${kindOf(api, schema.items ?? {})}`;
  const type = Array.isArray(schema.type) ? schema.type.join(" | ") : schema.type ?? "any";
  return schema.format ? `${type} (${schema.format})` : type;
}

function* members(api, node, prefix, depth) {
  const schema = flat(api, node);
  for (const [name, member] of Object.entries(schema.properties ?? {})) {
    const inner = flat(api, member);
    const needed = schema.required?.includes(name) ? "" : ", optional";
    const full = prefix + name;
    yield { name: full, kind: kindOf(api, member) + needed, told: inner.description };
    if (depth >= DEEPEST) continue;
    if (inner.properties) yield* members(api, member, `${full}.`, depth + 1);
    else if (inner.type === "array") yield* members(api, inner.items ?? {}, `${full}[].`, depth + 1);
  }
}

/** Merge what a schema refers to or is made of into one; of alternatives, take the first that is not null. */
function flat(api, node) {
  const { $ref, ...own } = node ?? {};
  const { allOf = [], anyOf, oneOf, ...rest } = $ref ? { ...resolve(api, node), ...own } : own;
  const choice = (anyOf ?? oneOf ?? []).find((each) => each.type !== "null");
  return [...allOf, ...(choice ? [choice] : [])].map((part) => flat(api, part)).reduceRight(
    (merged, part) => ({ ...part, ...merged, properties: mergedProperties(part, merged) }), rest);
}

function mergedProperties(first, second) {
  if (!first.properties && !second.properties) return undefined;
  const properties = { ...first.properties };
  for (const [name, member] of Object.entries(second.properties ?? {})) {
    properties[name] = { ...properties[name], ...member };
  }
  return properties;
}
