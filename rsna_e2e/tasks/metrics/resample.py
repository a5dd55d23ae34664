"""Intervals by resampling clusters of samples: whole series, or whole patients."""

# N samples (slices or series), L labels, S clusters (series, or patients), G distinct scores, B resamples

from dataclasses import dataclass

import numpy as np

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tasks.metrics.curves import Int64Array, pair_share

CONFIDENCE = 0.95

# Resamples handled together: bounds memory at about this many numbers (64 MiB of float64).
_CELLS_AT_ONCE = 1 << 23


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval; an end is NaN where it is undefined."""

    value: float
    low: float = float("nan")
    high: float = float("nan")


def group_max(values_NL: Float64Array, group_N: Int64Array, n_groups: int) -> Float64Array:
    """Maximum over the samples of each group, [n_groups, L]: a series has a label when any of its slices has it."""
    highest = np.full((n_groups, values_NL.shape[1]), -np.inf)
    np.maximum.at(highest, group_N, values_NL)
    return highest


def draw_resamples(n_clusters: int, *, n_resamples: int, seed: int) -> Int64Array:
    """Draw B bootstrap resamples of S clusters with replacement; return how often each cluster is drawn, [B, S]."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=n_resamples)


def resampled_mean(values_N: Float64Array, cluster_N: Int64Array, draws_BS: Int64Array) -> Float64Array:
    """Mean of `values_N` in each resample of clusters, [B]; NaN where it draws none of the samples."""
    n_clusters = draws_BS.shape[1]
    sums_S = np.bincount(cluster_N, weights=values_N, minlength=n_clusters)
    counts_S = np.bincount(cluster_N, minlength=n_clusters)
    with np.errstate(invalid="ignore"):
        means: Float64Array = (draws_BS @ sums_S) / (draws_BS @ counts_S)
    return means


def resampled_auc(
    truth_N: Float64Array, score_N: Float64Array, cluster_N: Int64Array, draws_BS: Int64Array
) -> Float64Array:
    """AUC in each resample of clusters, [B]; NaN where a resample has one class only."""
    order = np.argsort(-score_N, kind="stable")
    starts = np.flatnonzero(np.diff(-score_N[order], prepend=-np.inf))
    is_positive = truth_N[order] == 1
    step = max(1, _CELLS_AT_ONCE // len(order))
    parts = [np.empty(0)]
    for first in range(0, len(draws_BS), step):
        drawn_BN = draws_BS[first : first + step][:, cluster_N[order]]
        positives_BG = np.add.reduceat(drawn_BN * is_positive, starts, axis=1)
        negatives_BG = np.add.reduceat(drawn_BN * ~is_positive, starts, axis=1)
        parts.append(pair_share(positives_BG, negatives_BG))
    return np.concatenate(parts)


def with_interval(value: float, resampled_B: Float64Array) -> Estimate:
    """Attach the percentile interval of `resampled_B`; resamples that are NaN are left out."""
    finite = resampled_B[np.isfinite(resampled_B)]
    if not finite.size:
        return Estimate(value)
    low, high = np.quantile(finite, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value, float(low), float(high))
