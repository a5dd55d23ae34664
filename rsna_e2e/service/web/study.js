// The page of one study: what the model says of it, its series in the viewer, and what happened to it.

import { getJson, pause, post, query, repeat, request, ROOT, seriesPath } from "./api.js";
import { announce, confirmed, count, el, heading, moment, notify, reasonList, share, studyDate, words } from "./dom.js";
import { probabilityTable } from "./strip.js";
import { Viewer } from "./viewer.js";

/** What a state means. @type {Record<import("./api.js").State, string>} */
export const STATES = {
  arriving: "Files are arriving. It is read when none came for a while, or when the sender says that it is complete.",
  queued: "Waiting for its turn.",
  running: "Being read by the model.",
  done: "Read.",
  refused: "Refused: no slice of it can be read.",
  failed: "Reading failed. It is tried again by itself.",
  dead: "Reading failed each time. It can be tried again by hand.",
  cancelled: "Cancelled before it was read."
};

/** What a flag of a series means. @type {Record<string, string>} */
const FLAGS = {
  gap: "Slices are missing between others",
  tilt: "The gantry was tilted",
  burned_in: "Text may be burned into the images"
};

const UNFINISHED = ["arriving", "queued", "running", "failed"];
const WAIT_S = 25; // of one request for a change

/**
 * @typedef {import("./api.js").Study} Study
 * @typedef {import("./api.js").Result} Result
 * @typedef {{study: string, series?: string, params: URLSearchParams}} Route
 * @typedef {{signal: AbortSignal, session: import("./api.js").Session, again: () => void}} Surroundings
 */

/**
 * Show a study; when it changes, show it again.
 * @param {HTMLElement} main @param {Route} route @param {Surroundings} surroundings
 */
export async function showStudy(main, route, { signal, session, again }) {
  /** @type {Study} */
  const study = await getJson(`/studies/${route.study}`, signal);
  const version = query({ model: route.params.get("model"), content: route.params.get("content") });
  /** @type {Result | null} */
  const result = study.generations.length ? await getJson(`/studies/${study.study}/result${version}`, signal) : null;
  const title = el("h1", { tabindex: -1 }, ...titleOf(study));
  const panel = el(
    "aside",
    { class: "panel", "aria-label": "Result" },
    title,
    stateOf(study),
    result && findings(result, study, version)
  );
  main.replaceChildren(el("div", { class: "study" }, panel));
  if (result) await mountSeries(main, panel, { route, study, result, version, signal });
  panel.append(history(study, version), actions(study, session, again));
  if (UNFINISHED.includes(study.state)) void watch(study, signal, again);
}

/** @param {import("./api.js").Item} study */
export function titleOf({ study, identity }) {
  const id = identity?.patient_id ? el("bdi", {}, identity.patient_id) : `Study ${study}`;
  const rest = [identity?.accession, studyDate(identity?.study_date)].filter(Boolean);
  return [id, ...rest.map((text) => el("small", {}, el("bdi", {}, text)))];
}

/** @param {Study} study */
function stateOf({ state, reason, attempts, superseded }) {
  if (state === "done" && !superseded) return null;
  const why = reason && ` Reason: ${words(reason)}.`;
  const tried = attempts > 1 && ` ${count(attempts, "attempt")} so far.`;
  const old = superseded && " What is shown is of before: files or a model came since.";
  return el(
    "p",
    { class: `state ${state}`, role: "status" },
    el("strong", {}, heading(state)),
    ` ${STATES[state]}`,
    why,
    tried,
    old
  );
}

/**
 * The sentence, and each label with its probability, threshold, and key slices to go to.
 * @param {Result} result @param {Study} study @param {string} version
 */
function findings(result, study, version) {
  const lines = result.labels.map((label) => {
    const { name, probability, threshold, above, is_learned: isLearned, key_slices: keySlices } = label;
    const what = `${share(probability)}, threshold ${share(threshold)}${isLearned ? "" : " (not learned)"}`;
    return el(
      "li",
      { class: above && "above" },
      el("span", { class: "name" }, heading(name), label.level === "series" && el("small", {}, " of the series")),
      el("span", { class: "value", title: what }, share(probability)),
      el("span", { class: "bar", role: "img", "aria-label": what, "--p": probability, "--threshold": threshold }),
      el("span", { class: "keys" }, ...keySlices.map((key) => keyLink(study, key, name, version)))
    );
  });
  return el(
    "section",
    { "aria-label": "Findings" },
    el("p", { class: "sentence" }, result.sentence),
    el("ul", { class: "labels" }, ...lines)
  );
}

/** @param {Study} study @param {import("./api.js").KeySlice} key @param {string} label @param {string} version */
function keyLink({ study }, { series, place }, label, version) {
  const params = new URLSearchParams(version);
  params.set("slice", String(place + 1));
  params.set("label", label);
  return el(
    "a",
    { href: `#/study/${study}/${series}?${params}`, "aria-label": `Slice ${place + 1} of ${words(label)}` },
    place + 1
  );
}

/**
 * @typedef {{route: Route, study: Study, result: Result, version: string, signal: AbortSignal}} Shown
 * @param {HTMLElement} main @param {HTMLElement} panel @param {Shown} shown
 */
async function mountSeries(main, panel, { route, study, result, version, signal }) {
  const firstKey = result.labels
    .filter(({ above }) => above)
    .concat(result.labels)
    .flatMap((label) => label.key_slices)[0];
  const key = route.series ?? firstKey?.series ?? result.series[0].key;
  const numbers = result.series.find((one) => one.key === key);
  if (!numbers) return notify("This result has no such series. Choose one of the list.");
  /** @type {import("./api.js").Series} */
  const series = await getJson(seriesPath(study.study, key) + version, signal);
  const ofSlices = result.labels.filter(({ level }) => level === "slices");
  const rows = ofSlices.map(({ name, threshold, key_slices: keySlices }, column) => ({
    name,
    threshold,
    probability: numbers.probability.map((ofSlice) => ofSlice[column]),
    keySlices: keySlices.filter((one) => one.series === key).map(({ place }) => place)
  }));
  const viewer = new Viewer(study.study, series, rows, {
    signal,
    version,
    ...whereIn(route, rows),
    moved: remember(study, key, version, rows, signal)
  });
  main.firstElementChild?.prepend(viewer.element);
  panel.append(seriesList(result, study, key, version), aboutSeries(series), probabilityTable(rows, series.place_mm));
}

/** Slice and label to begin with: those of the route, else the first key slice of the most probable label. */
function whereIn(/** @type {Route} */ { params }, /** @type {import("./strip.js").Row[]} */ rows) {
  const named = rows.findIndex(({ name }) => name === params.get("label"));
  const highest = rows.map((row) => Math.max(...row.probability) - row.threshold);
  const label = named >= 0 ? named : highest.indexOf(Math.max(...highest));
  const place = Number.parseInt(params.get("slice") ?? "", 10) - 1;
  return { start: { label, place: Number.isNaN(place) ? (rows[label].keySlices[0] ?? 0) : place } };
}

/**
 * Keep slice and label in the address, without a step in the browser's history for each.
 * @param {Study} study @param {string} key @param {string} version @param {import("./strip.js").Row[]} rows @param {AbortSignal} signal
 */
function remember({ study }, key, version, rows, signal) {
  /** @type {number | undefined} */
  let timer;
  signal.addEventListener("abort", () => clearTimeout(timer));
  return (/** @type {{place: number, label: number}} */ { place, label }) => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      const params = new URLSearchParams(version);
      params.set("slice", String(place + 1));
      params.set("label", rows[label].name);
      window.history.replaceState(null, "", `#/study/${study}/${key}?${params}`);
    }, 250); // browsers allow about 100 in 30 s
  };
}

/** @param {Result} result @param {Study} study @param {string} key @param {string} version */
function seriesList(result, { study }, key, version) {
  if (result.series.length < 2) return "";
  const links = result.series.map((one) =>
    el(
      "li",
      {},
      el(
        "a",
        { href: `#/study/${study}/${one.key}${version}`, "aria-current": one.key === key && "page" },
        `Series ${one.key.slice(0, 8)}, ${count(one.n_slices, "slice")}`
      )
    )
  );
  return el("section", {}, el("h2", {}, "Series"), el("ul", { class: "plain" }, ...links));
}

/** @param {import("./api.js").Series} series */
function aboutSeries({ flags, rows, columns, spacing_mm: spacing }) {
  const pixels = spacing
    ? `, pixels of ${spacing[0].toFixed(2)} × ${spacing[1].toFixed(2)} mm (row × column spacing)`
    : "";
  return el(
    "section",
    { "aria-label": "Images" },
    flags.length > 0 &&
      el("ul", { class: "flags" }, ...flags.map((flag) => el("li", {}, FLAGS[flag] ?? heading(flag)))),
    el("p", { class: "note" }, `${rows} × ${columns} pixels${pixels}`)
  );
}

/** Results of before and now, and which files were not taken. @param {Study} study @param {string} version of what is shown */
function history(study, version) {
  const current = study.generations.find(({ superseded }) => !superseded);
  const generations = study.generations.map((generation) => {
    const { content, model, superseded, finished } = generation;
    const own = query({ model: model.identity, content });
    const isShown = version ? version === own : generation === current;
    return el(
      "li",
      {},
      el(
        "a",
        { href: `#/study/${study.study}${own}`, "aria-current": isShown && "page" },
        `${model.name} ${model.version}`
      ),
      el("small", {}, ` ${model.identity}, `, moment(finished), superseded && ", superseded"),
      el("a", { href: `${ROOT}/models/${model.identity}/card`, target: "_blank", rel: "noopener" }, "model card")
    );
  });
  const reasons = reasonList(study.refused);
  return el(
    "section",
    { "aria-label": "History" },
    generations.length > 0 && el("h2", {}, "Results"),
    el("ul", { class: "plain generations" }, ...generations),
    reasons && el("p", { class: "note" }, `Refused files: ${reasons}.`),
    el(
      "p",
      { class: "note" },
      `Received `,
      moment(study.received),
      `, ${count(study.n_files, "file")}. Study ${study.study}.`
    )
  );
}

/** @param {Study} study @param {import("./api.js").Session} session @param {() => void} again */
function actions({ study, state, generations }, { role }, again) {
  const path = `/studies/${study}`;
  const retry = async () => {
    await post(`${path}/retry`);
    again();
  };
  const remove = async () => {
    if (!(await confirmed("Delete this study with its files and results? This cannot be undone.", "Delete"))) return;
    await request(path, { method: "DELETE" });
    location.hash = "#/";
    announce("The study is deleted.");
  };
  const saying = (/** @type {() => Promise<void>} */ act) => () => act().catch((error) => notify(error.message));
  const mayRetry = role !== "read" && ["failed", "dead", "refused", "cancelled"].includes(state);
  return el(
    "p",
    { class: "actions" },
    generations.length > 0 &&
      el("a", { class: "button", href: `${ROOT}${path}/report.html`, target: "_blank", rel: "noopener" }, "Report"),
    mayRetry && el("button", { type: "button", onclick: saying(retry) }, "Try again"),
    role === "admin" && el("button", { type: "button", class: "danger", onclick: saying(remove) }, "Delete…")
  );
}

/** Wait until the study is in another state. @param {Study} study @param {AbortSignal} signal @param {() => void} again */
function watch(study, signal, again) {
  return repeat(signal, async () => {
    const { state } = await getJson(`/studies/${study.study}?wait=${WAIT_S}`, signal);
    if (state === study.state)
      await pause(500, signal); // the service may answer before there is anything new
    else again();
    return state === study.state;
  });
}
