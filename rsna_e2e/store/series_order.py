"""Orders the slices of a series along its normal, and describes the geometry of series."""

# N slices of one series

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.limits import FARTHEST_MM
from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import Column, Float64Array
from rsna_e2e.store.volumes import SAME_POSITION_MM, divide_volumes, new_places

# Direction cosines are written with few digits; 0.01 is about 0.6 degrees, far below the angle between two planned
# orientations and far above rounding.
SAME_ORIENTATION = 0.01

# A step between slices that is so many times the usual one leaves room for a slice.
GAP = 1.5

# Steps that differ by less than this share of the usual one are the same: positions are written with few digits, and
# tables do not stop to the micrometre.
SAME_STEP = 0.1

# So many wide steps in a row, all the same, are slices that were planned farther apart, as towards the vertex of a
# head, and no slices that are missing.
PLANNED_STEPS = 3

SINGLE_SLICES = 4  # a scout, bolus tracking and a repeated slice are three

TILTED_DEG = 1.0  # direction cosines with few digits are off by some tenths
WANDERING = 0.3  # of what a straight line explains; a table moves straight, within a tenth of it

_UNTOLD = "several slices of the series lie at the same positions, and no element tells which belong to one volume"

# For each axis, the one after it and the one before it. The cross product is written out: NumPy's takes longer than
# all else here.
_AFTER, _BEFORE = [1, 2, 0], [2, 0, 1]

SERIES_IDS = ("patient_id", "study_uid", "series_uid")
XRAY_IDS = ("study_uid", "series_uid", "sop_uid")  # of X-rays, each of which is a series: whoever the patient is
SeriesId = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class SeriesMembers:
    """What the order of a series' slices depends on: SOP instance UIDs and image ids [N], ImagePositionPatient [N, 3]
    in mm, ImageOrientationPatient [N, 6].

    acquisition: what tells volumes apart, columns [N] as `divide_volumes` takes them. digests: of the place and pixels
    of some slices, by position in the input.
    """

    sop_uids: Sequence[str]
    image_ids: Sequence[str]
    position_mm: Float64Array
    orientation: Float64Array
    acquisition: Mapping[str, Column] = field(default_factory=dict)
    digests: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Volume:
    """Slices of one volume from one end to the other.

    rows: positions in the input, in order. position_mm: [len(rows)] ImagePositionPatient along the slice normal,
    rising.
    """

    rows: npt.NDArray[np.int64]
    position_mm: Float64Array


@dataclass(frozen=True, slots=True)
class SeriesOrder:
    """The volumes of one series, nearly always one, each in order.

    refused: (position in the input, reason, detail) of every slice in no volume. told_by: the elements by which volumes
    were told apart, DICOM keywords.
    """

    volumes: tuple[Volume, ...]
    refused: tuple[tuple[int, Reason, str], ...]
    told_by: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesGeometry:
    """Geometry of one ordered series; NaN where it has too few slices, or none with a position.

    spacing_mm: median step along the slice normal. n_gaps: steps that leave room for slices, n_missing: for how many.
    is_uneven: steps differ otherwise. tilt_deg: angle between the normal and the nearest patient axis. shear_deg: angle
    between the normal and the direction in which positions move, as a tilted gantry over a moving table makes it; 0
    where they wander more than they move.
    has_mixed_sizes, has_mixed_pixels: Rows and Columns, or PixelSpacing, are not the same in all slices.
    """

    spacing_mm: float = math.nan
    n_gaps: int = 0
    n_missing: int = 0
    is_uneven: bool = False
    tilt_deg: float = math.nan
    shear_deg: float = math.nan
    has_mixed_sizes: bool
    has_mixed_pixels: bool = False

    @property
    def is_tilted(self) -> bool:
        """Whether the stack is sheared, so that a volume made of it needs resampling."""
        return self.shear_deg > TILTED_DEG


def series_geometry(index: Mapping[str, npt.NDArray[Any]], rows: slice) -> SeriesGeometry:
    """Describe one series of a store by the columns of its index. rows: those of the series, in geometric order.

    Finite positions of any size give numbers: what lies beyond `FARTHEST_MM` counts as lying there. Of a series without
    positions nothing is known but its sizes.
    """
    has_mixed_sizes = _differ(index["rows"][rows], index["columns"][rows])
    if np.isnan(index["ipp_x_mm"][rows]).any():
        return SeriesGeometry(has_mixed_sizes=has_mixed_sizes)
    position_mm = np.clip(np.asarray(index["position_mm"][rows], dtype=np.float64), -FARTHEST_MM, FARTHEST_MM)
    ipp_N3 = np.column_stack([index[f"ipp_{axis}_mm"][rows] for axis in "xyz"]).clip(-FARTHEST_MM, FARTHEST_MM)
    iop_N6 = np.column_stack([index[f"iop_{way}_{axis}"][rows] for way in ("row", "column") for axis in "xyz"])
    normal = slice_normal(iop_N6.mean(axis=0))
    step_mm = np.diff(position_mm)
    spacing_mm = float(np.median(step_mm)) if len(step_mm) else math.nan
    share, is_gap = step_mm / max(spacing_mm, SAME_POSITION_MM), find_gaps(step_mm)
    return SeriesGeometry(
        spacing_mm=spacing_mm,
        n_gaps=int(is_gap.sum()),
        n_missing=int((np.rint(share[is_gap]) - 1).sum()),
        is_uneven=bool((np.abs(share[~is_gap] - 1) > SAME_STEP).any()),
        tilt_deg=math.degrees(math.acos(min(float(np.abs(normal).max()), 1.0))),
        shear_deg=_shear_deg(ipp_N3, normal) if len(position_mm) > 1 else math.nan,
        has_mixed_sizes=has_mixed_sizes,
        has_mixed_pixels=_differ(index["spacing_row_mm"][rows], index["spacing_column_mm"][rows]),
    )


def find_gaps(step_mm: Float64Array) -> npt.NDArray[np.bool_]:
    """Mark the steps (> 0) between slices of a series where slices are missing, unless they were planned so."""
    is_gap = step_mm > GAP * np.median(step_mm) if len(step_mm) else np.zeros(0, dtype=bool)
    wide = np.flatnonzero(is_gap)
    for places in np.split(wide, np.flatnonzero(np.diff(wide) > 1) + 1):
        wide_mm = step_mm[places]
        if len(places) >= PLANNED_STEPS and np.ptp(wide_mm) <= SAME_STEP * wide_mm.min():
            is_gap[places] = False
    return np.asarray(is_gap)


def run_starts(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return where each run of equal values begins; of the keys of series, the first row of each series."""
    is_first = np.ones(len(values), dtype=bool)
    is_first[1:] = values[1:] != values[:-1]
    return np.flatnonzero(is_first)


def slice_indices(series_keys: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return the number of each slice in its series, from 0 on. series_keys: of slices, those of a series together."""
    starts = run_starts(series_keys)
    return np.arange(len(series_keys)) - np.repeat(starts, np.diff(np.append(starts, len(series_keys))))


def ids_of_series(index: Iterable[str]) -> tuple[str, str, str]:
    """Return the columns that identify a series, of an index with these columns."""
    return XRAY_IDS if "photometric" in index else SERIES_IDS


def volume_numbers(index: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.int64]:
    """Return, for each series of a store [S], the number of its volume among those of one SeriesInstanceUID, from 0."""
    starts = run_starts(index["series_key"]).tolist()
    seen: Counter[tuple[str, ...]] = Counter()
    numbers = []
    for row in starts:
        ids = tuple(index[name][row] for name in ids_of_series(index))
        numbers.append(seen[ids])
        seen[ids] += 1
    return np.array(numbers, dtype=np.int64)


def studies_of_single_slices(index: Mapping[str, npt.NDArray[Any]]) -> int:
    """Count the studies, of `SINGLE_SLICES` series or more, in which no series has a second slice: their slices most
    likely belong together, and a file for each was given a SeriesInstanceUID of its own."""
    starts = run_starts(index["series_key"])
    is_single_S = np.diff(np.append(starts, len(index["series_key"]))) == 1
    _, study_S = np.unique(index["study_uid"][starts], return_inverse=True)
    n_series, n_single = np.bincount(study_S), np.bincount(study_S, weights=is_single_S)
    return int(np.count_nonzero((n_series >= SINGLE_SLICES) & (n_single == n_series)))


def series_key(series_id: SeriesId, *, volume: int = 0) -> str:
    """Return 16 hex digits that identify a series, or a further volume of it, the same on every machine.

    The hash has no key: whoever guesses the ids can check the guess. In a store without names it is made of their keyed
    hashes instead, and depends on that key.
    """
    parts = (*series_id, f"volume {volume}") if volume else series_id
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def order_series(members: SeriesMembers) -> SeriesOrder:
    """Divide the slices of one series into volumes, and order each along the common normal, in a direction that does
    not depend on the file.

    Slices of another orientation than most are refused; of slices with one SOP instance UID, of slices whose pixels are
    the same as well as their place, and of slices at a single place of a volume that is there more than once, the first
    by (SOP instance UID, image id) stays; the order of `members` decides between equals only. Where several positions
    occur more than once and no element tells which slices belong together, none of them is taken.
    Source: PS3.3 C.7.6.2.1.1 (ImagePositionPatient and ImageOrientationPatient).
    """
    refused: list[tuple[int, Reason, str]] = []
    unique = _without_copies(members, refused)
    orientation_N6 = members.orientation[unique]
    is_common_N = _is_commonest(orientation_N6)
    refused += [
        (position, Reason.MIXED_ORIENTATION, "most slices of the series have another orientation")
        for position, is_common in zip(unique, is_common_N, strict=True)
        if not is_common
    ]
    rows = np.array(unique)[is_common_N]
    normal = slice_normal(orientation_N6[is_common_N].mean(axis=0))
    position_mm = members.position_mm[rows] @ normal
    found = divide_volumes(position_mm, {name: column[rows] for name, column in members.acquisition.items()})
    refused += [(int(row), Reason.UNTOLD_VOLUMES, _UNTOLD) for row in rows[found.untold]]
    volumes = []
    for part in found.volumes:
        is_new = new_places(position_mm[part])
        refused += [
            (int(rows[i]), Reason.SAME_POSITION, f"another slice of the series lies at {position_mm[i]:.2f} mm")
            for i in part[~is_new]
        ]
        volumes.append(Volume(rows[part[is_new]], position_mm[part[is_new]]))
    return SeriesOrder(tuple(volumes), tuple(refused), tuple(found.told_by))


def slice_normal(image_orientation: npt.ArrayLike) -> Float64Array:
    """Return the unit normal [3] of an ImageOrientationPatient [6], its largest component positive.

    So positions rise from right to left, front to back, or feet to head, whichever way the columns run.
    Source: PS3.3 C.7.6.2.1.1; patient axes point left, posterior and head.
    """
    row_cosines, column_cosines = np.asarray(image_orientation, dtype=np.float64).reshape(2, 3)
    normal = row_cosines[_AFTER] * column_cosines[_BEFORE] - row_cosines[_BEFORE] * column_cosines[_AFTER]
    normal /= np.linalg.norm(normal)
    return np.asarray(normal * np.sign(normal[np.argmax(np.abs(normal))]))


def _without_copies(members: SeriesMembers, refused: list[tuple[int, Reason, str]]) -> list[int]:
    """Return the members by name, but for those that are copies of an earlier one, which are added to `refused`."""
    unique: list[int] = []
    digests: set[str] = set()
    for member in sorted(range(len(members.sop_uids)), key=lambda i: (members.sop_uids[i], members.image_ids[i])):
        digest = members.digests.get(member)
        if unique and members.sop_uids[unique[-1]] == members.sop_uids[member]:
            refused.append((member, Reason.DUPLICATE_SOP_UID, "an earlier file holds the same SOP instance"))
        elif digest in digests:
            refused.append(
                (member, Reason.SAME_POSITION, "another slice of the series has the same position and pixels")
            )
        else:
            unique.append(member)
            digests |= {digest} if digest else set()
    return unique


def _is_commonest(orientation_N6: Float64Array) -> npt.NDArray[np.bool_]:
    """Mark the slices that agree with the orientation most slices agree with; the first such one wins a draw."""
    agreements: list[npt.NDArray[np.bool_]] = []
    is_open = np.ones(len(orientation_N6), dtype=bool)
    while is_open.any():
        reference = orientation_N6[np.argmax(is_open)]
        agrees = (np.abs(orientation_N6 - reference) <= SAME_ORIENTATION).all(axis=1) & is_open
        agreements.append(agrees)
        is_open &= ~agrees
    return max(agreements, key=np.count_nonzero)


def _shear_deg(ipp_N3: Float64Array, normal: Float64Array) -> float:
    """Fit a line to how positions move across the normal as they move along it, and return its angle to the normal."""
    moved_N3 = ipp_N3 - ipp_N3.mean(axis=0)
    along_N = moved_N3 @ normal
    across_N3 = moved_N3 - along_N[:, None] * normal
    if not along_N.any():
        return 0.0
    slope_3 = along_N @ across_N3 / (along_N @ along_N)
    wandered = np.linalg.norm(across_N3 - along_N[:, None] * slope_3)
    is_line = wandered < np.linalg.norm(along_N) * np.linalg.norm(slope_3) * WANDERING
    return math.degrees(math.atan(float(np.linalg.norm(slope_3)))) if is_line else 0.0


def _differ(*columns: npt.NDArray[Any]) -> bool:
    return any(bool((column != column[0]).any()) for column in columns)
