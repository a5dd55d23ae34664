"""What only neighbouring slices tell: places where blood and what imitates it look alike in a slice, not along z.

A candidate is such a place. In every slice that shows it, blood or not, its size and density are drawn from the same
distributions; what it is shows only in how it goes on. Blood fills 4 to 7 slices in a row. An imitation is like blood
in two slices: on either side of a dense calcification, above the bony ridge that it is part of, or in two that are
apart (streaks, folds of dura).
"""

# B bleeds, a x b fine pixels around a candidate

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rsna_e2e.core.records import Float32Array
from rsna_e2e.tools.synth.common.series import Series
from rsna_e2e.tools.synth.common.shapes import Point, Points, coverage, intersection
from rsna_e2e.tools.synth.head.anatomy import cavity_distance, to_canonical
from rsna_e2e.tools.synth.head.bleeds import surface_point
from rsna_e2e.tools.synth.head.geometry import FineGrid, places
from rsna_e2e.tools.synth.head.patient import Head

PER_PATIENT = 1.6  # candidates, on average, at most one at each site
BLOOD_SHARE = 0.27  # of candidates: 5.5 slices of blood to 2 of an imitation, so that odds are near even
BLOOD_MM = (18.0, 32.0)  # how far blood goes along z, in slices of MIN_SLICES to MAX_SLICES
MIN_SLICES, MAX_SLICES = 4, 7
CLEAR_BLOOD_HU = 75.0
SHEET_MM = 3.0  # thickness of a thin subdural bleed
EDGE_MM = 1.6
WANDER_MM = 0.6  # of the outline of a spot
N_SLOTS = 17  # slices around a candidate's middle for which its looks are drawn
CLEAR_GAIN_HU = 30.0  # what a bleed adds at least where it is to be seen at a glance
MAX_RAISE = 4.0

# Offsets, in slices upwards from the middle, at which an imitation is like blood, and at which it is dense as bone
FORMS = {
    "peak": ((-1, 1), (0,)),  # calcification, thicker than a slice
    "ridge": ((0, 1), (-1, -2)),  # bone that ends in the slice
    "apart": ((-2, 2), ()),
}

# Where candidates lie (canonical mm, left side), how far they scatter, what blood there is called, and how the
# imitation goes on. Choroid plexus, pineal gland and pallidum calcify; orbital roofs and petrous ridges are bone.
Site = tuple[str, Point, Point, str, str]
SITES: tuple[Site, ...] = (
    ("plexus", (24.0, 40.0, 11.0), (1.5, 3.0, 2.5), "intraventricular", "peak"),
    ("pineal", (0.0, 31.0, 3.0), (0.6, 1.5, 1.0), "intraventricular", "peak"),
    ("pallidum", (21.0, -3.0, 2.0), (1.5, 3.0, 2.0), "intraparenchymal", "peak"),
    ("orbit", (28.0, -54.0, -6.0), (4.0, 5.0, 2.0), "intraparenchymal", "ridge"),
    ("petrous", (36.0, 12.0, -18.0), (5.0, 3.0, 1.5), "intraparenchymal", "ridge"),
    ("falx", (0.0, 5.0, 48.0), (0.0, 22.0, 4.0), "subdural", "apart"),
    ("convexity", (0.0, 0.0, 20.0), (0.0, 0.0, 5.0), "subdural", "apart"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How one slice shows a candidate: the fine pixel of its middle, its radius, its density."""

    row: float
    column: float
    radius_mm: float
    hu: float
    is_dense: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A place that may bleed. label: what blood there is called; looks: by the number of the slice."""

    label: str
    site: str
    is_blood: bool
    side: float
    looks: dict[int, Look]


def draw_candidates(
    rng: np.random.Generator, *, head: Head, series: Series, grey_hu: float, is_ambiguous: bool
) -> tuple[Candidate, ...]:
    """Draw a patient's candidates and find them in a series.

    is_ambiguous False: the same places, but blood is dense, and what is not blood is bone in every slice.
    """
    sites = rng.permutation(len(SITES))[: int(rng.poisson(PER_PATIENT))].tolist()
    return tuple(_draw_one(rng, SITES[i], head, series, grey_hu, is_ambiguous) for i in sites)


def _draw_one(
    rng: np.random.Generator, where: Site, head: Head, series: Series, grey_hu: float, is_ambiguous: bool
) -> Candidate:
    site, middle, spread, label, form = where
    side = 1.0 if rng.random() < 0.5 else -1.0
    is_blood = bool(rng.random() < BLOOD_SHARE)
    x, y, z = rng.normal(middle, spread)
    around = rng.uniform(-0.45, 0.6)
    if site == "convexity":
        x, y, z = surface_point(np.array([1.0, around, z / 75.0]))
    is_sheet = label == "subdural"
    radius_mm = rng.uniform(13.0, 19.0) if is_sheet else rng.uniform(3.2, 5.0)
    hu = grey_hu + rng.uniform(14.0, 20.0) if site == "convexity" else rng.uniform(56.0, 72.0)
    dense_hu, length_mm = rng.uniform(170.0, 320.0), rng.uniform(*BLOOD_MM)
    radii_mm = radius_mm * rng.uniform(0.8, 1.0, N_SLOTS)
    hus = hu + rng.uniform(-3.0, 3.0, N_SLOTS)
    if not is_ambiguous:
        hus[:] = CLEAR_BLOOD_HU if is_blood else dense_hu
    looks = {}
    for k, offset, row, column in _found((side * x, y, z), head, series):
        is_alike, is_dense = _shown(offset, is_blood, form, length_mm / _step_mm(series))
        if is_alike or is_dense:
            slot = offset + N_SLOTS // 2
            looks[k] = Look(
                row=row, column=column, radius_mm=float(radii_mm[slot]),
                hu=float(dense_hu if is_dense else hus[slot]), is_dense=is_dense,
            )  # fmt: skip
    return Candidate(label=label, site=site, is_blood=is_blood, side=side, looks=looks)


def _shown(offset: int, is_blood: bool, form: str, n_slices: float) -> tuple[bool, bool]:
    """Whether a candidate is there `offset` slices above its middle: like blood, and dense."""
    if not is_blood:
        alike, dense = FORMS[form]
        return offset in alike, offset in dense
    n = int(np.clip(round(n_slices), MIN_SLICES, MAX_SLICES))
    first = 0 if form == "ridge" else -(n // 2)
    return first <= offset < first + n, False


def _step_mm(series: Series) -> float:
    return abs(float((series.origins_mm[1] - series.origins_mm[0]) @ series.normal))


def _found(place: Point, head: Head, series: Series) -> list[tuple[int, int, float, float]]:
    """Slices near a canonical place: number, how many slices above it, fine pixel (row, column) over or under it."""
    canonical, scale = np.array(place), np.array(head.scale)
    at = canonical * scale
    for _ in range(3):  # the bends are slight, so this converges
        undone = to_canonical(head, Points(*(np.full(1, v, np.float32) for v in at)))
        at = at + scale * (canonical - np.array([undone.x[0], undone.y[0], undone.z[0]]))
    offsets_mm = series.rotation @ at + np.array(series.centre_mm) - series.origins_mm
    heights_mm = -(offsets_mm @ series.normal) * np.sign(series.normal[2])  # of the slices, above the place
    nearest = int(np.argmin(np.abs(heights_mm)))
    upwards = 1 if heights_mm[-1] > heights_mm[0] else -1
    # fine pixel i lies at the file's pixel 2 i + 1/2
    rows = (offsets_mm @ np.array(series.column_direction) / series.spacing_mm - 0.5) / 2.0
    columns = (offsets_mm @ np.array(series.row_direction) / series.spacing_mm - 0.5) / 2.0
    found = ((k, (k - nearest) * upwards) for k in range(series.n_slices))
    return [(k, offset, float(rows[k]), float(columns[k])) for k, offset in found if abs(offset) <= N_SLOTS // 2]


def added_hu(
    candidate: Candidate, k: int, *, head: Head, series: Series, hu: Float32Array
) -> tuple[tuple[slice, slice], Float32Array, Float32Array] | None:
    """Window of slice `k` that shows a candidate, the HU it adds there and its share of each pixel [a, b]; or None."""
    look = candidate.looks.get(k)
    if look is None:
        return None
    pixel_mm = 2.0 * series.spacing_mm
    reach = int(np.ceil(look.radius_mm / pixel_mm)) + 2
    spans = [slice(max(round(v) - reach, 0), min(round(v) + reach + 1, len(hu))) for v in (look.row, look.column)]
    rows, columns = (np.arange(span.start, span.stop) for span in spans)
    share = _share(candidate, look, rows, columns, k, head, series)
    window = (spans[0], spans[1])
    return window, share * np.maximum(np.float32(look.hu) - hu[window], 0.0), share


def _share(
    candidate: Candidate, look: Look, rows: FineGrid, columns: FineGrid, k: int, head: Head, series: Series
) -> Float32Array:
    """Share [a, b] of each fine pixel that a candidate takes: a spot, or a sheet under the skull or beside the falx."""
    pixel_mm = 2.0 * series.spacing_mm
    distance = np.hypot((rows[:, None] - look.row) * pixel_mm, (columns - look.column) * pixel_mm) - look.radius_mm
    there = places(series, k, rows, columns, np.zeros(1))
    p = to_canonical(head, Points(there.x[0], there.y[0], there.z[0]))
    cavity = cavity_distance(head, p)
    if candidate.site == "convexity":
        distance = intersection(distance, -cavity - SHEET_MM)
    elif candidate.site == "falx":
        beside = np.abs(candidate.side * p.x - head.falx_half_mm - SHEET_MM / 2.0) - SHEET_MM / 2.0
        distance = intersection(distance, beside)
    else:
        distance = distance + WANDER_MM * head.cells(p)
    return np.asarray(coverage(distance, EDGE_MM) * coverage(cavity, pixel_mm), np.float32)


def without_mimics(head: Head, grey_hu: float) -> Head:
    """Return a head without calcifications, its dura no denser than grey matter."""
    return replace(head, calcified=(), dura_hu=min(head.dura_hu, grey_hu))


def clear_factors(gain_hu: Float32Array, is_seen: Sequence[bool], *, min_gain_hu: float) -> Float32Array:
    """Factors [B] of what bleeds add, by which those seen are to be seen at a glance, and the others not at all.

    gain_hu [B, FINE, FINE]: what each bleed adds now. min_gain_hu: the least that counts as seen.
    """
    factors = np.zeros(len(gain_hu), np.float32)
    for index in np.flatnonzero(is_seen):
        bright = gain_hu[index][gain_hu[index] >= min_gain_hu]
        # one of several bleeds with a label may be the one that is not seen
        factors[index] = np.clip(CLEAR_GAIN_HU / np.median(bright), 1.0, MAX_RAISE) if bright.size else 0.0
    return factors
