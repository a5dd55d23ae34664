"""Brier score of one label, and the parts it is the sum of."""

# N samples, K bins

from dataclasses import dataclass

import numpy as np

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tasks.metrics.curves import calibration, calibration_bins


@dataclass(frozen=True, slots=True, kw_only=True)
class BrierParts:
    """Parts of the Brier score by the bins of `calibration`: score = reliability - resolution + uncertainty +
    within_bins.

    reliability: mean squared gap between mean probability and share of positives of a bin, 0 if calibrated. resolution:
    mean squared gap between that share and the share of all. uncertainty: score of always predicting the share of all.
    within_bins: variance of probabilities in their bins, less twice their covariance with the truth.
    Sources: A. H. Murphy, Journal of Applied Meteorology 1973, 12:595-600; within bins, D. B. Stephenson et al.,
    Weather and Forecasting 2008, 23:752-757.
    """

    reliability: float
    resolution: float
    uncertainty: float
    within_bins: float

    @property
    def score(self) -> float:
        """The sum of the parts."""
        return self.reliability - self.resolution + self.uncertainty + self.within_bins


def squared_errors(truth_N: Float64Array, probability_N: Float64Array) -> Float64Array:
    """Return squared errors [N], whose mean is the Brier score. Source: G. W. Brier, Monthly Weather Review 1950."""
    errors: Float64Array = (probability_N - truth_N) ** 2
    return errors


def brier_parts(truth_N: Float64Array, probability_N: Float64Array) -> BrierParts:
    """Return the parts of the Brier score; NaN without samples."""
    if not len(truth_N):
        return BrierParts(reliability=np.nan, resolution=np.nan, uncertainty=np.nan, within_bins=np.nan)
    bins, bin_N = calibration(truth_N, probability_N), calibration_bins(probability_N)
    share, weight_K = float(truth_N.mean()), bins.counts / len(truth_N)
    off_N = probability_N - bins.mean_probability[bin_N]
    return BrierParts(
        reliability=float(np.nansum(weight_K * (bins.mean_probability - bins.observed) ** 2)),
        resolution=float(np.nansum(weight_K * (bins.observed - share) ** 2)),
        uncertainty=share * (1 - share),
        within_bins=float((off_N**2 - 2 * off_N * (truth_N - bins.observed[bin_N])).mean()),
    )
