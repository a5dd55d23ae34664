// Making elements, and writing numbers, times and codes for people. Texts become text nodes, never markup.

/**
 * @typedef {string | number | Node | null | undefined | false} Child
 * @typedef {Record<string, string | number | boolean | null | undefined | ((event: any) => void)>} Attributes
 */

/**
 * Make an element. Attributes named on… are listeners, those that are false or missing are left out, and those that
 * begin with -- are custom properties of CSS.
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag @param {Attributes} [attributes] @param {...Child} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);

/** A part of a line, of a class. @param {string} name @param {...Child} children */
export const span = (name, ...children) => el("span", {class: name}, ...children);

/** @param {...Child} children */
export const note = (...children) => el("p", {class: "note"}, ...children);

/** @param {string} text @param {() => unknown} act @param {Attributes} [attributes] */
export const button = (text, act, attributes) => el("button", {type: "button", onclick: act, ...attributes}, text);

/** What opens in a window of its own. @param {string} text @param {string} href @param {string} [kind] class */
export const outside = (text, href, kind) => el("a", {class: kind, href, target: "_blank", rel: "noopener"}, text);

/** Make an element of SVG. @param {string} tag @param {Attributes} [attributes] @param {...Child} children */
export const svg = (tag, attributes, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

/**
 * @template {HTMLElement | SVGElement} Made
 * @param {Made} element @param {Attributes | undefined} attributes @param {Child[]} children
 */
function fill(element, attributes = {}, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value == null) continue;
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) element.style.setProperty(name, String(value));
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children) if (child || child === 0) element.append(child instanceof Node ? child : String(child));
  return element;
}

/** The element of that id, which the page has. @param {string} id @returns {any} */
export function byId(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`the page has no element #${id}`);
  return element;
}

/** A probability with two digits. @param {number} value */
export const share = value => value.toFixed(2);

/** A label or code as people write it: subdural, burned in. @param {string} code */
export const words = code => code.replaceAll("_", " ");

/** The same at the start of a line. @param {string} code */
export const heading = code => words(code).replace(/^./u, first => first.toUpperCase());

/** Codes that need more than their words. @type {Record<string, string>} */
const REASONS = {
  not_ct: "this service's models read CT; these files are not CT",
  not_xr: "this service's models read X-rays; these files are not X-rays",
  not_dicom: "not DICOM, PNG or JPEG"
};

/** A text with its codes in words: "not_dicom", "2 missing_tag". @param {string} text */
export const spelled = text => text.replace(/[a-z]+(_[a-z]+)+/g, code => REASONS[code] ?? words(code));

/** @param {number} n @param {string} one @param {string} [many] */
export const count = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

/** Counts of reasons: "localizer 1, truncated file 2". @param {Record<string, number>} reasons */
export const reasonList = reasons =>
  Object.entries(reasons)
    .map(([reason, n]) => `${words(reason)} ${n}`)
    .join(", ");

/** Bytes in MB of 10^6. @param {number} bytes */
export const megabytes = bytes => `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;

/** A moment of ISO 8601, in the reader's zone. @param {string} iso */
export function moment(iso) {
  const text = new Date(iso).toLocaleString("sv-SE", {dateStyle: "short", timeStyle: "short"});
  return el("time", {datetime: iso}, text);
}

/** A study date of DICOM, YYYYMMDD, with hyphens; other texts as they are. @param {string | null | undefined} date */
export const studyDate = date => (date ?? "").replace(/^(\d{4})(\d\d)(\d\d)$/, "$1-$2-$3");

/** Say something to screen readers. @param {string} text */
export function announce(text) {
  byId("live").textContent = text;
}

/**
 * Show an error or a note as one line until it is closed, or until something else is said.
 * @param {unknown} what an Error or a text, empty to take it away
 */
export function notify(what) {
  const text = what instanceof Error ? what.message : String(what);
  const bar = byId("notice");
  bar.hidden = !text;
  byId("notice-text").textContent = text;
}

/**
 * Ask before something that cannot be undone.
 * @param {string} question @param {string} action what the button says @returns {Promise<boolean>}
 */
export function confirmed(question, action) {
  const dialog = byId("confirm");
  byId("confirm-question").textContent = question;
  byId("confirm-yes").textContent = action;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise(resolve =>
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), {once: true})
  );
}
