"""The large organs of a chest as signed distances in millimetres.

Frame: LPS, origin at the carina, x to the left, y to the back, z to the top. Positions and sizes are those of an adult
chest as drawn in any atlas of sectional anatomy, rounded to whole millimetres; every patient scales and shifts them.
"""

from dataclasses import dataclass

import numpy as np

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tools.synth.chest.patient import Chest
from rsna_e2e.tools.synth.common.shapes import (
    Field,
    Point,
    Points,
    blob,
    ellipsoid,
    intersection,
    smooth_intersection,
    smooth_union,
    tube,
    union,
)

CAGE_CENTRE: Point = (0.0, 5.0, -60.0)  # above its middle the cage narrows to a dome
CAGE_RADII: Point = (132.0, 92.0, 168.0)
SPINE_Y_MM = 49.0  # middle of the vertebral bodies
HEART: Point = (14.0, -20.0, -70.0)
AXES = np.array([[0.78, -0.58, -0.22], [0.59, 0.80, -0.02], [0.19, -0.11, 0.976]])  # base to apex; to the left wall; up
AXES /= np.linalg.norm(AXES, axis=1, keepdims=True)
SEPTUM_MM = 9.0
LV_WALL_MM = 10.0
RV_WALL_MM = 4.0
LV_CENTRE = (16.0, 17.0, 0.0)  # along AXES, from HEART


def cage_distance(p: Points) -> Field:
    """Distance to the space inside the ribs, without the spine."""
    low = Points(p.x, p.y, np.maximum(p.z, CAGE_CENTRE[2]))
    cage = ellipsoid(low, CAGE_CENTRE, CAGE_RADII)
    spine = np.hypot(p.x * (1.0 / 21.0), (p.y - (SPINE_Y_MM + 24.0)) * (1.0 / 41.0))
    spine -= 1.0
    spine *= 26.0
    return smooth_intersection(cage, -spine, 20.0)


def skin_distance(chest: Chest, p: Points) -> Field:
    """Distance to the skin: a flattened cylinder, wider at the shoulders, with breasts where there are any."""
    a = 146.0 + chest.muscle_mm + chest.fat_mm + np.clip(p.z - 40.0, 0.0, 60.0) * 0.35
    b = 100.0 + 0.6 * chest.muscle_mm + chest.fat_mm - np.clip(p.z - 40.0, 0.0, 80.0) * 0.22
    k = ((np.abs(p.x) / a) ** 2.5 + (np.abs(p.y - 9.0) / b) ** 2.5) ** 0.4
    skin = (k - 1.0) * (0.45 * (a + b))
    if chest.bust_mm > 0.0:
        breast = ellipsoid(p.folded, (78.0, -100.0, -52.0), (62.0, chest.bust_mm + 12.0, 58.0))
        skin = smooth_union(skin, breast, 25.0)
    return np.asarray(skin)


def dome_distance(chest: Chest, p: Points, bend: Field) -> Field:
    """Distance to the space under the diaphragm, whose right dome stands higher; `bend` are values of chest.sheets."""
    right = chest.dome_mm - _slope(p, (-64.0, -6.0), (96.0, 98.0))
    left = chest.dome_mm - 12.0 - _slope(p, (70.0, 4.0), (84.0, 92.0))
    middle = chest.dome_mm - 24.0 - np.abs(p.y + 12.0) * 0.28
    top = smooth_union(smooth_union(-right, -left, 30.0), -middle, 30.0)
    return np.asarray((p.z + top + 3.0 * bend) * 0.72)


def _slope(p: Points, centre: tuple[float, float], radii: tuple[float, float]) -> Field:
    """How far a dome has fallen (mm): flat on top, steep at the wall, deepest at the back."""
    out = ((p.x - centre[0]) / radii[0]) ** 2 + ((p.y - centre[1]) / radii[1]) ** 2
    return np.asarray(46.0 * out * np.sqrt(out) + 0.12 * np.maximum(p.y, 0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Heart:
    """The heart's shape: widths (mm) of both ventricles' lumen across the septum, and its size."""

    rv_mm: float
    lv_mm: float
    scale: float

    def local(self, p: Points) -> Points:
        """Places in the heart's own axes."""
        q = [v - c for v, c in zip((p.x, p.y, p.z), HEART, strict=True)]
        return Points(*(np.asarray(sum(a * v for a, v in zip(axis, q, strict=True))) for axis in AXES / self.scale))

    def left_ventricle(self, q: Points) -> Field:
        """Distance to the lumen of the left ventricle, in the heart's axes."""
        half = 0.5 * self.lv_mm
        return ellipsoid(q, LV_CENTRE, (41.0, half, half + 4.0))

    def right_ventricle(self, q: Points, left: Field) -> Field:
        """Distance to the lumen of the right ventricle, which lies around the septum."""
        septum = LV_CENTRE[1] - 0.5 * self.lv_mm - SEPTUM_MM
        width = self.rv_mm
        free = ellipsoid(q, (12.0, septum - 0.3 * width, -1.0), (40.0, 0.7 * width, 34.0))
        return smooth_intersection(free, SEPTUM_MM - left, 4.0)


def _right_atrium(p: Points) -> Field:
    """Distance to the right atrium."""
    return ellipsoid(p, (-31.0, -19.0, -72.0), (21.0, 25.0, 31.0))


def _left_atrium(p: Points) -> Field:
    """Distance to the left atrium, which lies before spine and oesophagus."""
    return ellipsoid(p, (4.0, 1.0, -50.0), (33.0, 18.0, 21.0))


def chamber_widths(heart: Heart) -> tuple[float, float]:
    """Greatest widths (mm) of the right and left ventricle across the septum, in any axial plane.

    Measured as on images: the longest run of lumen along a line at right angles to the septum, on a grid of 1 mm.
    """
    across = AXES[1] / np.linalg.norm(AXES[1][:2])
    u, v, z = np.meshgrid(np.arange(-40.0, 80.0, 2.0), np.arange(-75.0, 65.0), np.arange(-40.0, 41.0, 4.0))
    x = HEART[0] + u * across[1] + v * across[0]
    y = HEART[1] - u * across[0] + v * across[1]
    q = heart.local(Points(x, y, HEART[2] + z))
    left = heart.left_ventricle(q)
    right = heart.right_ventricle(q, left)
    runs: list[Float64Array] = [np.asarray(np.clip(0.5 - d, 0.0, 1.0)).sum(axis=0) for d in (right, left)]
    return float(runs[0].max()), float(runs[1].max())


def heart_distance(heart: Heart, p: Points) -> dict[str, Field]:
    """Distances to the muscle of the heart as a whole and to its four chambers."""
    q = heart.local(p)
    left = heart.left_ventricle(q)
    right = heart.right_ventricle(q, left)
    right_atrium, left_atrium = _right_atrium(p), _left_atrium(p)
    atria = union(right_atrium, left_atrium)
    body = smooth_union(smooth_union(left - LV_WALL_MM, right - RV_WALL_MM, 6.0), atria - 2.5, 8.0)
    return {
        "heart": body,
        "rv": right,
        "lv": left,
        "ra": right_atrium,
        "la": left_atrium,
    }


def mediastinum_distance(p: Points, heart: Field) -> Field:
    """Distance to what lies between the lungs."""
    upper = tube(Points(p.x * 0.86, p.y, p.z), (0.0, -8.0, 120.0), (1.0, -16.0, -12.0), (25.0, 31.0))
    back = tube(p, (16.0, 30.0, 45.0), (14.0, 34.0, -190.0), (21.0, 22.0))
    hila = tube(p.folded, (28.0, 2.0, -18.0), (47.0, 7.0, -30.0), (15.0, 7.0))
    front = intersection(np.abs(p.x - 4.0) - 2.5, p.y + 10.0)
    whole = smooth_union(smooth_union(upper, back, 12.0), heart - 5.0, 12.0)
    return union(smooth_union(whole, hila, 8.0), front)


def lung_distance(cage: Field, mediastinum: Field, dome: Field, bend: Field) -> Field:
    """Distance to both lungs; `bend` are values of chest.sheets."""
    lungs = smooth_intersection(cage + 2.0 + 0.6 * bend, -mediastinum, 7.0)
    return smooth_intersection(lungs, 2.0 - dome, 6.0)


def fissure_height(p: Points) -> tuple[Field, Field]:
    """Height above the oblique fissure (mm) of either lung, and above the horizontal one of the right."""
    oblique = (p.z + 50.0 - 0.9 * p.y + 0.0016 * (np.abs(p.x) - 70.0) ** 2) * 0.74
    return np.asarray(oblique), np.asarray(p.z + 34.0 + 0.12 * (p.y + 30.0) + 0.12 * (np.abs(p.x) - 80.0))


def abdomen(p: Points, cage: Field, dome: Field) -> dict[str, Field]:
    """Distances to liver, spleen, stomach and the air in it, which leave little room under the diaphragm."""
    inside = smooth_intersection(cage + 2.0, dome + 1.0, 3.0)
    liver = smooth_union(
        ellipsoid(p, (-62.0, 2.0, -170.0), (92.0, 104.0, 110.0)),
        ellipsoid(p, (22.0, -42.0, -160.0), (66.0, 44.0, 52.0)),
        20.0,
    )
    stomach = smooth_union(
        ellipsoid(p, (68.0, -16.0, -170.0), (44.0, 56.0, 68.0)),
        ellipsoid(p, (70.0, 16.0, -140.0), (36.0, 40.0, 40.0)),
        16.0,
    )
    stomach = smooth_intersection(stomach, 4.0 - liver, 6.0)
    return {
        "liver": smooth_intersection(liver, inside, 4.0),
        "spleen": intersection(blob(p, (92.0, 50.0, -170.0), (36.0, 48.0, 68.0)), inside),
        "stomach": intersection(stomach, inside),
        "bubble": intersection(stomach + 4.0, inside + 4.0, p.y + 26.0),
    }
