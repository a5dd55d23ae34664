// The strip below the picture: the probability of every label along the series, which is also how to go to a slice.

import {button, el, heading, share, svg, words} from "./dom.js";
import {layout} from "./pixels.js";

/** @import {Box} from "../web_types" */

const ROW = 24; // px of a label's row, as in app.css
const TOP = 3; // px of it that stay free

/**
 * @typedef {{name: string, threshold: number, probability: number[], keySlices: number[], boxes: Box[],
 *   hasPictures: boolean}} Row of a label; boxes: those that reach the threshold; hasPictures: of its key slices
 * @typedef {{go: (place: number) => void, choose: (label: number) => void}} Actions
 */

export class Strip {
  /** @param {Row[]} rows of the labels @param {(number | null)[] | null} placeMm @param {Actions} actions */
  constructor(rows, placeMm, actions) {
    this.rows = rows;
    this.nSlices = rows[0].probability.length;
    this.layout = layout(placeMm, this.nSlices);
    this.actions = actions;
    this.cursor = el("div", {class: "cursor"});
    const range = {role: "slider", "aria-label": "Slice", "aria-valuemin": 1, "aria-valuemax": this.nSlices};
    this.slider = el(
      "div",
      {class: "plot", tabindex: 0, ...range},
      ...rows.map(row => this.#plot(row)),
      ...this.layout.gaps.map(([from, to]) =>
        el("div", {class: "gap", "--from": from, "--to": to, title: "No slices here"})
      ),
      this.cursor
    );
    this.names = rows.map((row, label) => button(heading(row.name), () => actions.choose(label)));
    this.values = rows.map(() => el("output", {}));
    this.element = el(
      "section",
      {class: "strip", "aria-label": "Probability along the series"},
      el("div", {class: "names"}, ...this.names),
      this.slider,
      el("div", {class: "values"}, ...this.values),
      this.#scale(placeMm)
    );
    this.#listen();
  }

  /** @param {Row} row @returns {SVGElement} steps of one label, its threshold, and ticks of its key slices */
  #plot(row) {
    const {edges, gaps} = this.layout;
    const y = (/** @type {number} */ p) => (TOP + (1 - p) * (ROW - TOP)).toFixed(2);
    const x = (/** @type {number} */ at) => (1000 * at).toFixed(2);
    const starts = new Set([0, ...gaps.map(([, to]) => edges.findIndex(([from]) => from === to))]);
    const line = edges.map(
      ([from, to], i) =>
        `${starts.has(i) ? "M" : "L"}${x(from)} ${y(row.probability[i])}L${x(to)} ${y(row.probability[i])}`
    );
    const area = edges.map(([from, to], i) => `M${x(from)} ${ROW}V${y(row.probability[i])}H${x(to)}V${ROW}Z`);
    const middles = row.keySlices.map(place => x((edges[place][0] + edges[place][1]) / 2));
    return svg(
      "svg",
      {viewBox: `0 0 1000 ${ROW}`, preserveAspectRatio: "none", "aria-hidden": "true"},
      svg("path", {class: "area", d: area.join("")}),
      svg("path", {class: "line", d: line.join("")}),
      svg("path", {class: "threshold", d: `M0 ${y(row.threshold)}H1000`}),
      svg("path", {class: "ticks", d: middles.map(at => `M${at} 0V5`).join("")})
    );
  }

  /** @param {(number | null)[] | null} placeMm */
  #scale(placeMm) {
    const end = this.nSlices - 1;
    const said = (/** @type {number} */ place) =>
      `slice ${place + 1}${this.layout.inMm && placeMm ? `, ${Number(placeMm[place]).toFixed(0)} mm` : ""}`;
    return el("p", {class: "scale", "aria-hidden": "true"}, el("span", {}, said(0)), el("span", {}, said(end)));
  }

  #listen() {
    const go = (/** @type {PointerEvent} */ event) => {
      const frame = this.slider.getBoundingClientRect();
      this.actions.go(this.#nearest((event.clientX - frame.x) / frame.width));
    };
    this.slider.addEventListener("pointerdown", event => {
      this.slider.setPointerCapture(event.pointerId);
      const row = Math.floor((event.clientY - this.slider.getBoundingClientRect().y) / ROW);
      if (getComputedStyle(this.names[0]).display !== "none" && this.rows[row]) this.actions.choose(row);
      go(event);
    });
    this.slider.addEventListener("pointermove", event => event.buttons && go(event));
    this.slider.addEventListener("keydown", event => {
      const by = {ArrowLeft: -1, ArrowRight: 1}[event.key];
      if (!by) return;
      event.preventDefault();
      this.actions.go(this.place + by);
    });
  }

  /** @param {number} at 0 to 1 along the strip */
  #nearest(at) {
    const distances = this.layout.edges.map(([from, to]) => Math.max(from - at, at - to, 0));
    return distances.indexOf(Math.min(...distances));
  }

  place = 0;

  /** Show where the reader is. @param {number} place @param {number} label */
  update(place, label) {
    this.place = place;
    const [from, to] = this.layout.edges[place];
    this.cursor.style.setProperty("--from", String(from));
    this.cursor.style.setProperty("--to", String(to));
    this.slider.setAttribute("aria-valuenow", String(place + 1));
    const {name, probability} = this.rows[label];
    this.slider.setAttribute(
      "aria-valuetext",
      `slice ${place + 1} of ${this.nSlices}, ${words(name)} ${share(probability[place])}`
    );
    this.rows.forEach((row, i) => {
      this.names[i].setAttribute("aria-pressed", String(i === label));
      this.slider.children[i].classList.toggle("chosen", i === label);
      this.values[i].textContent = share(row.probability[place]);
      this.values[i].classList.toggle("above", row.probability[place] >= row.threshold);
      this.values[i].classList.toggle("chosen", i === label);
    });
  }
}

/**
 * The same numbers as a table, made when it is opened.
 * @param {Row[]} rows @param {(number | null)[] | null} placeMm @returns {HTMLDetailsElement}
 */
export function probabilityTable(rows, placeMm) {
  const details = el("details", {class: "numbers"}, el("summary", {}, "Probabilities as a table"));
  const hasPlaces = placeMm?.every(place => place != null);
  details.addEventListener(
    "toggle",
    () => {
      const titles = ["Slice", hasPlaces && "mm", ...rows.map(row => heading(row.name))];
      const head = el("tr", {}, ...titles.map(text => text && el("th", {scope: "col"}, text)));
      const lines = rows[0].probability.map((_, place) =>
        el(
          "tr",
          {},
          el("th", {scope: "row"}, place + 1),
          hasPlaces && el("td", {}, Number(placeMm?.[place]).toFixed(1)),
          ...rows.map(row =>
            el("td", {class: row.probability[place] >= row.threshold && "above"}, share(row.probability[place]))
          )
        )
      );
      const region = {class: "scroll", tabindex: 0, role: "region", "aria-label": "Probabilities"};
      details.append(el("div", region, el("table", {}, el("thead", {}, head), el("tbody", {}, ...lines))));
    },
    {once: true}
  );
  return details;
}
