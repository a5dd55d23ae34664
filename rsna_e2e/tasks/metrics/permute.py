"""Two predictions of the same samples: their difference in each resample, and where predictions are swapped."""

# N samples, S clusters, B resamples, P permutations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tasks.metrics.curves import Int64Array
from rsna_e2e.tasks.metrics.delong import mean_ranks
from rsna_e2e.tasks.metrics.ranked import ranks, resampled_ranks
from rsna_e2e.tasks.metrics.resample import Draws, Estimate, resampled_mean, with_interval

Swaps = npt.NDArray[np.bool_]  # [P, S]: whether a permutation swaps the predictions of a cluster

_ROUNDING = 1e-9  # relative: a permutation that swaps all, or none, is as extreme as what was found


@dataclass(frozen=True, slots=True)
class Difference:
    """A number by either prediction, the first less the second with its interval, and p, two-sided, by permutation; the
    last two are NaN where there is nothing to resample or swap."""

    first: float
    second: float
    difference: Estimate
    p: float


def draw_swaps(n_clusters: int, *, n_permutations: int, seed: int) -> Swaps:
    """Draw for each permutation which clusters have their two predictions swapped, each with probability 1/2."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2, size=(n_permutations, n_clusters), dtype=np.int8).astype(np.bool_)


def permutation_p(observed: float, permuted_P: Float64Array) -> float:
    """Return (1 + n) / (1 + P), where n permutations differ from 0 at least as much as what was observed.

    Source: B. Phipson and G. K. Smyth, Statistical Applications in Genetics and Molecular Biology 2010, 9:39.
    """
    if not len(permuted_P) or np.isnan(observed):
        return float("nan")
    n_extreme = np.count_nonzero(np.abs(permuted_P) >= abs(observed) * (1 - _ROUNDING))
    return float((1 + n_extreme) / (1 + len(permuted_P)))


def compare_ratios(
    first_N: Float64Array,
    second_N: Float64Array,
    weight_N: Float64Array,
    cluster_N: Int64Array,
    draws_BS: Draws,
    swaps_PS: Swaps,
) -> Difference:
    """Compare two sums of losses over the same sum of weights, as weighted log losses are, or means with weights 1.

    Swapping the predictions of a cluster turns the sign of its part of the difference.
    """
    n_clusters, loss_N = draws_BS.shape[1], first_N - second_N
    with np.errstate(invalid="ignore", divide="ignore"):
        upper_B, lower_B = (resampled_mean(part, cluster_N, draws_BS) for part in (loss_N, weight_N))
        difference_B = upper_B / lower_B
        loss_S = np.bincount(cluster_N, weights=loss_N, minlength=n_clusters)
        permuted_P = (loss_S.sum() - 2 * (swaps_PS @ loss_S)) / weight_N.sum()
        first, second = (float(part.mean() / weight_N.mean()) for part in (first_N, second_N))
        observed = float(loss_N.mean() / weight_N.mean())
    return Difference(
        first,
        second,
        with_interval(observed, difference_B, n_clusters=len(np.unique(cluster_N))),
        permutation_p(observed, permuted_P),
    )


def compare_ranks(
    truth_N: Float64Array,
    first_N: Float64Array,
    second_N: Float64Array,
    cluster_N: Int64Array,
    draws_BS: Draws,
    swaps_PS: Swaps,
) -> dict[str, Difference]:
    """Compare `auc` and `average_precision`.

    What is swapped are ranks among the scores of either prediction, so that two that differ in scale alone, as a
    calibrated one does, are the same. Source: A. I. Bandos et al., Statistics in Medicine 2005, 24:2873-2893.
    """
    both = first_N, second_N
    found = [ranks(truth_N, score_N) for score_N in both]
    resampled = [resampled_ranks(truth_N, score_N, cluster_N, draws_BS) for score_N in both]
    permuted = _permuted(truth_N, mean_ranks(first_N), mean_ranks(second_N), cluster_N, swaps_PS)
    differences = {}
    for name, first in found[0].items():
        observed = first - found[1][name]
        difference_B = resampled[0][name] - resampled[1][name]
        interval = with_interval(observed, difference_B, n_clusters=len(np.unique(cluster_N)))
        p = permutation_p(observed, permuted[0][name] - permuted[1][name])
        differences[name] = Difference(first, found[1][name], interval, p)
    return differences


def _permuted(
    truth_N: Float64Array, first_N: Float64Array, second_N: Float64Array, cluster_N: Int64Array, swaps_PS: Swaps
) -> list[dict[str, Float64Array]]:
    """Return what either prediction is worth in each permutation: both are one list of samples in twice the clusters,
    of which it has one of either pair."""
    n_clusters = swaps_PS.shape[1]
    samples = (
        np.concatenate([truth_N, truth_N]),
        np.concatenate([first_N, second_N]),
        np.concatenate([cluster_N, cluster_N + n_clusters]),
    )
    halves = ~swaps_PS, swaps_PS
    return [resampled_ranks(*samples, np.hstack(pair).astype(np.int32)) for pair in (halves, halves[::-1])]
