"""Intervals by resampling clusters of samples: whole series, or whole patients."""

# N samples (slices or series), L labels, S clusters (series, or patients), B resamples

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tasks.metrics.curves import Int64Array

CONFIDENCE = 0.95

Draws = npt.NDArray[np.int32]  # [B, S]: how often each resample draws each cluster

# Draws handled together: bounds memory at about this many numbers (64 MiB of 8 bytes).
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


def draw_resamples(n_clusters: int, *, n_resamples: int, seed: int) -> Draws:
    """Draw B bootstrap resamples of S clusters with replacement; return how often each cluster is drawn, [B, S]."""
    rng, share_S = np.random.default_rng(seed), np.full(n_clusters, 1 / n_clusters)
    draws_BS = np.empty((n_resamples, n_clusters), dtype=np.int32)
    for block in _blocks(draws_BS):
        draws_BS[block] = rng.multinomial(n_clusters, share_S, size=len(draws_BS[block]))
    return draws_BS


def resampled_mean(values_N: Float64Array, cluster_N: Int64Array, draws_BS: Draws) -> Float64Array:
    """Mean of `values_N` in each resample of clusters, [B]; NaN where it draws none of the samples."""
    n_clusters = draws_BS.shape[1]
    sums_S = np.bincount(cluster_N, weights=values_N, minlength=n_clusters)
    counts_S = np.bincount(cluster_N, minlength=n_clusters)
    means_B = np.empty(len(draws_BS))
    with np.errstate(invalid="ignore"):
        for block in _blocks(draws_BS):
            means_B[block] = (draws_BS[block] @ sums_S) / (draws_BS[block] @ counts_S)
    return means_B


def _blocks(draws_BS: Draws) -> Iterator[slice]:
    step = max(1, _CELLS_AT_ONCE // draws_BS.shape[1])
    return (slice(first, first + step) for first in range(0, len(draws_BS), step))


def with_interval(value: float, resampled_B: Float64Array, *, n_clusters: int) -> Estimate:
    """Attach the expanded percentile interval of `resampled_B`; resamples that are NaN are left out.

    The middle 95 % of the resampled means of n clusters are narrower than Student's interval by sqrt((n - 1) / n) times
    1.96 / t, t the quantile of n - 1 degrees of freedom: 3 % of 60, 9 % of 20. The quantiles taken here are further out
    by as much. Source: T. Hesterberg, The American Statistician 2015, 69:371-386, section 5.3.
    """
    from scipy.special import ndtr, stdtrit  # takes a moment, and most that load this need none

    finite = resampled_B[np.isfinite(resampled_B)]
    if not finite.size or n_clusters < 2:
        return Estimate(value)
    t = stdtrit(n_clusters - 1, (1 + CONFIDENCE) / 2)
    below = float(ndtr(-t * np.sqrt(n_clusters / (n_clusters - 1))))
    low, high = np.quantile(finite, [below, 1 - below])
    return Estimate(value, float(low), float(high))
