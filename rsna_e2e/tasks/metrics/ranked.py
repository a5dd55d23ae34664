"""Numbers that follow from the order of scores, in each of many resamples of clusters: AUC, average precision, and
operating points."""

# N samples, S clusters, B resamples, G distinct scores of positives

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.sparse import csr_array

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tasks.metrics.curves import Int64Array
from rsna_e2e.tasks.metrics.resample import Draws

FIXED_LEVELS = (0.90, 0.95)  # of specificity, at which sensitivity is given, and the other way round

# Resamples, and numbers, that are handled together: a few MB, which the CPU's caches hold
_RESAMPLES_AT_ONCE = 256
_CELLS_AT_ONCE = 1 << 18

_ROUNDING = 1e-9  # of a share times a count: 0.9 times 10 negatives are 9 of them


def resampled_ranks(
    truth_N: Float64Array,
    score_N: Float64Array,
    cluster_N: Int64Array,
    draws_BS: Draws,
    *,
    levels: Sequence[float] = (),
) -> dict[str, Float64Array]:
    """Return `auc`, `average_precision`, and for each of `levels` `sensitivity_at_specificity_90` and
    `specificity_at_sensitivity_90`, each in every resample [B]; NaN where a resample lacks the class that it takes.

    draws_BS: how often each resample draws each cluster, whole numbers. Sensitivity is the highest that any threshold
    has with at least this specificity, which of equal scores takes all or none, and is not interpolated.

    The thresholds that matter are the distinct scores of positives, G. How many positives and negatives a resample has
    at and above each is a sum of draws over the clusters they lie in: a sparse matrix times the draws. All counts are
    exact in float64, and so is the AUC, whose pairs are counted in halves below 2^52.
    """
    counts = _Counts.of(truth_N, score_N, cluster_N, draws_BS.shape[1])
    found = {name: np.full(len(draws_BS), np.nan) for name in _names(levels)}
    for first in range(0, len(draws_BS), _RESAMPLES_AT_ONCE):
        block = slice(first, first + _RESAMPLES_AT_ONCE)
        draws_SB = np.ascontiguousarray(draws_BS[block].T, dtype=np.float64)
        for name, value_B in _of_block(counts, draws_SB, levels).items():
            found[name][block] = value_B
    return found


def ranks(truth_N: Float64Array, score_N: Float64Array, *, levels: Sequence[float] = ()) -> dict[str, float]:
    """Return what `resampled_ranks` does, of the samples themselves."""
    once = np.ones((1, 1), dtype=np.int32)
    found = resampled_ranks(truth_N, score_N, np.zeros(len(truth_N), dtype=np.int64), once, levels=levels)
    return {name: float(value_B[0]) for name, value_B in found.items()}


def _names(levels: Sequence[float]) -> list[str]:
    of_levels = [name(level) for level in levels for name in (_sensitivity_at, _specificity_at)]
    return ["auc", "average_precision", *of_levels]


def _sensitivity_at(specificity: float) -> str:
    return f"sensitivity_at_specificity_{100 * specificity:g}"


def _specificity_at(sensitivity: float) -> str:
    return f"specificity_at_sensitivity_{100 * sensitivity:g}"


@dataclass(frozen=True, slots=True)
class _Counts:
    """Samples by the cluster they lie in, sparse [G, S], scores falling: positives of each score, negatives of it, and
    negatives of it or above it, but not of or above the score before. In all: of each cluster, [S]."""

    positives: csr_array
    tied: csr_array
    negatives: csr_array
    all_positives: Int64Array
    all_negatives: Int64Array

    @classmethod
    def of(cls, truth_N: Float64Array, score_N: Float64Array, cluster_N: Int64Array, n_clusters: int) -> "_Counts":
        is_positive_N = truth_N == 1
        falling_G = np.unique(-score_N[is_positive_N])
        group_N = np.searchsorted(falling_G, -score_N)
        is_tied_N = np.isin(-score_N, falling_G) & ~is_positive_N
        is_above_N = (group_N < len(falling_G)) & ~is_positive_N  # those below every positive count in no sum
        count = partial(_count, group_N=group_N, cluster_N=cluster_N, shape=(len(falling_G), n_clusters))
        in_all = partial(np.bincount, minlength=n_clusters)
        positives, tied, negatives = (count(is_it) for is_it in (is_positive_N, is_tied_N, is_above_N))
        return cls(positives, tied, negatives, in_all(cluster_N[is_positive_N]), in_all(cluster_N[~is_positive_N]))


def _count(
    is_counted_N: np.ndarray, *, group_N: Int64Array, cluster_N: Int64Array, shape: tuple[int, int]
) -> csr_array:
    places = group_N[is_counted_N], cluster_N[is_counted_N]
    counted = csr_array((np.ones(len(places[0])), places), shape=shape)
    counted.sum_duplicates()
    return counted


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Some of the scores, falling: positives and negatives of each [g, B], and those of it and above."""

    positives: Float64Array
    tied: Float64Array
    positives_from: Float64Array
    negatives_from: Float64Array


def _stretches(counts: _Counts, draws_SB: Float64Array) -> Iterator[_Stretch]:
    n_scores, n_resamples = counts.positives.shape[0], draws_SB.shape[1]
    step = max(1, _CELLS_AT_ONCE // n_resamples)
    before_B, negatives_before_B = np.zeros(n_resamples), np.zeros(n_resamples)
    for first in range(0, n_scores, step):
        positives_gB, tied_gB, negatives_gB = (
            part[first : first + step] @ draws_SB for part in (counts.positives, counts.tied, counts.negatives)
        )
        positives_from_gB = np.cumsum(positives_gB, axis=0)
        positives_from_gB += before_B
        np.cumsum(negatives_gB, axis=0, out=negatives_gB)
        negatives_gB += negatives_before_B
        before_B, negatives_before_B = positives_from_gB[-1], negatives_gB[-1]
        yield _Stretch(positives_gB, tied_gB, positives_from_gB, negatives_gB)


def _of_block(counts: _Counts, draws_SB: Float64Array, levels: Sequence[float]) -> dict[str, Float64Array]:
    n_positive_B, n_negative_B = counts.all_positives @ draws_SB, counts.all_negatives @ draws_SB
    n_below_B, precision_B = np.zeros(len(n_positive_B)), np.zeros(len(n_positive_B))
    found_B = {level: np.zeros(len(n_positive_B)) for level in levels}  # positives, and negatives that are called
    called_B = {level: np.full(len(n_positive_B), np.inf) for level in levels}
    for part in _stretches(counts, draws_SB):
        below_gB = n_negative_B - part.negatives_from + part.tied / 2
        n_below_B += np.einsum("gb,gb->b", part.positives, below_gB)
        precision_gB = part.positives_from / np.maximum(part.positives_from + part.negatives_from, 1)
        precision_B += np.einsum("gb,gb->b", part.positives, precision_gB)
        for level in levels:
            may_be_called_B = (1 - level + _ROUNDING) * n_negative_B
            _raise_to_last(found_B[level], part.positives_from, part.negatives_from, may_be_called_B)
            must_be_found_B = (level - _ROUNDING) * n_positive_B
            _lower_to_first(called_B[level], part.negatives_from, part.positives_from, must_be_found_B)
    with np.errstate(invalid="ignore"):  # of resamples that lack a class
        found = {"auc": n_below_B / (n_positive_B * n_negative_B), "average_precision": precision_B / n_positive_B}
        for level in levels:
            sensitivity_B, specificity_B = found_B[level] / n_positive_B, 1 - called_B[level] / n_negative_B
            has_both_B = (n_positive_B > 0) & (n_negative_B > 0)
            found[_sensitivity_at(level)] = np.where(has_both_B, sensitivity_B, np.nan)
            found[_specificity_at(level)] = np.where(has_both_B, specificity_B, np.nan)
    return found


def _raise_to_last(
    value_B: Float64Array, found_gB: Float64Array, called_gB: Float64Array, most_B: Float64Array
) -> None:
    """Set values to the last found where no more than `most_B` are called; both rise from the first row to the last."""
    if (called_gB[-1] <= most_B).all():  # as in most stretches, which saves counting
        value_B[:] = found_gB[-1]
    elif (called_gB[0] <= most_B).any():
        n_B = (called_gB <= most_B).sum(axis=0)
        any_B = np.flatnonzero(n_B)
        value_B[any_B] = found_gB[n_B[any_B] - 1, any_B]


def _lower_to_first(
    value_B: Float64Array, called_gB: Float64Array, found_gB: Float64Array, least_B: Float64Array
) -> None:
    """Set values that are not set yet to the first called where `least_B` are found; both rise."""
    waits_B = np.flatnonzero(np.isinf(value_B) & (found_gB[-1] >= least_B))
    if len(waits_B):
        n_before_B = (found_gB[:, waits_B] < least_B[waits_B]).sum(axis=0)
        value_B[waits_B] = called_gB[n_before_B, waits_B]
