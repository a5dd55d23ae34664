"""The mean of several predictions of the same slices and series, of which one at a time is in memory."""

from dataclasses import replace

import numpy as np

from rsna_e2e.model.forward import Prediction


def summed(total: Prediction | None, prediction: Prediction) -> Prediction:
    """Return the sums of probabilities of the same slices and series."""
    if total is None:
        return prediction
    series = None
    if total.series is not None and prediction.series is not None:
        series = total.series + prediction.series
    return replace(total, slices=total.slices + prediction.slices, series=series)


def mean_of(total: Prediction, n: int) -> Prediction:
    """Return the means from sums of n, cut off at 0 and 1 because a mean of ones may round to more."""
    slices = np.clip(total.slices / n, 0.0, 1.0)
    return replace(total, slices=slices, series=None if total.series is None else np.clip(total.series / n, 0.0, 1.0))
