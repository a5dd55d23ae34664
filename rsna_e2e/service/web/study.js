// The page of one study: the panel with what the model says of it, and one of its series in the viewer.

import {extended, followList, getJson, query, seriesPath} from "./api.js";
import {el, notify} from "./dom.js";
import {aboutSeries, actions, findings, history, seriesList, stateOf, titleOf, versionOf} from "./panel.js";
import {probabilityTable} from "./strip.js";
import {Viewer} from "./viewer.js";

/** @import {Result, Series, Session, Study} from "../web_types" */
/** @import {Row} from "./strip.js" */

/**
 * @typedef {{study: string, series?: string, params: URLSearchParams}} Route
 * @typedef {{signal: AbortSignal, session: Session, again: () => void}} Surroundings
 * @typedef {{route: Route, result: Result, headline: string | null, version: string, shown: string,
 *   signal: AbortSignal}} Shown version: query of the result in the address, "" for the newest; shown: of the one shown
 */

/**
 * Show a study, and what changes of it.
 * @param {HTMLElement} main @param {Route} route @param {Surroundings} surroundings
 */
export async function showStudy(main, route, {signal, session, again}) {
  /** @type {Study} */
  const study = await getJson(`/studies/${route.study}`, signal);
  const version = query({model: route.params.get("model"), content: route.params.get("content")});
  const generation = study.generations.find(each => versionOf(each) === version) ?? study.generations[0];
  const shown = generation ? versionOf(generation) : ""; // in all requests: later results do not mix with it
  if (version && version !== shown) notify("That result is not here any more; the newest is shown.");
  /** @type {Result | null} */
  const result = generation ? await getJson(`/studies/${study.study}/result${shown}`, signal) : null;
  const [state, rest] = [el("div"), el("div")];
  const title = el("h1", {tabindex: -1}, ...titleOf(study));
  const panel = el("aside", {class: "panel", "aria-label": "Result"}, title, state);
  if (result) panel.append(findings(result, version));
  const page = el("div", {class: "study"}, panel);
  main.replaceChildren(page);
  const of = {route, headline: study.headline, version, shown, signal};
  const viewer = result && (await mountSeries(panel, {...of, result}));
  if (viewer) page.prepend(viewer.element);
  panel.append(rest);
  const tell = (/** @type {Study} */ now) => {
    state.replaceChildren(stateOf(now, shown));
    rest.replaceChildren(history(now, shown), actions(now, shown, session, again));
    if (viewer) rest.lastElementChild?.append(viewer.controls.picture);
  };
  tell(study);
  void watch(study, signal, async now => {
    if (!viewer) again();
    tell(now);
    await viewer?.refresh();
    return viewer !== null;
  });
}

/** Make the viewer of a series, and what the panel says of it. @param {HTMLElement} panel @param {Shown} shown */
async function mountSeries(panel, {route, result, headline, version, shown, signal}) {
  const byImportance = [...result.labels.filter(({above}) => above), ...result.labels];
  const key = route.series ?? byImportance.flatMap(label => label.key_slices)[0]?.series ?? result.series[0].key;
  const path = seriesPath(result.study, key);
  /** @type {Series} */
  const series = await getJson(path + shown, signal);
  const rows = rowsOf(result, key, headline);
  const start = startOf(route, rows);
  const moved = remember(result.study, key, version, rows, signal);
  const viewer = new Viewer(path, series, rows, {signal, version: shown, start, moved});
  panel.append(seriesList(result, key, version), aboutSeries(series), probabilityTable(rows, series.place_mm));
  panel.addEventListener("click", event => {
    const link = /** @type {HTMLElement} */ (event.target).closest("a");
    if (link?.dataset.series !== key || event.ctrlKey || event.metaKey) return;
    event.preventDefault(); // the same series: window and zoom stay
    viewer.choose(rows.findIndex(({name}) => name === link.dataset.label));
    viewer.go(Number(link.dataset.place));
    viewer.element.scrollIntoView({block: "nearest"});
  });
  return viewer;
}

/**
 * What the strip shows of a series: its part of the result.
 * @param {Result} result @param {string} key @param {string | null} headline @returns {Row[]}
 */
function rowsOf(result, key, headline) {
  const numbers = result.series.find(one => one.key === key);
  if (!numbers) throw new Error("This result has no such series. Go back to the list.");
  const ofSlices = result.labels.filter(({level}) => level === "slices"); // in the order of the columns
  const isAnyAbove = ofSlices.some(({above}) => above);
  return ofSlices.map(({name, threshold, above, key_slices: keySlices}, column) => ({
    name,
    threshold,
    probability: numbers.probability.map(ofSlice => ofSlice[column]),
    keySlices: keySlices.filter(({series}) => series === key).map(({place}) => place),
    boxes: numbers.boxes?.filter(box => box.label === name && box.score >= threshold) ?? [],
    hasPictures: isAnyAbove ? above : name === headline
  }));
}

/** Where to begin: as the route says, else at the key slice of the label furthest above its threshold. */
function startOf(/** @type {Route} */ {params}, /** @type {Row[]} */ rows) {
  const named = rows.findIndex(({name}) => name === params.get("label"));
  const margins = rows.map(({probability, threshold}) => Math.max(...probability) - threshold);
  const label = named >= 0 ? named : margins.indexOf(Math.max(...margins));
  const place = Number.parseInt(params.get("slice") ?? "", 10) - 1;
  return {label, place: Number.isNaN(place) ? (rows[label].keySlices[0] ?? 0) : place};
}

/**
 * Keep slice and label in the address, without a step in the browser's history for each.
 * @param {string} study @param {string} key @param {string} version @param {Row[]} rows @param {AbortSignal} signal
 */
function remember(study, key, version, rows, signal) {
  /** @type {number | undefined} */
  let timer;
  signal.addEventListener("abort", () => clearTimeout(timer));
  return (/** @type {{place: number, label: number}} */ {place, label}) => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      const address = `#/study/${study}/${key}${extended(version, {slice: place + 1, label: rows[label].name})}`;
      window.history.replaceState(null, "", address);
    }, 250); // browsers allow about 100 in 30 s
  };
}

/**
 * Follow a study: the list's version rises with every change.
 * @param {Study} study @param {AbortSignal} signal @param {(now: Study) => Promise<boolean>} changed whether to go on
 */
function watch(study, signal, changed) {
  let seen = JSON.stringify(study);
  return followList(signal, {limit: 1}, async () => {
    const now = await getJson(`/studies/${study.study}`, signal);
    if (JSON.stringify(now) === seen) return true;
    seen = JSON.stringify(now);
    return changed(now);
  });
}
