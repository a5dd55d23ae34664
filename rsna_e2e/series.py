"""From slices to series: which slices belong together, and in which order they lie in space."""

# N slices of one series

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rsna_e2e.reasons import Reason
from rsna_e2e.records import Float64Array

# Direction cosines are written with few digits; 0.01 is about 0.6 degrees, far below the angle between two planned
# orientations and far above rounding.
SAME_ORIENTATION = 0.01

# Slices nearer than this along the normal show the same place: the thinnest CT slices are some 0.1 mm apart.
SAME_POSITION_MM = 0.01

SeriesId = tuple[str, str, str]  # patient_id, study_uid, series_uid


@dataclass(frozen=True, slots=True)
class SeriesMembers:
    """What decides the order of a series' slices: SOP instance UIDs and image ids [N], ImagePositionPatient [N, 3] in
    mm, ImageOrientationPatient [N, 6]."""

    sop_uids: Sequence[str]
    image_ids: Sequence[str]
    position_mm: Float64Array
    orientation: Float64Array


@dataclass(frozen=True, slots=True)
class SeriesOrder:
    """Slices of one series from one end to the other.

    kept: positions in the input, in order. position_mm: [len(kept)] ImagePositionPatient along the slice normal,
    rising. refused: (position in the input, reason, detail) of every other slice.
    """

    kept: npt.NDArray[np.int64]
    position_mm: Float64Array
    refused: tuple[tuple[int, Reason, str], ...]


def series_key(series_id: SeriesId) -> str:
    """Return 16 hex digits that stand for a series, the same on every machine.

    The hash has no key: who guesses the ids can check the guess. In a store without names it is made of their keyed
    hashes instead, and depends on that key.
    """
    return hashlib.sha256("\0".join(series_id).encode()).hexdigest()[:16]


def order_series(members: SeriesMembers) -> SeriesOrder:
    """Order the slices of one series along their common normal, in a direction that does not depend on the file.

    Slices of another orientation than most are refused; of slices with one SOP instance UID, and of slices at one
    position, the first by (SOP instance UID, image id) stays; the order of `members` decides between equals only.
    Source: PS3.3 C.7.6.2.1.1 (ImagePositionPatient and ImageOrientationPatient).
    """
    sop_uids = members.sop_uids
    by_name = sorted(range(len(sop_uids)), key=lambda i: (sop_uids[i], members.image_ids[i]))
    refused: list[tuple[int, Reason, str]] = []
    unique: list[int] = []
    for position in by_name:
        if unique and sop_uids[unique[-1]] == sop_uids[position]:
            refused.append((position, Reason.DUPLICATE_SOP_UID, "an earlier file holds the same SOP instance"))
        else:
            unique.append(position)

    orientation_N6 = members.orientation[unique]
    is_common_N = _is_commonest(orientation_N6)
    refused += [
        (position, Reason.MIXED_ORIENTATION, "most slices of the series are oriented otherwise")
        for position, is_common in zip(unique, is_common_N, strict=True)
        if not is_common
    ]
    rows = np.array(unique)[is_common_N]
    normal = slice_normal(orientation_N6[is_common_N].mean(axis=0))
    position_mm = members.position_mm[rows] @ normal
    order = np.argsort(position_mm, kind="stable")
    rows, position_mm = rows[order], position_mm[order]

    is_new = _is_new_position(position_mm)
    refused += [
        (int(row), Reason.SAME_POSITION, f"another slice of the series lies at {position:.2f} mm")
        for row, position in zip(rows[~is_new], position_mm[~is_new], strict=True)
    ]
    return SeriesOrder(rows[is_new], position_mm[is_new], tuple(refused))


def slice_normal(image_orientation: npt.ArrayLike) -> Float64Array:
    """Return the unit normal [3] of an ImageOrientationPatient [6], its largest component positive.

    So positions rise from right to left, front to back, or feet to head, whichever way the columns run.
    Source: PS3.3 C.7.6.2.1.1; patient axes point left, posterior and head.
    """
    row_cosines, column_cosines = np.asarray(image_orientation, dtype=np.float64).reshape(2, 3)
    normal = np.cross(row_cosines, column_cosines)
    normal /= np.linalg.norm(normal)
    return np.asarray(normal * np.sign(normal[np.argmax(np.abs(normal))]))


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


def _is_new_position(position_mm: Float64Array) -> npt.NDArray[np.bool_]:
    """Mark the positions (rising) that lie beyond the last marked one."""
    is_new = np.ones(len(position_mm), dtype=bool)
    last = -np.inf
    for i, position in enumerate(position_mm.tolist()):
        is_new[i] = position - last >= SAME_POSITION_MM
        last = position if is_new[i] else last
    return is_new
