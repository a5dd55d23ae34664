"""Maps from predicted to calibrated probabilities of one label: temperature scaling and Platt scaling."""

# N samples (slices or series), S clusters (patients), K bins, B resamples

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tasks.metrics.curves import N_CALIBRATION_BINS, Int64Array, calibration_bins
from rsna_e2e.tasks.metrics.losses import LOG_LOSS_EPS
from rsna_e2e.tasks.metrics.resample import Draws

# Temperatures from 1 / this to this are tried, far beyond what miscalibrated networks need (Guo: 1 to 3)
MOST_TEMPERATURE = 100.0
_LEAST_SLOPE = 1 / MOST_TEMPERATURE  # likewise of Platt's: a flatter map is as good as constant
NO_TEMPERATURE = "no temperature"  # reason: its loss is lowest at an end, as that of labels that are called too often

Scaling = Literal["platt", "temperature"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scalings:
    """Both maps of one label, on the logit z of what was predicted: z / temperature, and slope * z + intercept.

    reason: why nothing could be fitted, so that both are the identity, or `NO_TEMPERATURE`, where that alone is; else
    empty.
    """

    temperature: float = 1.0
    slope: float = 1.0
    intercept: float = 0.0
    reason: str = ""

    def applied(self, probability: Float64Array, by: Scaling) -> Float64Array:
        """Return calibrated probabilities, which rank as those that were predicted do."""
        if by == "platt":
            return rescaled(probability, slope=self.slope, intercept=self.intercept)
        return rescaled(probability, slope=1 / self.temperature)


def rescaled(probability: Float64Array, *, slope: float, intercept: float = 0.0) -> Float64Array:
    """Return the probabilities whose logits are slope * logit + intercept; 0 and 1 stay."""
    from scipy.special import expit, logit  # one number at a time, so that a threshold is mapped as a sample is

    if (slope, intercept) == (1.0, 0.0):
        return probability
    found: Float64Array = np.asarray(expit(slope * logit(probability) + intercept))
    return found


def fit_scalings(truth_N: Float64Array, probability_N: Float64Array) -> Scalings:
    """Fit both maps to samples of known truth by the lowest log loss.

    Sources: C. Guo et al., "On Calibration of Modern Neural Networks", 2017 (temperature); J. Platt, "Probabilistic
    Outputs for Support Vector Machines", 1999 (slope and intercept, to his smoothed targets: with few positives they
    keep the map from being as sure as those few).
    """
    is_positive_N = truth_N == 1
    clipped_N = np.clip(probability_N, LOG_LOSS_EPS, 1 - LOG_LOSS_EPS)
    logit_N = np.log(clipped_N) - np.log1p(-clipped_N)
    if is_positive_N.all() or not is_positive_N.any():
        return Scalings(reason="one class")
    if logit_N[is_positive_N].min() > logit_N[~is_positive_N].max():
        return Scalings(reason="separable")
    temperature, (slope, intercept) = _temperature(is_positive_N, logit_N), _platt(is_positive_N, logit_N)
    if slope < _LEAST_SLOPE or logit_N.min() == logit_N.max():  # of which any slope is as good
        return Scalings(reason="does not rank")
    if not 1.01 / MOST_TEMPERATURE < temperature < MOST_TEMPERATURE / 1.01:
        return Scalings(slope=slope, intercept=intercept, reason=NO_TEMPERATURE)
    return Scalings(temperature=temperature, slope=slope, intercept=intercept)


def _temperature(is_positive_N: npt.NDArray[np.bool_], logit_N: Float64Array) -> float:
    from scipy.optimize import minimize_scalar  # takes a second

    margin_N = np.where(is_positive_N, logit_N, -logit_N)  # log loss is ln(1 + exp(-margin))

    def loss(log_temperature: float) -> float:
        return float(np.logaddexp(0, -margin_N * np.exp(-log_temperature)).mean())

    end = np.log(MOST_TEMPERATURE)
    return float(np.exp(minimize_scalar(loss, bounds=(-end, end), method="bounded", options={"xatol": 1e-9}).x))


def _platt(is_positive_N: npt.NDArray[np.bool_], logit_N: Float64Array) -> tuple[float, float]:
    """Return slope and intercept. The loss is convex: Newton's steps in a trust region find its one minimum."""
    from scipy.optimize import minimize
    from scipy.special import expit

    n_positive, n = int(is_positive_N.sum()), len(logit_N)
    target_N = np.where(is_positive_N, (n_positive + 1) / (n_positive + 2), 1 / (n - n_positive + 2))
    terms_N2 = np.stack([logit_N, np.ones(n)], axis=1)

    def loss(weights_2: Float64Array) -> tuple[float, Float64Array]:
        score_N = terms_N2 @ weights_2
        value = float((np.logaddexp(0, score_N) - target_N * score_N).mean())
        return value, terms_N2.T @ (expit(score_N) - target_N) / n

    def curvature(weights_2: Float64Array) -> Float64Array:
        p_N = expit(terms_N2 @ weights_2)
        return np.asarray((terms_N2.T * (p_N * (1 - p_N))) @ terms_N2 / n)

    found = minimize(loss, np.array([1.0, 0.0]), jac=True, hess=curvature, method="trust-exact", options={"gtol": 1e-9})
    return float(found.x[0]), float(found.x[1])


def cross_fitted(
    truth_N: Float64Array, probability_N: Float64Array, cluster_N: Int64Array, by: Scaling, *, seed: int
) -> Float64Array:
    """Return probabilities, each calibrated by what was fitted to the half of the clusters that it is not in.

    Clusters with and without positives are dealt out apart, so that both halves have of both.
    """
    n_clusters = int(cluster_N.max()) + 1
    has_positive_S = np.bincount(cluster_N, weights=truth_N, minlength=n_clusters) > 0
    order_S = np.random.default_rng(seed).permutation(n_clusters)
    order_S = order_S[np.argsort(has_positive_S[order_S], kind="stable")]
    is_second_S = np.zeros(n_clusters, dtype=np.bool_)
    is_second_S[order_S[1::2]] = True
    is_second_N = is_second_S[cluster_N]
    found_N = probability_N.copy()
    for half_N in (is_second_N, ~is_second_N):
        if half_N.any():
            scalings = fit_scalings(truth_N[half_N], probability_N[half_N])
            found_N[~half_N] = scalings.applied(probability_N[~half_N], by)
    return found_N


def resampled_ece(
    truth_N: Float64Array, probability_N: Float64Array, cluster_N: Int64Array, draws_BS: Draws
) -> Float64Array:
    """Expected calibration error, as `calibration` has it, in each resample of clusters [B]; NaN where it is empty."""
    n_clusters, n_bins = draws_BS.shape[1], N_CALIBRATION_BINS
    bin_N = calibration_bins(probability_N)
    gaps_SK = np.bincount(cluster_N * n_bins + bin_N, weights=probability_N - truth_N, minlength=n_clusters * n_bins)
    counts_B = draws_BS @ np.bincount(cluster_N, minlength=n_clusters)
    with np.errstate(invalid="ignore"):
        errors_B: Float64Array = np.abs(draws_BS @ gaps_SK.reshape(n_clusters, n_bins)).sum(axis=1) / counts_B
    return errors_B
