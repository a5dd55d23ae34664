"""Variance of the area under the ROC curve by DeLong, and the test of two areas on the same samples.

It takes samples as independent. Slices of one series are not, so its intervals of slices are too narrow.
Sources: E. R. DeLong, D. M. DeLong, D. L. Clarke-Pearson, Biometrics 1988, 44:837-845; by midranks as in X. Sun and
W. Xu, IEEE Signal Processing Letters 2014, 21:1389-1393.
"""

# N samples, P positives, Q negatives

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tasks.metrics.resample import CONFIDENCE, Estimate

_QUANTILE = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)  # 1.96


@dataclass(frozen=True, slots=True)
class DeLong:
    """An area, or a difference of two, and the variance of it; the latter is NaN with fewer than two samples of a
    class."""

    value: float
    variance: float

    @property
    def interval(self) -> Estimate:
        """The value with its 95 % interval, which is normal: it may end outside 0 to 1."""
        margin = _QUANTILE * math.sqrt(self.variance)
        return Estimate(self.value, self.value - margin, self.value + margin)

    @property
    def p(self) -> float:
        """Two-sided probability of a value this far from 0, if 0 is the truth; 1 where there is no difference at all,
        NaN where the variance is."""
        if self.value == 0:
            return 1.0
        if self.variance == 0:
            return 0.0
        return math.erfc(abs(self.value) / math.sqrt(2 * self.variance))


def delong(truth_N: Float64Array, score_N: Float64Array) -> DeLong:
    """Return the area under the ROC curve, NaN of one class, with its variance."""
    return _of_components(*_components(truth_N, score_N))


def paired_delong(truth_N: Float64Array, first_N: Float64Array, second_N: Float64Array) -> DeLong:
    """Return the area of the first scores less that of the second, of the same samples, with its variance."""
    both = zip(_components(truth_N, first_N), _components(truth_N, second_N), strict=True)
    of_positives, of_negatives = (first - second for first, second in both)
    return _of_components(of_positives, of_negatives)


def _components(truth_N: Float64Array, score_N: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return of each positive the share of negatives below it [P], and of each negative that of positives above [Q]."""
    is_positive_N = truth_N == 1
    positives_P, negatives_Q = score_N[is_positive_N], score_N[~is_positive_N]
    n_positive, n_negative = len(positives_P), len(negatives_Q)
    rank_N = mean_ranks(np.concatenate([positives_P, negatives_Q]))
    with np.errstate(invalid="ignore", divide="ignore"):
        below_P = (rank_N[:n_positive] - mean_ranks(positives_P)) / n_negative
        above_Q = 1 - (rank_N[n_positive:] - mean_ranks(negatives_Q)) / n_positive
    return np.asarray(below_P), np.asarray(above_Q)


def mean_ranks(values_N: Float64Array) -> Float64Array:
    """Return the ranks of values, from 1 on; equal ones have the mean of theirs."""
    from scipy.stats import rankdata  # takes a second to import, also for those who only draw pictures

    return np.asarray(rankdata(values_N), dtype=np.float64)


def _of_components(of_positives_P: Float64Array, of_negatives_Q: Float64Array) -> DeLong:
    if not len(of_positives_P) or not len(of_negatives_Q):
        return DeLong(math.nan, math.nan)
    value = float(of_positives_P.mean())
    if min(len(of_positives_P), len(of_negatives_Q)) < 2:
        return DeLong(value, math.nan)
    variances = (float(part.var(ddof=1)) / len(part) for part in (of_positives_P, of_negatives_Q))
    return DeLong(value, sum(variances))
