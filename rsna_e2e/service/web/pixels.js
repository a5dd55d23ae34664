// Arithmetic of pictures, free of the page: windows, orientation letters, gaps, and the way from a map to a slice.

/** @import {Window} from "../web_types" */

/** A step between slices beyond this many median steps leaves room for a slice. */
const GAP = 1.5;

/**
 * Opaque grey of each int16 value, in a window after PS3.3 C.11.2.1.3.2 (LINEAR_EXACT): from center - width/2 on.
 * Entry v + 32768 is of value v. Halves go to the even neighbour, as in Uint8ClampedArray and numpy.rint.
 * @param {number} center @param {number} width
 * @returns {Uint32Array} 65,536 pixels in the order of ImageData on little-endian machines
 */
export function windowTable(center, width) {
  const lower = center - width / 2;
  const grey = new Uint8ClampedArray(65536);
  const table = new Uint32Array(65536);
  for (let entry = 0; entry < 65536; entry++) {
    grey[entry] = ((entry - 32768 - lower) / width) * 255;
    table[entry] = 0xff000000 | (grey[entry] * 0x010101);
  }
  return table;
}

/** The window from the lowest to the highest value of a slice. @param {Int16Array} values @returns {Window} */
export function fullWindow(values) {
  let [low, high] = [32767, -32768];
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return {name: "full range", center: (low + high) / 2, width: Math.max(high - low, 1)};
}

/**
 * Letters of where a direction points, the largest part first, after PS3.3 C.7.6.2: +x is the patient's left, +y
 * posterior, +z head. Parts below a quarter, about 15 degrees, are left out.
 * @param {number[]} direction unit vector @returns {string} such as "L" or "AR"
 */
export function letters(direction) {
  return direction
    .map((part, axis) => ({size: Math.abs(part), letter: (part > 0 ? "LPH" : "RAF")[axis]}))
    .filter(({size}) => size > 0.25)
    .sort((a, b) => b.size - a.size)
    .map(({letter}) => letter)
    .join("");
}

/**
 * Letters at the four edges of a picture.
 * @param {number[] | null} rowDirection in which columns rise @param {number[] | null} columnDirection in which rows do
 * @returns {{left: string, right: string, top: string, bottom: string} | null} null where the directions are unknown
 */
export function edgeLetters(rowDirection, columnDirection) {
  if (!rowDirection || !columnDirection) return null;
  const against = (/** @type {number[]} */ direction) => letters(direction.map(part => -part));
  return {
    left: against(rowDirection),
    right: letters(rowDirection),
    top: against(columnDirection),
    bottom: letters(columnDirection)
  };
}

/**
 * The matrix for drawing a map onto a canvas with one pixel per pixel of the slice. An affine [a, b, c, d, e, f] leads
 * from a map's cell to a pixel, both counted at their centres from 0; a canvas counts from corners, half a pixel off.
 * @param {number[]} affine column = a x + b y + c, row = d x + e y + f
 * @returns {[number, number, number, number, number, number]} in the order that setTransform takes
 */
export function canvasMatrix([a, b, c, d, e, f]) {
  return [a, d, b, e, c + 0.5 - (a + b) / 2, f + 0.5 - (d + e) / 2];
}

/**
 * Places of slices from 0 to 1 along a series, with the borders between them, and where slices are missing.
 * @param {(number | null)[] | null} placeMm @param {number} nSlices
 * @returns {{edges: [number, number][], gaps: [number, number][], inMm: boolean}} edges of each slice; slices beside a
 * gap reach half a median step into it
 */
export function layout(placeMm, nSlices) {
  const known = /** @type {number[]} */ (placeMm ?? []);
  const steps = known.slice(1).map((place, i) => place - known[i]);
  const inMm =
    nSlices > 1 && known.length === nSlices && !known.includes(/** @type {any} */ (null)) && steps.every(s => s > 0);
  const places = inMm ? known : Array.from({length: nSlices}, (_, i) => i);
  const median = inMm ? steps.toSorted((a, b) => a - b)[steps.length >> 1] : 1;
  const half = places.map((place, i) => {
    const step = i + 1 < nSlices ? places[i + 1] - place : median;
    return step > GAP * median ? median / 2 : step / 2;
  });
  const start = places[0] - half[0];
  const length = places[nSlices - 1] + half[nSlices - 1] - start;
  const share = (/** @type {number} */ place) => (place - start) / length;
  /** @type {[number, number][]} */
  const edges = places.map((place, i) => [share(place - half[Math.max(i - 1, 0)]), share(place + half[i])]);
  /** @type {[number, number][]} */
  const gaps = [];
  for (let i = 1; i < nSlices; i++) if (edges[i][0] - edges[i - 1][1] > 1e-6) gaps.push([edges[i - 1][1], edges[i][0]]);
  return {edges, gaps, inMm};
}
