"""ROC curves and calibration of one label."""

# N samples (slices or series), G distinct scores, K bins

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.records import Column, Float64Array

Int64Array = npt.NDArray[np.int64]

# Ten bins of equal width, as in C. Guo et al., "On Calibration of Modern Neural Networks", 2017, reduced from 15
# because a test set here has hundreds of series rather than thousands of images.
N_CALIBRATION_BINS = 10


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
    return float(pair_share(positives_G, negatives_G))


def calibration(truth_N: Float64Array, probability_N: Float64Array, *, n_bins: int = N_CALIBRATION_BINS) -> Calibration:
    """Compare mean probability with share of positives in bins of equal width; 1 belongs to the last bin.

    Source of the expected calibration error: M. P. Naeini et al., AAAI 2015.
    """
    bin_N = calibration_bins(probability_N, n_bins=n_bins)
    counts_K = np.bincount(bin_N, minlength=n_bins)
    with np.errstate(invalid="ignore"):
        mean_K = np.bincount(bin_N, weights=probability_N, minlength=n_bins) / counts_K
        observed_K = np.bincount(bin_N, weights=truth_N, minlength=n_bins) / counts_K
    gap = float(np.nansum(counts_K * np.abs(mean_K - observed_K)) / len(bin_N))
    edges = np.linspace(0, 1, n_bins + 1)
    return Calibration(edges=edges, counts=counts_K, mean_probability=mean_K, observed=observed_K, expected_error=gap)


def calibration_bins(probability_N: Float64Array, *, n_bins: int = N_CALIBRATION_BINS) -> Int64Array:
    """Return the bin of each probability [N]."""
    return np.minimum((probability_N * n_bins).astype(np.int64), n_bins - 1)


def pair_share(positives_G: Int64Array, negatives_G: Int64Array) -> Float64Array:
    """Share of positive-negative pairs in which the positive comes first, along the last axis; ties count half."""
    above_G = np.cumsum(positives_G, axis=-1) - positives_G / 2
    n_pairs = positives_G.sum(axis=-1) * negatives_G.sum(axis=-1)
    with np.errstate(invalid="ignore"):
        share: Float64Array = (above_G * negatives_G).sum(axis=-1) / n_pairs
    return share


def _descending_groups(truth_N: Float64Array, score_N: Float64Array) -> tuple[Float64Array, Int64Array, Int64Array]:
    """Distinct scores from the highest down, with the number of positives and negatives at each, [G]."""
    negated_G, group_N = np.unique(-score_N, return_inverse=True)
    positives_G = np.bincount(group_N[truth_N == 1], minlength=len(negated_G))
    return -negated_G, positives_G, np.bincount(group_N, minlength=len(negated_G)) - positives_G


def auc_by_group(truth_N: Float64Array, score_N: Float64Array, group_N: Column) -> dict[str, float]:
    """Return the area under the ROC curve within each group of samples, by its name, in sorted order; NaN where it has
    one class. What tells groups apart, such as the view of a radiograph, says nothing within one."""
    names_N = group_N.astype(str)
    return {name: auc(truth_N[names_N == name], score_N[names_N == name]) for name in np.unique(names_N).tolist()}
