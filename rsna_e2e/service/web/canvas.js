// The picture area: a slice in grey, the map and boxes over it, letters at its edges, and where it stands in the stage.

import {el, share, words} from "./dom.js";
import {canvasMatrix, edgeLetters} from "./pixels.js";
/** @import {Box, HeatMap, Series} from "../web_types" */

const MAX_ZOOM = 32; // of the size that fits
const SHARP_PX = 6; // a pixel of a slice at least this large on the screen is drawn as a square

/** @typedef {{column: number, row: number}} Pixel */

export class Film {
  /** @param {Series} series @param {AbortSignal} signal ends its listeners */
  constructor(series, signal) {
    this.series = series;
    /** Height of a pixel by its width. */
    this.aspect = series.spacing_mm ? series.spacing_mm[0] / series.spacing_mm[1] : 1;
    this.view = {zoom: 1, x: 0, y: 0}; // of the size that fits; x, y: CSS px from the middle
    const size = {width: series.columns, height: series.rows};
    this.slice = el("canvas", {...size, class: "slice", role: "img", "aria-label": "Slice"});
    this.map = el("canvas", {...size, class: "map", "aria-hidden": "true"});
    this.sheet = el("div", {class: "sheet"}, this.slice, this.map);
    this.sheet.style.width = `${series.columns}px`;
    this.sheet.style.height = `${series.rows * this.aspect}px`;
    this.boxes = el("div", {class: "boxes"});
    this.message = el("p", {class: "message", role: "status"});
    const places = ["top-left", "top-right", "bottom-left", "bottom-right"];
    this.corners = Object.fromEntries(places.map(place => [place, el("p", {class: `corner ${place}`})]));
    this.stage = el(
      "div",
      {class: "stage"},
      this.sheet,
      this.boxes,
      ...this.#letters(),
      ...Object.values(this.corners),
      this.message
    );
    this.slicePen = /** @type {CanvasRenderingContext2D} */ (this.slice.getContext("2d"));
    this.mapPen = /** @type {CanvasRenderingContext2D} */ (this.map.getContext("2d"));
    this.pixels = this.slicePen.createImageData(series.columns, series.rows);
    this.words = new Uint32Array(this.pixels.data.buffer);
    const observer = new ResizeObserver(() => this.place());
    observer.observe(this.stage);
    signal.addEventListener("abort", () => observer.disconnect());
  }

  #letters() {
    const letters = edgeLetters(this.series.row_direction, this.series.column_direction);
    if (!letters) return [];
    return Object.entries(letters).map(([side, text]) => el("span", {class: `edge ${side}`}, text));
  }

  /** @param {Int16Array} values of the slice @param {Uint32Array} table see `windowTable` */
  drawSlice(values, table) {
    for (let i = 0; i < values.length; i++) this.words[i] = table[values[i] + 32768];
    this.slicePen.putImageData(this.pixels, 0, 0);
  }

  /** Take the slice away, so that no other one stands in its place. */
  clearSlice() {
    this.slicePen.clearRect(0, 0, this.series.columns, this.series.rows);
  }

  /**
   * Draw a map over the slice in one hue, the stronger the less transparent.
   * @param {HeatMap | undefined} map nothing for none @param {{height: number, width: number}} [size]
   */
  drawMap(map, size) {
    this.mapPen.setTransform(1, 0, 0, 1, 0, 0);
    this.mapPen.clearRect(0, 0, this.series.columns, this.series.rows);
    if (!map || !size) return;
    const cells = el("canvas", {width: size.width, height: size.height});
    const pen = /** @type {CanvasRenderingContext2D} */ (cells.getContext("2d"));
    pen.fillStyle = getComputedStyle(this.stage).getPropertyValue("--series");
    pen.fillRect(0, 0, size.width, size.height);
    const hue = pen.getImageData(0, 0, size.width, size.height);
    for (let i = 0; i < map.values.length; i++) hue.data[4 * i + 3] = map.values[i];
    pen.putImageData(hue, 0, 0);
    this.mapPen.setTransform(...canvasMatrix(map.affine));
    this.mapPen.drawImage(cells, 0, 0);
  }

  /** @param {Box[]} boxes of the slice shown */
  drawBoxes(boxes) {
    this.boxes.replaceChildren(
      ...boxes.map(({x, y, width, height, label, score}) => {
        const frame = {class: "box", "--x": x, "--y": y, "--width": width, "--height": height};
        return el("div", frame, el("span", {}, `${words(label)} ${share(score)}`));
      })
    );
  }

  /** Screen px per pixel column of the slice. */
  get scale() {
    const {clientWidth, clientHeight} = this.stage;
    const fit = Math.min(clientWidth / this.series.columns, clientHeight / (this.series.rows * this.aspect));
    return fit * this.view.zoom;
  }

  /** Where the picture's corner is in the stage, in CSS px. */
  get origin() {
    const {columns, rows} = this.series;
    const [free, freeDown] = [columns * this.scale, rows * this.aspect * this.scale];
    return {
      x: (this.stage.clientWidth - free) / 2 + this.view.x,
      y: (this.stage.clientHeight - freeDown) / 2 + this.view.y
    };
  }

  /** Put sheet and boxes where zoom and pan say. */
  place() {
    const {x, y} = this.origin;
    const scale = this.scale;
    this.sheet.style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
    this.sheet.classList.toggle("sharp", scale >= SHARP_PX);
    this.boxes.style.translate = `${x}px ${y}px`;
    this.boxes.style.setProperty("--column", `${scale}px`);
    this.boxes.style.setProperty("--row", `${scale * this.aspect}px`);
  }

  /**
   * Zoom; the point of the picture there stays where it is.
   * @param {number} factor @param {{x: number, y: number}} [at] in the window; without it the middle of the stage
   */
  zoomBy(factor, at) {
    const frame = this.stage.getBoundingClientRect();
    const zoom = Math.min(Math.max(this.view.zoom * factor, 1), MAX_ZOOM);
    const grown = zoom / this.view.zoom;
    const fromMiddle = at ? {x: at.x - frame.x - frame.width / 2, y: at.y - frame.y - frame.height / 2} : {x: 0, y: 0};
    this.view.x = fromMiddle.x - (fromMiddle.x - this.view.x) * grown;
    this.view.y = fromMiddle.y - (fromMiddle.y - this.view.y) * grown;
    this.view.zoom = zoom;
    this.panBy(0, 0);
  }

  /** Pan, as far as the middle of the stage stays on the picture. @param {number} dx CSS px @param {number} dy */
  panBy(dx, dy) {
    const halfWidth = (this.series.columns * this.scale) / 2;
    const halfHeight = (this.series.rows * this.aspect * this.scale) / 2;
    this.view.x = Math.min(Math.max(this.view.x + dx, -halfWidth), halfWidth);
    this.view.y = Math.min(Math.max(this.view.y + dy, -halfHeight), halfHeight);
    this.place();
  }

  /** The whole picture in the middle again. */
  fit() {
    this.view = {zoom: 1, x: 0, y: 0};
    this.place();
  }

  /**
   * The pixel under a point of the window; null beside the picture.
   * @param {{x: number, y: number}} at @returns {Pixel | null}
   */
  pixelAt(at) {
    const frame = this.stage.getBoundingClientRect();
    const {x, y} = this.origin;
    const column = Math.floor((at.x - frame.x - x) / this.scale);
    const row = Math.floor((at.y - frame.y - y) / (this.scale * this.aspect));
    const isInside = column >= 0 && row >= 0 && column < this.series.columns && row < this.series.rows;
    return isInside ? {column, row} : null;
  }
}
