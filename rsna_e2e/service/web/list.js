// The worklist: studies as they come and are read, worst first or newest first, kept up to date by long polls.

import {followList, getJson, query} from "./api.js";
import {count, el, heading, moment, share, span, spelled, words} from "./dom.js";
import {STATES, titleOf} from "./panel.js";
/** @import {Item, Model, Page} from "../web_types" */
/** @import {Uploader} from "./upload.js" */

const PAGE = 50; // studies
const N_CHIPS = 4; // labels shown beside the headline
const TYPING_MS = 300; // after the last key

/** What is in the address: `#/?sort=time&state=done`. */
const FILTERS = ["sort", "state", "label", "min", "patient", "cursor"];

/**
 * @typedef {Record<string, string>} Filters
 * @typedef {{rows: HTMLElement, status: HTMLElement, pages: HTMLElement}} Parts
 */

/**
 * @param {HTMLElement} main @param {URLSearchParams} params
 * @param {{signal: AbortSignal, uploader: Uploader | null}} surroundings uploader: null for those who may not send
 */
export async function showList(main, params, {signal, uploader}) {
  /** @type {Model[]} */
  const models = await getJson("/models", signal);
  /** @type {Filters} */
  const filters = Object.fromEntries(FILTERS.map(name => [name, params.get(name) ?? ""]));
  filters.sort ||= "score";
  const parts = {
    rows: el("ul", {class: "worklist"}),
    status: el("p", {class: "note", role: "status"}),
    pages: el("nav", {class: "pages", "aria-label": "Pages of the list"})
  };
  let polling = new AbortController();
  const follow = () => {
    polling.abort();
    polling = new AbortController();
    const ends = AbortSignal.any([signal, polling.signal]);
    void followList(ends, {...filters, limit: PAGE}, page => showPage(page, filters, parts));
  };
  const form = filterForm(filters, models, changed => {
    Object.assign(filters, {cursor: ""}, changed);
    history.replaceState(null, "", address(filters));
    follow();
  });
  const columns = ["Score", "Study", "Labels", "State", "Received"].map(text => el("span", {}, text));
  main.replaceChildren(
    el(
      "div",
      {class: "list"},
      el("div", {class: "list-head"}, el("h1", {tabindex: -1}, "Studies"), parts.status, uploader && fileInputs(uploader)),
      form,
      el("div", {class: "columns", "aria-hidden": "true"}, ...columns),
      parts.rows,
      parts.pages
    )
  );
  follow();
}

/** @param {Page} page @param {Filters} filters @param {Parts} parts */
function showPage({items, next}, filters, {rows, status, pages}) {
  const focused = document.activeElement?.closest("[data-study]")?.getAttribute("data-study");
  rows.replaceChildren(...items.map(row));
  const again = focused && rows.querySelector(`[data-study="${CSS.escape(focused)}"] a`);
  if (again instanceof HTMLElement) again.focus();
  const isFiltered = FILTERS.some(name => name !== "sort" && name !== "cursor" && filters[name]);
  status.textContent = items.length
    ? `${count(items.length, "study", "studies")}${next || filters.cursor ? " on this page" : ""}`
    : isFiltered
      ? "No study matches. Change the filters."
      : "No studies yet.";
  const link = (/** @type {string} */ text, /** @type {string} */ cursor) =>
    el("a", {class: "button", href: address({...filters, cursor})}, text);
  pages.replaceChildren(filters.cursor && link("First page", ""), next ? link("Next page", String(next)) : "");
}

/** @param {Filters} filters */
const address = ({sort, ...others}) => `#/${query({...others, sort: sort === "score" ? "" : sort})}`;

/** @param {Item} item */
function row(item) {
  const {study, state, above, reason, sentence, scores, headline, received, n_slices: nSlices} = item;
  const score = scores[headline ?? ""];
  const isAbove = (/** @type {string} */ name) => above.includes(name);
  const named = (/** @type {string} */ name) => (isAbove(name) ? "▲ " : "") + words(name);
  const rank = (/** @type {[string, number]} */ [name, p]) => p + Number(isAbove(name)); // those above first
  const others = Object.entries(scores)
    .filter(([name]) => name !== headline)
    .sort((a, b) => rank(b) - rank(a));
  const nChips = Math.max(N_CHIPS, above.length);
  const chips = others.slice(0, nChips).map(([name, p]) => {
    const kind = isAbove(name) && {class: "chip above", title: "Above its threshold"};
    return el("span", {class: "chip", "--p": p, ...kind}, named(name), " ", el("b", {}, share(p)));
  });
  const meter = score !== undefined && el("span", {class: "meter", "--p": score});
  return el(
    "li",
    {"data-study": study},
    span(
      "score",
      el("b", {}, meter ? share(score) : "–"),
      meter,
      el("small", {}, meter && headline && named(headline))
    ),
    span("who", el("a", {href: `#/study/${study}`}, ...titleOf(item)), el("small", {class: "sentence"}, sentence ?? (reason && spelled(reason)))),
    span("chips", ...chips, others.length > nChips && span("more", `+${others.length - nChips}`)),
    span(
      "what",
      el("span", {class: `badge ${state}`, title: STATES[state]}, heading(state)),
      el("small", {}, item.superseded && "older result shown")
    ),
    span(
      "when",
      moment(received),
      el("small", {}, nSlices === null ? count(item.n_files, "file") : count(nSlices, "slice"))
    )
  );
}

/** Buttons that choose what to send: files, or a folder. @param {Uploader} uploader */
function fileInputs(uploader) {
  const input = (/** @type {string} */ text, /** @type {string} */ name, /** @type {boolean} */ isFolder) => {
    const control = el("input", {
      type: "file",
      class: "hidden",
      multiple: true,
      webkitdirectory: isFolder,
      "aria-label": name,
      onchange: () => {
        void uploader.add([...(control.files ?? [])].map(file => ({file, name: file.webkitRelativePath || file.name})));
        control.value = ""; // so that the same files can be chosen again
      }
    });
    return el("label", {class: "button"}, text, control);
  };
  return el(
    "div",
    {class: "senders"},
    span("note", "Drop anything anywhere, or"),
    input("Send files…", "Send DICOM files, PNG, JPEG or zips", false),
    input("Send a folder…", "Send a folder of DICOM files", true)
  );
}

/**
 * @param {Filters} filters @param {Model[]} models
 * @param {(changed: Filters) => void} change with all fields of the form
 */
function filterForm(filters, models, change) {
  const labels = [...new Set(models.flatMap(model => model.labels))];
  const field = (/** @type {string} */ text, /** @type {HTMLElement} */ control) =>
    el("label", {}, el("span", {}, text), control);
  const select = (/** @type {string} */ name, /** @type {string[][]} */ options) =>
    el(
      "select",
      {name},
      ...options.map(([value, text]) => el("option", {value, selected: value === filters[name]}, text))
    );
  const orders = Object.entries({score: "Worst first", time: "Newest first"});
  const codes = (/** @type {string[]} */ values) => [["", "All"], ...values.map(value => [value, heading(value)])];
  const min = el("input", {name: "min", type: "number", min: 0, max: 1, step: 0.05, value: filters.min});
  const asTyped = {type: "search", autocomplete: "off", spellcheck: "false"};
  const patient = el("input", {name: "patient", value: filters.patient, ...asTyped});
  const form = el(
    "form",
    {class: "filters", role: "search", "aria-label": "Filter the list"},
    field("Order", select("sort", orders)),
    field("State", select("state", codes(Object.keys(STATES)))),
    field("Label", select("label", codes(labels))),
    field("At least", min),
    field("Patient", patient)
  );
  const changed = () => change(Object.fromEntries(/** @type {any} */ (new FormData(form))));
  /** @type {number | undefined} */
  let timer;
  form.addEventListener("submit", event => event.preventDefault());
  form.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(changed, TYPING_MS);
  });
  return form;
}
