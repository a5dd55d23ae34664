// The page of one study: the panel with what the model says of it, and one of its series in the viewer.

import { getJson, pause, query, repeat, seriesPath } from "./api.js";
import { el, notify } from "./dom.js";
import { aboutSeries, actions, findings, history, placeQuery, seriesList, stateOf, titleOf } from "./panel.js";
import { probabilityTable } from "./strip.js";
import { Viewer } from "./viewer.js";

/** @import {Result, Series, Session, Study} from "../web_types" */
/** @import {Row} from "./strip.js" */

const UNFINISHED = ["arriving", "queued", "running", "failed"]; // states
const WAIT_S = 25; // of one request for a change

/**
 * @typedef {{study: string, series?: string, params: URLSearchParams}} Route
 * @typedef {{signal: AbortSignal, session: Session, again: () => void}} Surroundings
 * @typedef {{route: Route, result: Result, version: string, signal: AbortSignal}} Shown version: query of the result
 */

/**
 * Show a study; when it changes, show it again.
 * @param {HTMLElement} main @param {Route} route @param {Surroundings} surroundings
 */
export async function showStudy(main, route, { signal, session, again }) {
  /** @type {Study} */
  const study = await getJson(`/studies/${route.study}`, signal);
  const model = route.params.get("model");
  const version = query({ model, content: route.params.get("content") });
  /** @type {Result | null} */
  const result = study.generations.length ? await getJson(`/studies/${study.study}/result${version}`, signal) : null;
  if (model && result && result.model.identity !== model)
    notify("That result is not here any more; this is another one.");
  const title = el("h1", { tabindex: -1 }, ...titleOf(study));
  const panel = el("aside", { class: "panel", "aria-label": "Result" }, title, stateOf(study, version));
  if (result) panel.append(findings(result, version));
  const page = el("div", { class: "study" }, panel);
  main.replaceChildren(page);
  const viewer = result && (await mountSeries(panel, { route, result, version, signal }));
  if (viewer) page.prepend(viewer.element);
  panel.append(history(study, version), actions(study, session, again));
  if (viewer) panel.lastElementChild?.append(viewer.controls.picture);
  if (UNFINISHED.includes(study.state)) void watch(study, signal, again);
}

/**
 * Make the viewer of a series, and what the panel says of it.
 * @param {HTMLElement} panel @param {Shown} shown
 */
async function mountSeries(panel, { route, result, version, signal }) {
  const byImportance = [...result.labels.filter(({ above }) => above), ...result.labels];
  const key = route.series ?? byImportance.flatMap(label => label.key_slices)[0]?.series ?? result.series[0].key;
  const path = seriesPath(result.study, key);
  /** @type {Series} */
  const series = await getJson(path + version, signal);
  const rows = rowsOf(result, key);
  const start = startOf(route, rows);
  const moved = remember(result.study, key, version, rows, signal);
  const viewer = new Viewer(path, series, rows, { signal, version, start, moved });
  panel.append(seriesList(result, key, version), aboutSeries(series), probabilityTable(rows, series.place_mm));
  panel.addEventListener("click", event => {
    const link = /** @type {HTMLElement} */ (event.target).closest("a");
    if (link?.dataset.series !== key || event.ctrlKey || event.metaKey) return;
    event.preventDefault(); // the same series: window and zoom stay
    viewer.choose(rows.findIndex(({ name }) => name === link.dataset.label));
    viewer.go(Number(link.dataset.place));
    viewer.element.scrollIntoView({ block: "nearest" });
  });
  return viewer;
}

/** What the strip shows of a series: its part of the result. @param {Result} result @param {string} key @returns {Row[]} */
function rowsOf(result, key) {
  const numbers = result.series.find(one => one.key === key);
  if (!numbers) throw new Error("This result has no such series. Go back to the list.");
  const ofSlices = result.labels.filter(({ level }) => level === "slices"); // in the order of the columns
  return ofSlices.map(({ name, threshold, key_slices: keySlices }, column) => ({
    name,
    threshold,
    probability: numbers.probability.map(ofSlice => ofSlice[column]),
    keySlices: keySlices.filter(({ series }) => series === key).map(({ place }) => place)
  }));
}

/** Where to begin: as the route says, else at the key slice of the label furthest above its threshold. */
function startOf(/** @type {Route} */ { params }, /** @type {Row[]} */ rows) {
  const named = rows.findIndex(({ name }) => name === params.get("label"));
  const margins = rows.map(({ probability, threshold }) => Math.max(...probability) - threshold);
  const label = named >= 0 ? named : margins.indexOf(Math.max(...margins));
  const place = Number.parseInt(params.get("slice") ?? "", 10) - 1;
  return { label, place: Number.isNaN(place) ? (rows[label].keySlices[0] ?? 0) : place };
}

/**
 * Keep slice and label in the address, without a step in the browser's history for each.
 * @param {string} study @param {string} key @param {string} version @param {Row[]} rows @param {AbortSignal} signal
 */
function remember(study, key, version, rows, signal) {
  /** @type {number | undefined} */
  let timer;
  signal.addEventListener("abort", () => clearTimeout(timer));
  return (/** @type {{place: number, label: number}} */ { place, label }) => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      const address = `#/study/${study}/${key}${placeQuery(version, place, rows[label].name)}`;
      window.history.replaceState(null, "", address);
    }, 250); // browsers allow about 100 in 30 s
  };
}

/** Wait until the study is in another state. @param {Study} study @param {AbortSignal} signal @param {() => void} again */
function watch(study, signal, again) {
  return repeat(signal, async recovers => {
    const { state } = await getJson(`/studies/${study.study}?wait=${recovers ? 0 : WAIT_S}`, signal);
    if (state !== study.state) again();
    else await pause(500, signal); // the service may answer before there is anything new
    return state === study.state;
  });
}
