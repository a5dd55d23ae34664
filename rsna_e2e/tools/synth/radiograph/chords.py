"""How much of a ray lies in tubes: exact for straight ones in a parallel beam, with mitred joints between them.

A chain of tubes is cut at each joint by the plane that halves the angle there, so that nothing is counted
twice and there is no gap. Other ends are flat.
"""

# T tubes, P x P pixels of a square around a tube

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.records import Float32Array, Float64Array
from rsna_e2e.tools.synth.chest.tubes import Int64Array, Tubes
from rsna_e2e.tools.synth.common.shapes import coverage
from rsna_e2e.tools.synth.radiograph.beam import Beam

PATCHES = (6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192)  # pixels
CHUNK_PIXELS = 120_000  # of one computation: its arrays stay in the cache
PIECE_RADII = 5.0  # longer tubes are divided, which leaves less of their squares empty
FLAT = 1e-3  # least component of a normal along the ray that is divided by
END_ON = 0.08  # least sine of the angle between a tube and the ray


@dataclass(frozen=True, slots=True)
class _Seen:
    """Tubes along the beam: start, unit axis, and normals of both end planes [T, 3] (u, v, w), radii [T, 2]."""

    start: Float64Array
    axis: Float64Array
    length: Float64Array
    radius: Float64Array
    normals: tuple[Float64Array, Float64Array]

    def at(self, chosen: Int64Array) -> "_Seen":
        first, last = self.normals
        return _Seen(
            self.start[chosen], self.axis[chosen], self.length[chosen], self.radius[chosen],
            (first[chosen], last[chosen]),
        )  # fmt: skip


def projected(tubes: Tubes, weight: Float64Array, beam: Beam) -> Float32Array:
    """Sum over tubes of `weight` [T] times the length (mm) of each ray within them: [rows, columns]."""
    result = np.zeros((beam.rows, beam.columns), np.float64)
    tubes, weight = _pieces(tubes, weight)
    if len(tubes) == 0:
        return result.astype(np.float32)
    seen = _along(tubes, beam)
    low, size = _squares(seen, beam)
    margin = PATCHES[-1]
    is_near = np.all((low > -margin) & (low < np.array([beam.columns, beam.rows])), axis=1) & (weight != 0.0)
    patch = np.array(PATCHES)[np.minimum(np.searchsorted(PATCHES, size), len(PATCHES) - 1)]
    larger = beam.magnification(0.5 * (tubes.start[:, 1] + tubes.end[:, 1]))
    canvas = np.zeros((beam.rows + 2 * margin) * (beam.columns + 2 * margin))
    for p in np.unique(patch[is_near]).tolist():
        members = np.flatnonzero(is_near & (patch == p))
        step = max(CHUNK_PIXELS // (p * p), 1)
        for chosen in (members[i : i + step] for i in range(0, len(members), step)):
            length = _chords(seen.at(chosen), low[chosen], p, beam)
            length *= (weight[chosen] / larger[chosen]).astype(np.float32)[:, None, None]
            cells = (low[chosen, 1:] + margin + np.arange(p))[:, :, None] * (beam.columns + 2 * margin)
            cells = cells + (low[chosen, :1] + margin + np.arange(p))[:, None, :]
            first = int(cells.min())
            found = np.bincount((cells - first).ravel(), weights=length.ravel())
            canvas[first : first + len(found)] += found
    whole = canvas.reshape(beam.rows + 2 * margin, -1)
    return whole[margin : margin + beam.rows, margin : margin + beam.columns].astype(np.float32)


def _pieces(tubes: Tubes, weight: Float64Array) -> tuple[Tubes, Float64Array]:
    """Divide long tubes, in order."""
    length = np.sqrt(((tubes.end - tubes.start) ** 2).sum(axis=1))
    n = np.maximum(np.ceil(length / (PIECE_RADII * tubes.radius_mm.max(axis=1, initial=0.5))), 1.0).astype(np.int64)
    of = np.repeat(np.arange(len(n)), n)
    number = np.arange(len(of)) - np.repeat(np.cumsum(n) - n, n)
    a, b = (number / n[of])[:, None], ((number + 1) / n[of])[:, None]
    start, way, r = tubes.start[of], (tubes.end - tubes.start)[of], tubes.radius_mm[of]
    end = np.where(b == 1.0, tubes.end[of], start + b * way)  # exactly where the next one starts
    radius = np.concatenate([r[:, :1] + a * (r[:, 1:] - r[:, :1]), r[:, :1] + b * (r[:, 1:] - r[:, :1])], axis=1)
    found = Tubes(start=np.where(a == 0.0, start, start + a * way), end=end, radius_mm=radius, layer=tubes.layer[of])
    return found, weight[of]


def _along(tubes: Tubes, beam: Beam) -> _Seen:
    start, end = beam.seen(tubes.start), beam.seen(tubes.end)
    axis = end - start
    length = np.sqrt((axis * axis).sum(axis=1)) + 1e-6
    axis /= length[:, None]
    flat = np.hypot(axis[:, 0], axis[:, 1])
    axis[:, 0] += np.where(flat < END_ON, END_ON, 0.0)
    joined = np.all(end[:-1] == start[1:], axis=1) & (np.abs(tubes.radius_mm[:-1, 1] - tubes.radius_mm[1:, 0]) < 0.5)
    mitre = axis[:-1] + axis[1:]
    first, last = axis.copy(), axis.copy()
    first[1:][joined] = mitre[joined]
    last[:-1][joined] = mitre[joined]
    larger = np.stack([beam.magnification(tubes.start[:, 1]), beam.magnification(tubes.end[:, 1])], axis=1)
    return _Seen(start, axis, length, tubes.radius_mm * larger, (_steep(first), _steep(last)))


def _steep(normals: Float64Array) -> Float64Array:
    """Normals whose component along the ray is never too near to 0."""
    w = normals[:, 2]
    normals[:, 2] = np.where(np.abs(w) < FLAT, np.where(w < 0.0, -FLAT, FLAT), w)
    return normals


def _squares(seen: _Seen, beam: Beam) -> tuple[Int64Array, Int64Array]:
    """First pixel (column, row) [T, 2] and size [T] of the square around each tube."""
    ends = np.stack([seen.start, seen.start + seen.axis * seen.length[:, None]])[:, :, :2]
    reach = seen.radius.max(axis=1)[:, None]
    # a mitred end reaches beyond the axis' end
    low, high = ends.min(axis=0) - 1.3 * reach, ends.max(axis=0) + 1.3 * reach
    first = np.stack([(low[:, 0] - beam.u_mm[0]) / beam.pixel_mm, (beam.v_mm[0] - high[:, 1]) / beam.pixel_mm], axis=1)
    last = np.stack([(high[:, 0] - beam.u_mm[0]) / beam.pixel_mm, (beam.v_mm[0] - low[:, 1]) / beam.pixel_mm], axis=1)
    corner = np.floor(first).astype(np.int64)
    return corner, (np.ceil(last).astype(np.int64) - corner).max(axis=1) + 1


def _chords(seen: _Seen, low: Int64Array, p: int, beam: Beam) -> Float32Array:
    """Length of each ray within each tube [T, P, P], in (u, v, w)."""

    def column(values: npt.NDArray[np.float64]) -> Float32Array:
        return values.astype(np.float32)[:, None, None]

    pixels = np.arange(p)
    du = ((low[:, :1] + pixels) * beam.pixel_mm + (beam.u_mm[0] - seen.start[:, :1])).astype(np.float32)[:, None, :]
    dv = ((beam.v_mm[0] - seen.start[:, 1:2]) - (low[:, 1:] + pixels) * beam.pixel_mm).astype(np.float32)[:, :, None]
    au, av, aw = seen.axis.T
    flat2 = au * au + av * av
    t = du * column(au / flat2) + dv * column(av / flat2)  # along the axis, where the ray passes it
    aside = du * column(av) - dv * column(au)
    aside *= aside
    aside *= column(-1.0 / flat2)
    radius = np.clip(t, 0.0, column(seen.length))
    radius *= column((seen.radius[:, 1] - seen.radius[:, 0]) / seen.length)
    radius += column(seen.radius[:, 0])
    radius *= radius
    radius += aside
    half = np.sqrt(np.maximum(radius, 0.0, out=radius), out=radius)
    half *= column(1.0 / np.sqrt(flat2))
    t *= column(aw)
    low_w, high_w = t - half, t
    high_w += half
    for normal, start, sign in zip(seen.normals, (0.0, 1.0), (1.0, -1.0), strict=True):
        nu, nv, nw = normal.T
        level = (normal * seen.axis).sum(axis=1) * seen.length * start
        bound = column(level / nw) - du * column(nu / nw) - dv * column(nv / nw)
        is_low = column(sign * nw) > 0.0
        np.maximum(low_w, bound, out=low_w, where=is_low)
        np.minimum(high_w, bound, out=high_w, where=~is_low)
    high_w -= low_w
    return np.asarray(np.where(half > 0.0, np.maximum(high_w, 0.0, out=high_w), 0.0))


def facing(corners: Float64Array, beam: Beam) -> Float32Array:
    """Share of each pixel [rows, columns] that a flat convex plate covers; its corners [n, 3] go around it."""
    seen = beam.seen(corners)[:, :2]
    middle = seen.mean(axis=0)
    distance = np.full((beam.rows, beam.columns), -np.inf, np.float32)
    for a, b in zip(seen, np.roll(seen, -1, axis=0), strict=True):
        out = np.array([b[1] - a[1], a[0] - b[0]]) / np.hypot(*(b - a))
        out *= -np.sign(out @ (middle - a))
        plane = (out[0] * (beam.u_mm - a[0]) + out[1] * (beam.v_mm - a[1])[:, None]).astype(np.float32)
        np.maximum(distance, plane, out=distance)
    return coverage(distance, beam.pixel_mm)
