"""Divides a series into volumes: slices that were acquired and reconstructed together.

A SeriesInstanceUID may hold several passes over a region, time points or reconstructions. Their slices are never mixed:
they are told apart by how they were acquired, or refused.
"""

# N slices of one orientation

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.records import Column, Float64Array, Rows

# Slices nearer than this along the normal show the same place: the thinnest CT slices are some 0.1 mm apart.
SAME_POSITION_MM = 0.01

# Slices of one pass that lie among those of another, so that the two are no parts of one volume which touch. One may be
# a slice taken again, or where two parts meet.
AMONG = 2

# Slices of passes that nothing but their order tells apart: fewer run one way by chance.
LEAST_IN_PASS = 3

# What the slices of one volume have in common wherever they lie between each other (PS3.3 C.7.6.1, C.7.6.16.2.2,
# C.8.2.1, C.8.15.3)
SPEAKING = (
    "StackID",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "ConvolutionKernel",
    "ReconstructionDiameter",
    "AcquisitionNumber",
    "FrameAcquisitionNumber",
    "KVP",
)
# Elements that may differ within a volume, and count only where slices lie at the same position.
QUIET = ("ImageType", "FrameType", "SliceThickness", "PixelSpacing", "Rows")
# Of the speaking ones, those that count what was done one after the other: the parts of a pass follow each other.
COUNTING = {"TemporalPositionIdentifier", "TemporalPositionIndex", "AcquisitionNumber", "FrameAcquisitionNumber"}
# Of both, those that are measured. Files round them: within so much of the larger they are the same.
MEASURED = {"ReconstructionDiameter", "KVP", "SliceThickness", "PixelSpacing"}
SAME_MEASURE = 0.01
# The order in which slices were acquired, tried last; whether it may also tell passes apart that share no place.
ORDERS = {"InstanceNumber": True, "AcquisitionTime": True, "ContentTime": False}


@dataclass(frozen=True, slots=True)
class Volumes:
    """The slices of a series by volumes.

    volumes: the rows of each, rising in position; a place may be there twice in one of them, a slice that was taken
    again. untold: rows of places that are there several times without anything that tells which belong together.
    told_by: the elements that made more volumes of one.
    """

    volumes: Sequence[Rows]
    untold: Rows
    told_by: Sequence[str]


def divide_volumes(position_mm: Float64Array, told: Mapping[str, Column]) -> Volumes:
    """Divide a series into volumes, which do not depend on the order of its slices.

    position_mm [N]: along the normal. told: what slices say of their acquisition, columns [N] by DICOM keyword, those
    of `SPEAKING`, `QUIET` and `ORDERS` that are known; numbers are NaN where a slice does not say, texts empty.
    """
    groups = [np.argsort(position_mm, kind="stable")]
    told_by = []
    for name, divide in _DIVIDERS:
        if name in told:
            divided = [rows[part] for rows in groups for part in divide(position_mm[rows], told[name][rows])]
            told_by += [name] * (len(divided) > len(groups) and name not in told_by)
            groups = divided
    untold = [rows for rows in groups if _are_several(position_mm[rows])]
    volumes = [rows for rows in groups if not _are_several(position_mm[rows])]
    return Volumes(volumes, np.concatenate([np.empty(0, np.int64), *untold]), told_by)


def new_places(position_mm: Float64Array) -> npt.NDArray[np.bool_]:
    """Mark the positions (rising) that lie beyond the last marked one."""
    is_new = np.ones(len(position_mm), dtype=bool)
    if (np.diff(position_mm) >= SAME_POSITION_MM).all():
        return is_new
    last = -np.inf
    for i, position in enumerate(position_mm.tolist()):
        is_new[i] = position - last >= SAME_POSITION_MM
        last = position if is_new[i] else last
    return is_new


def _slices_at(position_mm: Float64Array) -> npt.NDArray[np.int64]:
    """Return how many slices lie at each place; positions are rising."""
    return np.diff(np.append(np.flatnonzero(new_places(position_mm)), len(position_mm)))


def _are_several(position_mm: Float64Array) -> bool:
    """Whether several places are there more than once; at a single one a slice was taken again."""
    return int(np.count_nonzero(_slices_at(position_mm) > 1)) > 1


def _is_doubtful(position_mm: Float64Array) -> bool:
    """Whether more than a slice taken again lies where others do; slices of one place are one series in time."""
    n_at = _slices_at(position_mm)
    return len(n_at) > 1 and len(position_mm) - len(n_at) > 1


def _by_value(position_mm: Float64Array, values: Column, *, name: str, is_last: bool) -> list[Rows]:
    """Divide slices [N], rising, by the values where those of different values lie among each other. Values that follow
    each other and touch, as those of a scan in steps, stay together.

    Which of the parts that touch are of one pass may be in doubt; then nothing is divided, or, with is_last, every
    value is alone.
    """
    whole = [np.arange(len(position_mm))]
    is_doubtful = _is_doubtful(position_mm)
    codes = _codes(values, is_measured=name in MEASURED)
    if not codes.any() or (name in QUIET and not is_doubtful):
        return whole
    order = np.argsort(codes, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)
    if _follow_each_other(position_mm, parts):
        return whole

    def conflict(one: Rows, passed: Sequence[Rows]) -> bool:
        return any(_lie_among(position_mm[one], position_mm[other], is_doubtful) for other in passed)

    layers: list[list[Rows]] = []  # as few as there can be
    for part in sorted(parts, key=lambda part: int(part[0])):
        free = next((layer for layer in layers if not conflict(part, layer)), None)
        layers.append([part]) if free is None else free.append(part)
    if len(layers) == 1:
        return whole
    passes: list[list[Rows]] = []
    for part in parts:
        if name in COUNTING and passes and not conflict(part, passes[-1]):
            passes[-1].append(part)
        else:
            passes.append([part])
    if len(passes) > len(layers):
        return parts if is_last else whole
    return [np.sort(np.concatenate(one)) for one in passes]


def _follow_each_other(position_mm: Float64Array, parts: Sequence[Rows]) -> bool:
    """Whether no part begins before another has ended, as in nearly every series."""
    low_mm, high_mm = (np.array([position_mm[part[end]] for part in parts]) for end in (0, -1))
    order = np.argsort(low_mm, kind="stable")
    reached_mm = np.maximum.accumulate(high_mm[order])
    return bool((low_mm[order][1:] > reached_mm[:-1] + SAME_POSITION_MM).all())


def _codes(values: Column, *, is_measured: bool) -> Rows:
    """Number values [N] by their order, equal ones alike."""
    unique, codes = np.unique(values, return_inverse=True)
    if is_measured and values.dtype.kind == "f":
        is_new = ~(np.diff(unique) <= SAME_MEASURE * np.abs(unique[1:]))  # NaN is new
        codes = np.append(0, np.cumsum(is_new))[codes]
    return codes


def _lie_among(one_mm: Float64Array, other_mm: Float64Array, is_doubtful: bool) -> bool:
    """Whether slices of one part (rising) lie among those of another; a single place does so in doubt."""
    if one_mm[-1] < other_mm[0] - SAME_POSITION_MM or other_mm[-1] < one_mm[0] - SAME_POSITION_MM:
        return False
    if min(np.ptp(one_mm), np.ptp(other_mm)) < SAME_POSITION_MM:
        return is_doubtful
    return min(_n_within(one_mm, other_mm), _n_within(other_mm, one_mm)) >= AMONG


def _n_within(one_mm: Float64Array, other_mm: Float64Array) -> int:
    low, high = other_mm[0] - SAME_POSITION_MM, other_mm[-1] + SAME_POSITION_MM
    return int(np.count_nonzero((one_mm > low) & (one_mm < high)))


def _by_order(position_mm: Float64Array, keys: Column, *, may_interleave: bool) -> list[Rows]:
    """Divide slices [N], rising, into passes that run one way each, when slices by their keys run so without doubt."""
    order = np.lexsort((position_mm, np.unique(keys, return_inverse=True)[1]))
    passes = _runs(position_mm[order])
    if _is_doubtful(position_mm):
        is_clear = len(passes) == _slices_at(position_mm).max()
    else:
        is_clear = may_interleave and _is_known(keys) and _are_passes([position_mm[order[run]] for run in passes])
    return [np.sort(order[run]) for run in passes] if is_clear else [np.arange(len(position_mm))]


def _is_known(keys: Column) -> bool:
    """Whether keys say the order of all slices: several may have a time, but a number that is there twice is none."""
    return len(np.unique(keys)) == len(keys) if keys.dtype.kind == "f" else bool((keys != "").all())


def _runs(position_mm: Float64Array) -> list[Rows]:
    """Cut positions, in the order in which slices came, where they turn back or stand still."""
    step_mm = np.diff(position_mm)
    way = np.where(np.abs(step_mm) < SAME_POSITION_MM, 0.0, np.sign(step_mm))
    begins = [0]
    for i in range(1, len(position_mm)):
        is_second = begins[-1] == i - 1
        if way[i - 1] == 0.0 or (not is_second and way[i - 1] != way[i - 2]):
            begins.append(i - 1 if _begins_with_turn(step_mm, i) else i)
    return np.split(np.arange(len(position_mm)), begins[1:])


def _begins_with_turn(step_mm: Float64Array, i: int) -> bool:
    """Whether the slice before the i-th, where positions turn, is the first of those after it: by its steps."""
    if not 2 < i < len(step_mm) or step_mm[i - 1] * step_mm[i] <= 0:
        return False
    return bool(abs(step_mm[i - 1] - step_mm[i]) < abs(step_mm[i - 2] - step_mm[i - 3]))


def _are_passes(runs_mm: Sequence[Float64Array]) -> bool:
    """Whether each of the runs goes over what the last went over."""
    return (
        len(runs_mm) > 1
        and all(len(run) >= LEAST_IN_PASS for run in runs_mm)
        and all(_lie_among(np.sort(one), np.sort(other), False) for one, other in pairwise(runs_mm))
    )


_DIVIDERS: Sequence[tuple[str, Callable[[Float64Array, Column], list[Rows]]]] = (
    *((name, partial(_by_value, name=name, is_last=False)) for name in (*SPEAKING, *QUIET)),
    *((name, partial(_by_value, name=name, is_last=True)) for name in (*SPEAKING, *QUIET)),
    *((name, partial(_by_order, may_interleave=may_interleave)) for name, may_interleave in ORDERS.items()),
)
