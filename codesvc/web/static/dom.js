/* Making nodes, showing figures, telling what went wrong: what both pages need. Text is only ever set as text. */

export const byId = (id) => document.getElementById(id);

/** Make an element; attributes that are null, undefined or false are left out, true is the empty string. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Make a button that does something else than to send a form. */
export function button(text, action, attributes = {}) {
  const made = element("button", { type: "button", ...attributes }, text);
  made.addEventListener("click", action);
  return made;
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenth = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });

export const number = (value) => whole.format(value);
export const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

/** Write a share of a total: neither 0 % nor 100 % unless it is exactly that. */
export function percent(part, total) {
  if (!total || !part) return "0 %";
  const share = (100 * part) / total;
  if (share < 0.1) return "< 0.1 %";
  if (part < total && share > 99.9) return "> 99.9 %";
  return part === total ? "100 %" : `${tenth.format(share)} %`;
}

export function bytes(count) {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let value = count;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? number(value) : tenth.format(value)} ${units[unit]}`;
}

/** Write a length of time in seconds, in the two largest units that it has. */
export function duration(seconds) {
  const total = Math.max(0, Math.round(seconds));
  const [days, hours, minutes] = [Math.floor(total / 86400), Math.floor(total / 3600) % 24, Math.floor(total / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return minutes ? `${hours} h ${minutes} min` : `${hours} h`;
  if (minutes) return total % 60 ? `${minutes} min ${total % 60} s` : `${minutes} min`;
  return `${total} s`;
}

/** Write an instant as the person at the screen would: by their clock. */
export const instant = (text) =>
  new Date(text).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" });
export const clock = (date) => date.toLocaleTimeString("en-GB");

/** Put a note into a place that screen readers follow; without content, take it away. */
export function tell(place, kind, ...content) {
  place.replaceChildren(...(content.length ? [element("div", { class: `told ${kind}` }, ...content)] : []));
}

/** Show an error of the API, or of the way to it, in words, with what to quote in a report. */
export function tellError(place, error) {
  const lines = [element("p", {}, element("strong", {}, error.title ?? "This page failed"))];
  const detail = error.detail ?? error.message;
  if (detail && detail !== error.title) lines.push(element("p", {}, detail));
  if (error.retryAfter) lines.push(element("p", {}, `Try again in ${duration(error.retryAfter)}.`));
  if (error.correlationId) {
    // What never came whole has no error of the API's to name.
    const before = error.code ? `Error ${error.code}, correlation ID ` : "Correlation ID ";
    lines.push(element("p", { class: "hint" }, before, element("code", {}, error.correlationId)));
  }
  tell(place, "bad", ...lines);
}

/**
 * Run an action; what it throws is told at a place.
 *
 * The button stays focusable while it is busy: a keyboard would lose its place otherwise.
 */
export async function attempt(sender, place, action) {
  sender?.setAttribute("aria-disabled", "true");
  tell(place);
  try {
    await action();
  } catch (error) {
    tellError(place, error);
  } finally {
    sender?.removeAttribute("aria-disabled");
  }
}

/** Run an action whenever a form is sent, one at a time; what it throws is told at the form's place for it. */
export function onSubmit(form, place, action) {
  let busy = false;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (busy) return;
    const sender = event.submitter ?? form.querySelector("button[type=submit]");
    busy = true;
    await attempt(sender, place, () => action(sender));
    busy = false;
  });
}

/** Copy text; without the clipboard of a secure context (https, localhost), by way of a selection. */
export async function copyText(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const before = document.activeElement;
  const carrier = element("textarea", { class: "visually-hidden", "aria-hidden": "true", tabindex: "-1" });
  carrier.value = text;
  document.body.append(carrier);
  carrier.select();
  const done = document.execCommand("copy");
  carrier.remove();
  before?.focus();
  if (!done) throw new Error("The browser did not let this page copy. Select the text and copy it by hand.");
}

/** Make a button that copies what ``text()`` returns, and says so for a moment. */
export function copyButton(label, text, attributes = {}) {
  const said = element("span", {}, label);
  const made = button("", async () => {
    try {
      await copyText(text());
      said.textContent = "Copied";
    } catch {
      said.textContent = "Not copied";
    }
    setTimeout(() => { said.textContent = label; }, 2000);
  }, attributes);
  said.setAttribute("aria-live", "polite");
  made.append(said);
  return made;
}

/** Let the browser save a Blob as a file. */
export function save(name, blob) {
  const address = URL.createObjectURL(blob);
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

/** Write one record of a CSV file (RFC 4180). */
export const csvRecord = (fields) =>
  `${fields.map((field) => (/[",\r\n]|^\s|\s$/.test(field) ? `"${field.replaceAll('"', '""')}"` : field)).join(",")}\r\n`;
