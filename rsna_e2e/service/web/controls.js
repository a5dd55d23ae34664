// The controls above the picture, and the keys.

import {extended, ROOT} from "./api.js";
import {button, byId, el, heading, outside} from "./dom.js";
/** @import {Window} from "../web_types" */
/** @import {Viewer} from "./viewer.js" */

const ZOOM_STEP = 1.25;
const PAGE = 5; // slices of PgUp and PgDn

/** In localStorage: whether keys of letters, digits and signs are off, see the help. */
export const LETTERS_OFF = "rsna_e2e.letters_off";

/** A number of a window, with at most one digit. @param {number} value */
export const round = value => Math.round(value * 10) / 10;

/** @param {string} name with its key */
const named = name => ({"aria-label": name, title: name});

export class Controls {
  /** @param {Viewer} viewer */
  constructor(viewer) {
    this.viewer = viewer;
    this.presets = el("select", {"aria-label": "Window", title: "Window (W)", onchange: () => this.#preset()});
    this.offer(viewer.windows);
    this.center = this.#number("Window centre");
    this.width = this.#number("Window width");
    this.labels = el(
      "select",
      {"aria-label": "Label", title: "Label (1–9)", onchange: () => viewer.choose(this.labels.selectedIndex)},
      ...viewer.rows.map(({name}) => el("option", {}, heading(name)))
    );
    this.overlay = button("Overlay", () => viewer.toggleOverlay(), named("Overlay (H)"));
    const range = {type: "range", min: 0.1, max: 1, step: 0.05, value: 0.9, "aria-label": "Opacity of the overlay"};
    this.opacity = el("input", {...range, oninput: () => viewer.update()});
    this.picture = outside("Picture of this slice", "", "button");
    this.element = this.#toolbar();
  }

  #toolbar() {
    const {viewer} = this;
    const group = (/** @type {Node[]} */ ...controls) => el("span", {class: "group"}, ...controls);
    return el(
      "div",
      {class: "toolbar", role: "group", "aria-label": "View"},
      group(this.presets, this.center, this.width),
      group(
        this.labels,
        button("◀", () => viewer.goToKeySlice(-1), named("Previous key slice (P)")),
        button("▶", () => viewer.goToKeySlice(1), named("Next key slice (N)"))
      ),
      group(this.overlay, this.opacity),
      group(
        button("−", () => viewer.film.zoomBy(1 / ZOOM_STEP), named("Zoom out (−)")),
        button("+", () => viewer.film.zoomBy(ZOOM_STEP), named("Zoom in (+)")),
        button("Reset", () => viewer.reset(), named("Reset window and zoom (R)"))
      )
    );
  }

  /** Let the reader choose from these windows. @param {Window[]} windows */
  offer(windows) {
    const texts = windows.map(({name, center, width}) => `${heading(name)} ${round(center)}/${round(width)}`);
    this.presets.replaceChildren(...[...texts, "Own window"].map(text => el("option", {}, text)));
  }

  /** @param {string} name */
  #number(name) {
    return el("input", {type: "number", step: "any", "aria-label": name, title: name, onchange: () => this.#own()});
  }

  #preset() {
    const window = this.viewer.windows[this.presets.selectedIndex];
    if (window) this.viewer.setWindow(window);
    else this.center.focus();
  }

  #own() {
    const [center, width] = [this.center.valueAsNumber, this.width.valueAsNumber];
    if (Number.isFinite(center) && Number.isFinite(width)) this.viewer.setWindow({name: "own", center, width});
  }

  /** Show the viewer's state. */
  show() {
    const {windows, window, rows, label, overlay, path, version, place, film} = this.viewer;
    const at = windows.findIndex(({name}) => name === window?.name);
    this.presets.selectedIndex = at < 0 ? windows.length : at;
    for (const side of /** @type {const} */ (["center", "width"])) {
      if (window && document.activeElement !== this[side]) this[side].value = String(round(window[side]));
    }
    this.labels.selectedIndex = label;
    this.overlay.setAttribute("aria-pressed", String(overlay));
    this.opacity.disabled = !overlay;
    film.map.style.opacity = this.opacity.value;
    this.picture.hidden = !rows[label].hasPictures || !rows[label].keySlices.includes(place);
    const marks = !overlay ? "" : rows[label].boxes.length ? "boxes" : "map";
    const shown = extended(version, {label: rows[label].name, marks});
    this.picture.href = `${ROOT}${path}/pictures/${place}.png${shown}`;
  }
}

/**
 * Do what a key means, unless it is meant for the control that has the focus.
 * @param {KeyboardEvent} event @param {Viewer} viewer
 */
export function onKey(event, viewer) {
  const target = /** @type {HTMLElement} */ (event.target);
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  const typed = "select, input:not([type=range], [type=checkbox])";
  if (document.querySelector("dialog[open]") || target.matches(typed)) return;
  const isLetter = event.key.length === 1;
  if (isLetter ? localStorage.getItem(LETTERS_OFF) : target.matches("[type=range], [role=region]")) return;
  const act = action(event.key.toLowerCase(), viewer);
  if (!act) return;
  event.preventDefault();
  act();
}

/** What a key does. @param {string} key in lower case @param {Viewer} viewer @returns {(() => void) | undefined} */
function action(key, viewer) {
  if (/^[1-9]$/.test(key)) return () => viewer.choose(Number(key) - 1);
  const step = (/** @type {number} */ n) => () => viewer.go(viewer.place + n);
  /** @type {Record<string, () => void>} */
  const actions = {
    arrowup: step(-1),
    arrowdown: step(1),
    pageup: step(-PAGE),
    pagedown: step(PAGE),
    home: () => viewer.go(0),
    end: () => viewer.go(viewer.series.n_slices - 1),
    h: () => viewer.toggleOverlay(),
    n: () => viewer.goToKeySlice(1),
    p: () => viewer.goToKeySlice(-1),
    w: () => viewer.nextWindow(),
    r: () => viewer.reset(),
    "+": () => viewer.film.zoomBy(ZOOM_STEP),
    "-": () => viewer.film.zoomBy(1 / ZOOM_STEP),
    "?": () => byId("help").showModal()
  };
  return Object.hasOwn(actions, key) ? actions[key] : undefined;
}
