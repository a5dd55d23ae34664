"""The body as distance fields on a coarse grid: skin, muscle, lungs, the air in the stomach."""

# Y depths, Z heights, X places from side to side

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from rsna_e2e.core.records import Float32Array, Float64Array
from rsna_e2e.tools.synth.chest import organs
from rsna_e2e.tools.synth.chest.tubes import Tubes
from rsna_e2e.tools.synth.common.shapes import (
    Field,
    Points,
    ellipsoid,
    intersection,
    smooth_intersection,
    smooth_union,
    tube,
)
from rsna_e2e.tools.synth.radiograph.patient import SHOULDER, Person

STEP_MM = 6.0
X_MM, Y_MM, Z_MM = (-222.0, 222.0), (-150.0, 132.0), (-258.0, 198.0)
HEART_LEFT_MM = 9.0  # by which the heart of `organs` is moved to stand as in a radiograph
APEX_MM = 18.0
NEAR_MM = 12.0  # how far around vessels their distance is computed


@lru_cache(maxsize=1)
def axes() -> tuple[Float64Array, Float64Array, Float64Array]:
    """Places of the grid's samples along x, y and z, mm, in the world."""
    x, y, z = (np.arange(low, high + 0.5 * STEP_MM, STEP_MM) for low, high in (X_MM, Y_MM, Z_MM))
    return x, y, z


def canonical(person: Person, rotation: Float64Array) -> Points:
    """Places [Y, Z, X] of the grid in the canonical chest."""
    x, y, z = axes()
    to_body = rotation.T / np.array(person.chest.scale)[:, None]
    start = to_body @ -np.array(person.centre_mm)
    parts = [
        (start[i] + to_body[i, 1] * y[:, None, None] + to_body[i, 2] * z[:, None] + to_body[i, 0] * x).astype(
            np.float32
        )
        for i in range(3)
    ]
    return Points(*parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """Distances (mm) [Y, Z, X] of one patient, with the places they are at, and parts that findings refer to."""

    places: Points
    skin: Float32Array
    muscle: Float32Array
    lung: Float32Array
    cage: Float32Array
    dome: Float32Array
    bubble: Float32Array

    def at(self, field: Float32Array, points: Float64Array) -> Float64Array:
        """Values of a field at points [n, 3] of the world, the nearest sample's."""
        index = []
        for axis, column in zip(axes(), (0, 1, 2), strict=True):
            near = np.rint((points[:, column] - axis[0]) / STEP_MM).astype(np.int64)
            index.append(np.clip(near, 0, len(axis) - 1))
        return np.asarray(field[index[1], index[2], index[0]], np.float64)


def make_body(person: Person, rotation: Float64Array, vessels: Tubes) -> Body:
    """Compute all fields. vessels: large ones between the lungs, in the canonical chest."""
    p = canonical(person, rotation)
    slim = Points(narrowed(p.x, p.z), p.y, p.z)
    bend = person.chest.sheets(p)
    cage = smooth_intersection(organs.cage_distance(slim), _spine(slim), 10.0)
    dome = _dome(person, p, bend)
    z = np.where(p.z < 0.0, p.z * (1.0 / person.stretch), p.z)
    heart = organs.heart_distance(person.heart, Points((p.x - HEART_LEFT_MM) * (1.0 / person.heart_width), p.y, z))[
        "heart"
    ]
    mediastinum = organs.mediastinum_distance(p, heart)
    front = intersection(np.abs(p.x - 3.0) - 10.0 - 0.12 * np.abs(p.z - 10.0), p.y + 40.0)
    below = tube(p, (14.0, -18.0, -92.0), (18.0, -16.0, -170.0), (30.0, 34.0))  # the heart rests on the diaphragm
    mediastinum = smooth_union(smooth_union(mediastinum, front, 16.0), below, 12.0)
    mediastinum = smooth_union(mediastinum, vessel_distance(p, vessels), 4.0)
    skin, muscle = _wall(person, p)
    return Body(
        places=p,
        skin=skin,
        muscle=muscle,
        lung=organs.lung_distance(cage, mediastinum, dome, bend),
        cage=cage,
        dome=dome,
        bubble=_bubble(person, p, cage, dome),
    )


def _spine(p: Points) -> Field:
    """Distance to what lies beside a wedge with the spine in it: its sides are oblique, so that they make no edge."""
    return np.asarray((20.0 + 0.45 * (p.y - 34.0) - np.abs(p.x)) * 0.91)


def _apex(x: Field, z: Field) -> Field:
    """How much wider (mm) than in `organs` the chest is near its top, where a radiograph shows its outline."""
    out = np.clip(np.abs(x) * (1.0 / 55.0), 0.0, 1.0)
    return np.asarray(np.sign(x) * APEX_MM * out * out * np.exp(-(((z - 66.0) * (1.0 / 58.0)) ** 2)))


def widened(x: Field, z: Field) -> Field:
    """Where the places of `organs` are in the chest of a radiograph."""
    return np.asarray(x + _apex(x, z))


def narrowed(x: Field, z: Field) -> Field:
    """The inverse of `widened`, nearly."""
    return np.asarray(x - _apex(x - 0.7 * _apex(x, z), z))


def _dome(person: Person, p: Points, bend: Field) -> Field:
    """Distance to the space under the diaphragm: two domes, steep towards the wall, the right one higher."""

    def fallen(x: float, y: float, wide: float, deep: float) -> Field:
        out = ((p.x - x) / wide) ** 2 + ((p.y - y) / deep) ** 2
        return np.asarray(person.fall_mm * out * np.sqrt(out) + 0.12 * np.maximum(p.y, 0.0))

    height = person.chest.dome_mm
    right = height - fallen(-58.0, -12.0, 78.0, 94.0)
    left = height - person.left_lower_mm - fallen(64.0, -4.0, 74.0, 90.0)
    middle = height - 24.0 - np.abs(p.y + 12.0) * 0.28
    top = smooth_union(smooth_union(-right, -left, 26.0), -middle, 26.0)
    return np.asarray((p.z + top + 2.0 * bend) * 0.7)


def vessel_distance(p: Points, vessels: Tubes) -> Field:
    """Distance to tubes, near them only: elsewhere it is large."""
    found = np.full_like(p.x, 60.0)
    for start, end, radius in zip(vessels.start, vessels.end, vessels.radius_mm, strict=True):
        reach = float(radius.max()) + NEAR_MM
        window = _window(p, np.minimum(start, end) - reach, np.maximum(start, end) + reach)
        near = Points(p.x[window], p.y[window], p.z[window])
        distance = tube(near, tuple(start), tuple(end), (float(radius[0]), float(radius[1])))
        np.minimum(found[window], distance, out=found[window])
    return found


def _window(p: Points, low: Float64Array, high: Float64Array) -> tuple[slice, slice, slice]:
    """Samples that hold a box of canonical places, the patient being tilted a little."""
    spans = []
    for values, axis, a, b in ((p.y, 0, low[1], high[1]), (p.z, 1, low[2], high[2]), (p.x, 2, low[0], high[0])):
        others = tuple(i for i in range(3) if i != axis)
        inside = np.flatnonzero((values.max(axis=others) > a) & (values.min(axis=others) < b))
        spans.append(slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0))
    return spans[0], spans[1], spans[2]


def _wall(person: Person, p: Points) -> tuple[Field, Field]:
    """Distances to skin and to muscle: trunk, shoulders, neck, arms that hang; breasts hold no muscle."""
    chest, folded = person.chest, p.folded
    more = 0.5 * (chest.muscle_mm + chest.fat_mm)
    a = 146.0 + 2.0 * more
    b = 100.0 + 0.6 * chest.muscle_mm + chest.fat_mm - np.clip(p.z - 30.0, 0.0, 90.0) * 0.3
    k = ((folded.x / a) ** 2.5 + (np.abs(p.y - 9.0) / b) ** 2.5) ** 0.4
    top = (p.z - 112.0 + 0.4 * np.maximum(folded.x - 45.0, 0.0)) * 0.85
    trunk = smooth_intersection((k - 1.0) * (0.45 * (a + b)), top, 24.0)
    slope = tube(folded, (0.0, 24.0, 128.0), (150.0, 12.0, 86.0), (24.0 + more, 18.0 + more))
    joint = ellipsoid(folded, (160.0, 10.0, 64.0), (32.0 + more, 34.0 + more, 34.0 + more))
    neck = tube(p, (0.0, 14.0, 90.0), (0.0, 18.0, 240.0), (50.0 + 0.3 * more, 48.0 + 0.3 * more))
    bare = smooth_union(smooth_union(smooth_union(trunk, slope, 30.0), joint, 26.0), neck, 30.0)
    bare = smooth_union(bare, tube(folded, SHOULDER, person.elbow, (32.0 + more, 24.0 + more)), 6.0)
    skin = bare
    if chest.bust_mm > 0.0:
        breast = ellipsoid(folded, (72.0, -92.0, -74.0), (56.0, chest.bust_mm + 12.0, 54.0))
        skin = smooth_union(bare, breast, 26.0)
    return skin, np.asarray(bare + 0.8 * chest.fat_mm)


def _bubble(person: Person, p: Points, cage: Field, dome: Field) -> Field:
    """Distance to gas in the stomach, right below the left dome: flat below where the patient stands."""
    wide, high = person.bubble_mm
    top = person.chest.dome_mm - person.left_lower_mm
    shape = ellipsoid(p, (56.0, -8.0, top - 0.6 * high), (wide, 0.9 * wide, 1.4 * high))
    level = (top - 1.1 * high - p.z) if person.is_upright else p.y - 4.0
    return intersection(shape, level, cage + 8.0, dome + 3.5)
