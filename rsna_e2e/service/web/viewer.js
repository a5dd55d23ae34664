// The viewer of one series: what is shown, the controls and keys that change it, and the slices that this needs.

import {getHeatMap, getJson, getSlice} from "./api.js";
import {Film} from "./canvas.js";
import {Controls, onKey, round} from "./controls.js";
import {announce, button, count, el, heading, share, words} from "./dom.js";
import {listen} from "./gestures.js";
import {fullWindow, windowTable} from "./pixels.js";
import {Fetcher, fetchOrder, Memory} from "./slices.js";
import {Strip} from "./strip.js";
/** @import {HeatMap, Series, Window} from "../web_types" */
/** @import {Pixel} from "./canvas.js" */
/** @import {Meanings} from "./gestures.js" */
/** @import {Row} from "./strip.js" */

const AT_ONCE = 6; // requests
const DRAG_PX = 250; // of a drag, in which the width of the window grows by a factor of e

/** What was fetched of all series that were looked at. @type {Memory<Int16Array>} */
export const slices = new Memory(256 * 2 ** 20);
/** @type {Memory<HeatMap>} */
export const maps = new Memory(16 * 2 ** 20);

/** @typedef {{place: number, label: number}} Where */

export class Viewer {
  /**
   * @param {string} path of the series @param {Series} series @param {Row[]} rows of its labels
   * @param {{signal: AbortSignal, start: Where, version: string, moved: (where: Where) => void}} options
   * version: query of the result that is shown
   */
  constructor(path, series, rows, {signal, start, version, moved}) {
    this.path = path;
    this.version = version;
    this.moved = moved;
    this.signal = signal;
    this.series = series;
    this.rows = rows;
    this.place = start.place;
    this.label = start.label;
    this.overlay = false; // a reader's first look is without it
    this.windows = series.windows;
    /** @type {Window | null} null until the first slice gives one */
    this.window = this.windows[0] ?? null;
    /** @type {Uint32Array | null} of the window; null until it is wanted */
    this.table = null;
    /** @type {Pixel | null} */
    this.pointed = null;
    this.film = new Film(series, signal);
    this.controls = new Controls(this);
    this.strip =
      series.n_slices > 1
        ? new Strip(rows, series.place_mm, {go: place => this.go(place), choose: label => this.choose(label)})
        : null;
    const arrived = () => this.update();
    const nPixels = series.rows * series.columns;
    const ofSlices = {atOnce: AT_ONCE, signal, arrived};
    this.sliceFetcher = new Fetcher(slices, (path, signal) => getSlice(path, nPixels, signal), ofSlices);
    this.mapFetcher = new Fetcher(maps, getHeatMap, {...ofSlices, atOnce: 2});
    this.element = el(
      "section",
      {class: "viewer on-dark", "aria-label": "Images"},
      this.controls.element,
      this.film.stage,
      this.strip?.element
    );
    listen(this.film.stage, this.#meanings(), signal);
    addEventListener("keydown", event => onKey(event, this), {signal});
    this.go(this.place);
  }

  // What can be done

  /** @param {number} place of a slice, from 0 on; beyond the ends means the end */
  go(place) {
    this.place = Math.min(Math.max(place, 0), this.series.n_slices - 1);
    this.#fetch();
    this.moved(this);
  }

  /** @param {number} label */
  choose(label) {
    if (!this.rows[label]) return;
    this.label = label;
    this.#fetch();
    this.moved(this);
  }

  /** To the next key slice of the label that way; after the last comes the first. @param {1 | -1} by */
  goToKeySlice(by) {
    const {keySlices, name} = this.rows[this.label];
    const ordered = [...keySlices].sort((a, b) => by * (a - b));
    if (!ordered.length) return announce(`${heading(name)} has no key slice in this series.`);
    this.go(ordered.find(place => by * (place - this.place) > 0) ?? ordered[0]);
    announce(
      `Slice ${this.place + 1}, key slice of ${words(name)}, ${share(this.rows[this.label].probability[this.place])}.`
    );
  }

  toggleOverlay() {
    this.overlay = !this.overlay;
    this.#fetch();
    announce(`Overlay ${this.overlay ? "on" : "off"}. ${this.#overlayNote()}`);
  }

  /** @param {Window} window */
  setWindow({name, center, width}) {
    this.window = {name, center, width: Math.max(width, 1)};
    this.table = null;
    this.update();
  }

  nextWindow() {
    const at = this.windows.findIndex(({name}) => name === this.window?.name);
    if (this.windows.length) this.setWindow(this.windows[(at + 1) % this.windows.length]);
  }

  /** First window, whole picture. */
  reset() {
    this.film.fit();
    if (this.windows.length) this.setWindow(this.windows[0]);
  }

  /** Ask for the series again: maps are made after the result. */
  async refresh() {
    this.series.heatmaps = (await getJson(this.path + this.version, this.signal)).heatmaps;
    this.#fetch();
  }

  // What is shown

  /** Show the state, once for all changes before the next frame. */
  update() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      if (!this.signal.aborted) this.#show();
    });
  }

  /** @type {number | undefined} */
  frame = undefined;

  // Requests' paths are also the keys of what they bring

  /** @param {number} place */
  #sliceKey = place => `${this.path}/slices/${place}${this.version}`;

  #mapKey = () =>
    `${this.path}/heatmaps/${encodeURIComponent(this.rows[this.label].name)}/${this.place}${this.version}`;

  #fetch() {
    const {n_slices, rows, columns, heatmaps} = this.series;
    const room = Math.max(Math.floor(slices.capacity / (2 * rows * columns)), 1);
    const order = fetchOrder(this.place, n_slices, this.rows[this.label].keySlices);
    this.sliceFetcher.want(order.slice(0, room).map(this.#sliceKey));
    this.mapFetcher.want(this.overlay && heatmaps[this.rows[this.label].name] ? [this.#mapKey()] : []);
    this.update();
  }

  #show() {
    const key = this.#sliceKey(this.place);
    const values = slices.get(key);
    if (values) this.film.drawSlice(values, this.#windowTable(values));
    else this.film.clearSlice();
    this.#showMessage(values, key);
    const {name} = this.rows[this.label];
    this.film.drawMap(this.overlay && values ? maps.get(this.#mapKey()) : undefined, this.series.heatmaps[name]);
    this.film.drawBoxes(this.overlay ? this.#boxes() : []);
    this.strip?.update(this.place, this.label);
    this.#showTexts(values);
    this.controls.show();
  }

  /** @param {Int16Array} values of the slice, whose range is the window where the series has none */
  #windowTable(values) {
    if (!this.window) {
      this.windows = [fullWindow(values)];
      this.controls.offer(this.windows);
      this.window = this.windows[0];
    }
    this.table ??= windowTable(this.window.center, this.window.width);
    return this.table;
  }

  /** @param {Int16Array | undefined} values @param {string} key */
  #showMessage(values, key) {
    const {message} = this.film;
    const error = this.sliceFetcher.failed.get(key);
    if (values) return message.replaceChildren();
    if (!error) return message.replaceChildren(`Loading slice ${this.place + 1}…`);
    if (message.dataset.key === key && message.querySelector("button")) return; // it may have the focus
    message.dataset.key = key;
    const retry = () => {
      this.sliceFetcher.retry(key);
      this.update();
    };
    message.replaceChildren(error.message, button("Try again", retry));
  }

  /** @param {Int16Array | undefined} values */
  #showTexts(values) {
    const {n_slices, place_mm, columns} = this.series;
    const {name, probability} = this.rows[this.label];
    const {corners} = this.film;
    const millimetres = place_mm?.[this.place];
    corners["top-left"].textContent =
      `${this.place + 1} / ${n_slices}${millimetres == null ? "" : `\n${millimetres.toFixed(1)} mm`}`;
    corners["top-right"].textContent =
      `${heading(name)} ${share(probability[this.place])}${this.overlay ? `\n${this.#overlayNote()}` : ""}`;
    corners["bottom-left"].textContent = this.window
      ? `${this.window.name}\nC ${round(this.window.center)}  W ${round(this.window.width)}`
      : "";
    const at = this.pointed;
    const unit = this.series.values === "hu" ? "HU" : "grey";
    corners["bottom-right"].textContent =
      at && values ? `${values[at.row * columns + at.column]} ${unit}\ncolumn ${at.column}  row ${at.row}` : "";
    this.film.slice.setAttribute(
      "aria-label",
      `Slice ${this.place + 1} of ${n_slices}, ${words(name)} ${share(probability[this.place])}`
    );
  }

  /** Boxes of the label in the slice. */
  #boxes = () => this.rows[this.label].boxes.filter(({slice}) => slice === this.place);

  #overlayNote() {
    const {name} = this.rows[this.label];
    const failed = this.mapFetcher.failed.get(this.#mapKey());
    if (failed) return failed.message;
    const nBoxes = this.#boxes().length;
    if (this.rows.some(({boxes}) => boxes.length)) return count(nBoxes, "box", "boxes");
    return this.series.heatmaps[name] ? "heatmap" : `no map of ${words(name)}`;
  }

  /** @returns {Meanings} */
  #meanings() {
    return {
      step: n => this.go(this.place + n),
      windowBy: (dx, dy) => {
        if (!this.window) return;
        const {center, width} = this.window;
        this.setWindow({name: "own", center: center - (dy * width) / DRAG_PX, width: width * Math.exp(dx / DRAG_PX)});
      },
      panBy: (dx, dy) => this.film.panBy(dx, dy),
      zoomBy: (factor, at) => this.film.zoomBy(factor, at),
      hover: at => {
        this.pointed = at && this.film.pixelAt(at);
        this.#showTexts(slices.get(this.#sliceKey(this.place)));
      }
    };
  }
}
