// What stands beside the images of a study: findings, its series, results of before and now, and what can be done.

import {extended, post, query, request, ROOT} from "./api.js";
import {
  announce,
  button,
  confirmed,
  count,
  el,
  heading,
  moment,
  note,
  notify,
  outside,
  reasonList,
  share,
  span,
  spelled,
  studyDate,
  words
} from "./dom.js";

/** @import {Generation, Item, KeySlice, Result, Series, Session, State, Study} from "../web_types" */

/** What a state means. @type {Record<State, string>} */
export const STATES = {
  arriving: "Files are arriving. It is read when none came for a while, or when the sender says that it is complete.",
  queued: "Waiting for its turn.",
  running: "Being read by the model.",
  done: "Read.",
  refused: "No slice of it can be read.",
  failed: "Reading failed. It is tried again by itself.",
  dead: "Reading failed each time. It can be tried again by hand.",
  cancelled: "Cancelled before it was read."
};

const RETRIED = ["failed", "dead", "cancelled"]; // states

/** @param {Item} study */
export function titleOf({study, identity}) {
  const rest = [identity?.accession, studyDate(identity?.study_date)].filter(Boolean);
  const parts = rest.map(text => el("small", {}, el("bdi", {}, text)));
  return [el("bdi", {}, identity?.patient_id || `Study ${study}`), ...parts];
}

/**
 * Why there is no result, or not the newest; nothing where there is.
 * @param {Study} study @param {string} shown query of the result that is shown
 */
export function stateOf({state, reason, attempts, superseded, generations}, shown) {
  const isOld = generations.find(each => versionOf(each) === shown)?.superseded;
  if (state === "done" && !superseded && !isOld) return "";
  return el(
    "p",
    {class: `state ${state}`, role: "status"},
    el("strong", {}, heading(state)),
    `. ${STATES[state]}`,
    reason && ` Reason: ${spelled(reason)}.`,
    attempts > 1 && ` ${count(attempts, "attempt")} so far.`,
    superseded && " Files or a model came since the result that is shown.",
    isOld && " This is an older result."
  );
}

/** The query of one of a study's results. @param {Generation} generation */
export const versionOf = ({model, content}) => query({model: model.identity, content});

/**
 * The sentence, and each label with its probability, threshold, and key slices to go to.
 * @param {Result} result @param {string} version
 */
export function findings(result, version) {
  const lines = result.labels.map(label => {
    const {name, probability, threshold, above, key_slices: keySlices} = label;
    const what = `${share(probability)}, threshold ${share(threshold)}${label.is_learned ? "" : " (not learned)"}`;
    const bar = {class: "bar", role: "img", "aria-label": what, title: what, "--p": probability, "--threshold": threshold};
    return el(
      "li",
      {class: above && "above"},
      span("name", heading(name), label.level === "series" && el("small", {}, " of the series")),
      span("value", share(probability)),
      el("span", bar),
      span("keys", ...keySlices.map(key => keyLink(result, key, name, version)))
    );
  });
  return el(
    "section",
    {"aria-label": "Findings"},
    el("p", {class: "sentence"}, result.sentence),
    el("ul", {class: "labels"}, ...lines)
  );
}

/** @param {Result} result @param {KeySlice} key @param {string} label @param {string} version */
function keyLink({study}, {series, place}, label, version) {
  const href = `#/study/${study}/${series}${extended(version, {slice: place + 1, label})}`;
  const name = `Slice ${place + 1} of ${words(label)}`;
  return el(
    "a",
    {href, "aria-label": name, "data-series": series, "data-place": place, "data-label": label},
    place + 1
  );
}

/** Links to all series of a study, where there are several. @param {Result} result @param {string} key @param {string} version */
export function seriesList({study, series}, key, version) {
  if (series.length < 2) return "";
  const links = series.map(one => {
    const attributes = {href: `#/study/${study}/${one.key}${version}`, "aria-current": one.key === key && "page"};
    return el("li", {}, el("a", attributes, `Series ${one.key.slice(0, 8)}, ${count(one.n_slices, "slice")}`));
  });
  return el("section", {}, el("h2", {}, "Series"), el("ul", {class: "plain"}, ...links));
}

/** @param {Series} series */
export function aboutSeries({flags, rows, columns, spacing_mm: spacing}) {
  const pixels = spacing ? `, each ${spacing[0].toFixed(2)} mm high and ${spacing[1].toFixed(2)} mm wide` : "";
  const texts = flags.map(flag => el("li", {}, heading(flag)));
  return el(
    "section",
    {"aria-label": "About the images"},
    el("ul", {class: "flags"}, ...texts),
    note(`${rows} × ${columns} pixels${pixels}`)
  );
}

/** Results of before and now, and which files were not taken. @param {Study} study @param {string} shown as of `stateOf` */
export function history(study, shown) {
  const results = study.generations.map(each => {
    const {model, superseded, finished} = each;
    const link = {
      href: `#/study/${study.study}${versionOf(each)}`,
      "aria-current": versionOf(each) === shown && "page"
    };
    return el(
      "li",
      {},
      el("a", link, `${model.name} ${model.version}`),
      el("small", {}, ` ${model.identity}, `, moment(finished), superseded && ", superseded", ", "),
      el("small", {}, outside("model card", `${ROOT}/models/${model.identity}/card`))
    );
  });
  const reasons = reasonList(study.refused);
  return el(
    "section",
    {"aria-label": "History"},
    results.length > 0 && el("h2", {}, "Results"),
    el("ul", {class: "plain"}, ...results),
    reasons && note(`Refused files: ${reasons}.`),
    note("Received ", moment(study.received), `, ${count(study.n_files, "file")}. Study ${study.study}.`)
  );
}

/**
 * Report, and what the reader's role may do.
 * @param {Study} study @param {string} shown as of `stateOf` @param {Session} session @param {() => void} again
 */
export function actions({study, state, generations}, shown, {role}, again) {
  const path = `/studies/${study}`;
  const isDrawn = generations.find(each => versionOf(each) === shown)?.pictures === "done";
  const retry = async () => {
    await post(`${path}/retry`);
    again();
  };
  const remove = async () => {
    if (!(await confirmed("Delete this study with its files and results? This cannot be undone.", "Delete"))) return;
    const left = new Promise(resolve => addEventListener("hashchange", resolve, {once: true}));
    location.hash = "#/"; // or this page would ask for what is gone
    await left;
    await request(path, {method: "DELETE"});
    announce("The study is deleted.");
  };
  /** @param {() => Promise<void>} act */
  const saying = act => () => act().catch(notify);
  return el(
    "p",
    {class: "actions"},
    isDrawn && outside("Report", `${ROOT}${path}/report.html${shown}`, "button"),
    role !== "read" && RETRIED.includes(state) && button("Try again", saying(retry)),
    role === "admin" && button("Delete…", saying(remove), {class: "danger"})
  );
}
