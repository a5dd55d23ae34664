// Mouse, wheel, pen and touch on the picture, as what they mean: slices, window, pan and zoom.

const LONG_PRESS_MS = 450;
const STILL_PX = 8; // a finger that moved less has not moved
const SLICE_PX = 14; // of a finger's way, for one slice
const WHEEL_PX = 40; // of a wheel's way; a notch of a mouse is about 100

/**
 * @typedef {{x: number, y: number}} Point in the window, CSS px
 * @typedef {{step: (n: number) => void, windowBy: (dx: number, dy: number) => void,
 *   panBy: (dx: number, dy: number) => void, zoomBy: (factor: number, at: Point) => void,
 *   hover: (at: Point | null) => void}} Meanings
 */

/**
 * Listen to a stage. Mouse: drag sets the window, with shift or the middle button it pans; the wheel goes through slices,
 * with control (also a pinch on a touchpad) it zooms. Touch: one finger goes through slices, after a long press it sets
 * the window; two fingers pan and zoom.
 * @param {HTMLElement} stage @param {Meanings} meanings @param {AbortSignal} signal
 */
export function listen(stage, meanings, signal) {
  const touch = new Touch(meanings);
  /** @type {PointerEvent | null} */
  let last = null;
  const on = (/** @type {string} */ type, /** @type {(event: any) => void} */ listener) =>
    stage.addEventListener(type, listener, {signal, passive: false});

  on("pointerdown", event => {
    if (event.target.closest("button")) return;
    stage.setPointerCapture(event.pointerId);
    if (event.pointerType === "touch") return touch.down(event);
    if (event.button > 1) return;
    event.preventDefault(); // no scrolling by the middle button
    last = event;
  });
  on("pointermove", event => {
    meanings.hover(event);
    if (event.pointerType === "touch") return touch.move(event);
    if (!last) return;
    const [dx, dy] = [event.clientX - last.clientX, event.clientY - last.clientY];
    if (event.shiftKey || event.buttons & 4) meanings.panBy(dx, dy);
    else meanings.windowBy(dx, dy);
    last = event;
  });
  for (const type of ["pointerup", "pointercancel"]) {
    on(type, event => {
      last = null;
      touch.up(event);
    });
  }
  on("pointerleave", () => meanings.hover(null));
  on("contextmenu", event => event.preventDefault()); // a long press would open it
  let way = 0;
  on("wheel", event => {
    event.preventDefault();
    const delta = event.deltaMode === 1 ? event.deltaY * WHEEL_PX : event.deltaY;
    if (event.ctrlKey) return meanings.zoomBy(Math.exp(-delta / 200), event);
    way = Math.sign(way) === Math.sign(delta) ? way + delta : delta;
    if (Math.abs(way) < WHEEL_PX) return;
    meanings.step(Math.sign(way));
    way = 0;
  });
}

/** Fingers on the stage. */
class Touch {
  /** @param {Meanings} meanings */
  constructor(meanings) {
    this.meanings = meanings;
    /** @type {Map<number, Point>} */
    this.fingers = new Map();
    this.sets = false; // a long press has turned the drag into one of the window
    this.moved = false;
    this.way = 0;
    /** @type {number | undefined} */
    this.timer = undefined;
  }

  /** @param {PointerEvent} event */
  down(event) {
    this.fingers.set(event.pointerId, {x: event.clientX, y: event.clientY});
    clearTimeout(this.timer);
    if (this.fingers.size > 1) return;
    Object.assign(this, {sets: false, moved: false, way: 0});
    this.timer = setTimeout(() => (this.sets = !this.moved), LONG_PRESS_MS);
  }

  /** @param {PointerEvent} event */
  move(event) {
    const from = this.fingers.get(event.pointerId);
    if (!from) return;
    const to = {x: event.clientX, y: event.clientY};
    if (this.fingers.size === 2) {
      const [other] = [...this.fingers].filter(([id]) => id !== event.pointerId).map(([, point]) => point);
      this.meanings.panBy((to.x - from.x) / 2, (to.y - from.y) / 2);
      this.meanings.zoomBy(apart(to, other) / Math.max(apart(from, other), 1), middle(to, other));
    } else if (this.fingers.size === 1) {
      if (!this.moved && apart(from, to) < STILL_PX && !this.sets) return;
      this.moved = true;
      if (this.sets) this.meanings.windowBy(to.x - from.x, to.y - from.y);
      else this.#scroll(to.y - from.y);
    }
    this.fingers.set(event.pointerId, to);
  }

  /** @param {number} dy */
  #scroll(dy) {
    this.way += dy;
    const n = Math.trunc(this.way / SLICE_PX);
    this.way -= n * SLICE_PX;
    if (n) this.meanings.step(n);
  }

  /** @param {PointerEvent} event */
  up(event) {
    this.fingers.delete(event.pointerId);
    clearTimeout(this.timer);
  }
}

/** @param {Point} a @param {Point} b */
const apart = (a, b) => Math.hypot(a.x - b.x, a.y - b.y);

/** @param {Point} a @param {Point} b */
const middle = (a, b) => ({x: (a.x + b.x) / 2, y: (a.y + b.y) / 2});
