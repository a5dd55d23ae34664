"""Decision curve of one label: what acting on its probability is worth, against always and never acting."""

# N samples, T thresholds

from dataclasses import dataclass

import numpy as np

from rsna_e2e.core.records import Float64Array

# Probabilities from which on somebody would act: 1 % to 99 %. At 0 all are treated, and at 1 a false alarm costs all.
THRESHOLDS: Float64Array = np.arange(1, 100) / 100


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionCurve:
    """Net benefit by threshold [T]: of the predictions, and of treating all; that of treating none is 0.

    It is in true positives for each sample: their share, less that of false positives times the odds of the threshold,
    which say how many false alarms a true one is worth. NaN without samples.
    Source: A. J. Vickers and E. B. Elkin, Medical Decision Making 2006, 26:565-574.
    """

    thresholds: Float64Array
    net_benefit: Float64Array
    treat_all: Float64Array


def decision_curve(
    truth_N: Float64Array, probability_N: Float64Array, *, thresholds_T: Float64Array = THRESHOLDS
) -> DecisionCurve:
    """Return the decision curve; a probability at or above a threshold is acted on."""
    odds_T = thresholds_T / (1 - thresholds_T)
    positives, negatives = (np.sort(probability_N[truth_N == value]) for value in (1, 0))
    found_T, alarms_T = (len(part) - np.searchsorted(part, thresholds_T) for part in (positives, negatives))
    with np.errstate(invalid="ignore"):
        return DecisionCurve(
            thresholds=thresholds_T,
            net_benefit=(found_T - odds_T * alarms_T) / np.float64(len(truth_N)),
            treat_all=(len(positives) - odds_T * len(negatives)) / np.float64(len(truth_N)),
        )
