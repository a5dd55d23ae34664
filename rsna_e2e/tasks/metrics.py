"""Metrics of predicted probabilities: log losses, ROC curves, calibration, and intervals by resampling clusters.

Truth is 0 or 1, a prediction is a probability in [0, 1]; both are float64.
"""

# N samples (slices or series), L labels, S clusters (series, or patients), G distinct scores, B resamples, K bins

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.records import Float64Array

Int64Array = npt.NDArray[np.int64]

# Kaggle's log loss replaces p by max(min(p, 1 - 1e-15), 1e-15), so that a sure mistake costs 34.5, not infinity.
LOG_LOSS_EPS = 1e-15

# Ten bins of equal width, as in C. Guo et al., "On Calibration of Modern Neural Networks", 2017, reduced from 15
# because a test set here has hundreds of series rather than thousands of images.
N_CALIBRATION_BINS = 10

CONFIDENCE = 0.95

# Resamples handled together: bounds memory at about this many numbers (64 MiB of float64).
_CELLS_AT_ONCE = 1 << 23


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval; an end is NaN where it is undefined."""

    value: float
    low: float = float("nan")
    high: float = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class RocCurve:
    """Points [G + 1] from (0, 0) to (1, 1): scores at or above a threshold are called positive (first: infinity)."""

    false_positive_rate: Float64Array
    true_positive_rate: Float64Array
    thresholds: Float64Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Reliability by bins of probability [K]: count, mean probability and share of positives (NaN if empty) of each.

    expected_error: mean gap between the two over all samples, the expected calibration error (ECE).
    """

    edges: Float64Array
    counts: Int64Array
    mean_probability: Float64Array
    observed: Float64Array
    expected_error: float


def log_loss_cells(truth: Float64Array, probability: Float64Array, *, eps: float = LOG_LOSS_EPS) -> Float64Array:
    """Binary log loss in nats of every cell, -[y ln p + (1 - y) ln(1 - p)] with p clipped to [eps, 1 - eps]."""
    clipped = np.clip(probability, eps, 1 - eps)
    loss: Float64Array = -(truth * np.log(clipped) + (1 - truth) * np.log1p(-clipped))
    return loss


def weighted_log_loss_rows(
    truth_NL: Float64Array, probability_NL: Float64Array, weights_L: Float64Array
) -> Float64Array:
    """Weighted mean over labels of each sample's log loss, [N]; the weights are normalised to sum to 1.

    Its mean over the slices is the score of the RSNA 2019 competition.
    """
    rows: Float64Array = log_loss_cells(truth_NL, probability_NL) @ (weights_L / weights_L.sum())
    return rows


def scorable(truth_NL: Float64Array) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return which samples [N] and labels [L] can be scored where truth is NaN if unknown: the labels that are known of
    any sample, and the samples of which all these are."""
    known_NL = ~np.isnan(truth_NL)
    is_label_L = np.asarray(known_NL.any(axis=0))
    return np.asarray((known_NL | ~is_label_L).all(axis=1) & is_label_L.any()), is_label_L


def weighted_log_loss(truth_NL: Float64Array, probability_NL: Float64Array, weights_L: Float64Array) -> float:
    """Mean over samples of `weighted_log_loss_rows`."""
    return float(weighted_log_loss_rows(truth_NL, probability_NL, weights_L).mean())


def known_weighted_log_loss(truth_NL: Float64Array, probability_NL: Float64Array, weights_L: Float64Array) -> float:
    """`weighted_log_loss` of what is `scorable` where truth is NaN if unknown; NaN when nothing is."""
    known_N, is_label_L = scorable(truth_NL)
    if not known_N.any():
        return float("nan")
    scored = np.ix_(known_N, is_label_L)
    return weighted_log_loss(truth_NL[scored], probability_NL[scored], weights_L[is_label_L])


def constant_prediction(truth_NL: Float64Array, prevalence_L: Float64Array | None = None) -> Float64Array:
    """Return [N, L] predictions that give every sample the same probabilities.

    By default these are the prevalences of `truth_NL` itself, which no constant can beat; pass `prevalence_L` to use
    others, for instance those of the training labels.
    """
    prevalence_L = truth_NL.mean(axis=0) if prevalence_L is None else prevalence_L
    assert prevalence_L.shape == truth_NL.shape[1:]
    return np.broadcast_to(prevalence_L, truth_NL.shape)


def roc_curve(truth_N: Float64Array, score_N: Float64Array) -> RocCurve:
    """ROC curve with one point per distinct score, so that ties are crossed on the diagonal.

    Rates are NaN for a class without samples.
    """
    thresholds_G, positives_G, negatives_G = _descending_groups(truth_N, score_N)
    with np.errstate(invalid="ignore"):
        return RocCurve(
            false_positive_rate=np.concatenate([[0.0], np.cumsum(negatives_G) / negatives_G.sum()]),
            true_positive_rate=np.concatenate([[0.0], np.cumsum(positives_G) / positives_G.sum()]),
            thresholds=np.concatenate([[np.inf], thresholds_G]),
        )


def auc(truth_N: Float64Array, score_N: Float64Array) -> float:
    """Area under the ROC curve: chance that a positive outscores a negative, ties count half; NaN for one class."""
    _, positives_G, negatives_G = _descending_groups(truth_N, score_N)
    return float(_pair_share(positives_G, negatives_G))


def average_precision(truth_N: Float64Array, score_N: Float64Array) -> float:
    """Sum over distinct scores, from the highest, of precision times the rise in recall; NaN without positives."""
    _, positives_G, negatives_G = _descending_groups(truth_N, score_N)
    if positives_G.sum() == 0:
        return float("nan")
    found_G = np.cumsum(positives_G)
    precision_G = found_G / (found_G + np.cumsum(negatives_G))
    return float(precision_G @ positives_G / positives_G.sum())


def calibration(truth_N: Float64Array, probability_N: Float64Array, *, n_bins: int = N_CALIBRATION_BINS) -> Calibration:
    """Compare mean probability with share of positives in bins of equal width; 1 belongs to the last bin.

    Source of the expected calibration error: M. P. Naeini et al., AAAI 2015.
    """
    bin_N = np.minimum((probability_N * n_bins).astype(np.int64), n_bins - 1)
    counts_K = np.bincount(bin_N, minlength=n_bins)
    with np.errstate(invalid="ignore"):
        mean_K = np.bincount(bin_N, weights=probability_N, minlength=n_bins) / counts_K
        observed_K = np.bincount(bin_N, weights=truth_N, minlength=n_bins) / counts_K
    gap = float(np.nansum(counts_K * np.abs(mean_K - observed_K)) / len(bin_N))
    edges = np.linspace(0, 1, n_bins + 1)
    return Calibration(edges=edges, counts=counts_K, mean_probability=mean_K, observed=observed_K, expected_error=gap)


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
    """Mean of `values_N` in each resample of clusters, [B]."""
    n_clusters = draws_BS.shape[1]
    sums_S = np.bincount(cluster_N, weights=values_N, minlength=n_clusters)
    counts_S = np.bincount(cluster_N, minlength=n_clusters)
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
        parts.append(_pair_share(positives_BG, negatives_BG))
    return np.concatenate(parts)


def with_interval(value: float, resampled_B: Float64Array) -> Estimate:
    """Attach the percentile interval of `resampled_B`; resamples that are NaN are left out."""
    finite = resampled_B[np.isfinite(resampled_B)]
    if not finite.size:
        return Estimate(value)
    low, high = np.quantile(finite, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value, float(low), float(high))


def _descending_groups(truth_N: Float64Array, score_N: Float64Array) -> tuple[Float64Array, Int64Array, Int64Array]:
    """Distinct scores from the highest down, with the number of positives and negatives at each, [G]."""
    negated_G, group_N = np.unique(-score_N, return_inverse=True)
    positives_G = np.bincount(group_N[truth_N == 1], minlength=len(negated_G))
    return -negated_G, positives_G, np.bincount(group_N, minlength=len(negated_G)) - positives_G


def _pair_share(positives_G: Int64Array, negatives_G: Int64Array) -> Float64Array:
    """Share of positive-negative pairs in which the positive comes first, along the last axis; ties count half."""
    above_G = np.cumsum(positives_G, axis=-1) - positives_G / 2
    n_pairs = positives_G.sum(axis=-1) * negatives_G.sum(axis=-1)
    with np.errstate(invalid="ignore"):
        share: Float64Array = (above_G * negatives_G).sum(axis=-1) / n_pairs
    return share
