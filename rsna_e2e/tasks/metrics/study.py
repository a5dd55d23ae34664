"""Log loss over slices and series at once: the score of RSNA-STR Pulmonary Embolism 2020."""

# N slices, L their labels, S series, M labels of series

import numpy as np

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tasks.metrics.curves import Int64Array
from rsna_e2e.tasks.metrics.losses import log_loss_cells
from rsna_e2e.tasks.task import Task


def study_log_loss(
    slice_truth_N: Float64Array,
    slice_probability_N: Float64Array,
    series_of_slice_N: Int64Array,
    series_truth_SM: Float64Array,
    series_probability_SM: Float64Array,
    *,
    image_weight: float,
    series_weights_M: Float64Array,
) -> tuple[Float64Array, Float64Array]:
    """Return what each series adds to the sum of weighted log losses, and to the sum of their weights, both [S].

    The score is the one sum over the other, so that resamples of series are exact. A label of a series counts with its
    weight; a slice with `image_weight` times the share of positive slices in its series, so that the slices of a series
    without any do not count. Truth is NaN where it is unknown: such cells count in neither sum, nor in the share.
    series_of_slice_N: the row of each slice's series. Source: the competition's page "Evaluation",
    kaggle.com/competitions/rsna-str-pulmonary-embolism-detection.
    """
    n_series, is_slice_N, is_label_SM = len(series_truth_SM), ~np.isnan(slice_truth_N), ~np.isnan(series_truth_SM)
    share_S, n_slices_S = _positive_shares(slice_truth_N, series_of_slice_N, n_series)
    loss_N = log_loss_cells(np.where(is_slice_N, slice_truth_N, 0.0), slice_probability_N) * is_slice_N
    loss_SM = log_loss_cells(np.where(is_label_SM, series_truth_SM, 0.0), series_probability_SM) * is_label_SM
    slice_loss_S = np.bincount(series_of_slice_N, weights=loss_N, minlength=n_series)
    numerator_S: Float64Array = loss_SM @ series_weights_M + image_weight * share_S * slice_loss_S
    denominator_S: Float64Array = is_label_SM @ series_weights_M + image_weight * share_S * n_slices_S
    return numerator_S, denominator_S


def study_log_loss_of(
    task: Task,
    slice_truth_NL: Float64Array,
    slice_probability_NL: Float64Array,
    series_of_slice_N: Int64Array,
    series_truth_SM: Float64Array,
    series_probability_SM: Float64Array,
) -> tuple[Float64Array, Float64Array]:
    """Return what `study_log_loss` does, of a task's headline and its labels of series, with their weights."""
    headline = task.headline_index
    return study_log_loss(
        slice_truth_NL[:, headline],
        slice_probability_NL[:, headline],
        series_of_slice_N,
        series_truth_SM,
        series_probability_SM,
        image_weight=task.slices.weights[headline],
        series_weights_M=np.array(task.series.weights),
    )


def best_constants(
    slice_truth_N: Float64Array, series_of_slice_N: Int64Array, series_truth_SM: Float64Array
) -> tuple[float, Float64Array]:
    """Return the probability for every slice, and those for every series [M], that no others beat in `study_log_loss`.

    Of series these are the prevalences; of slices, the share of positives among slices weighted as the score does.
    Where nothing counts, any is as good, and it is 0.5.
    """
    share_S, n_slices_S = _positive_shares(slice_truth_N, series_of_slice_N, len(series_truth_SM))
    n_known_M = (~np.isnan(series_truth_SM)).sum(axis=0)
    with np.errstate(invalid="ignore"):
        of_slices = (share_S**2 * n_slices_S).sum() / (share_S * n_slices_S).sum()
        of_series_M = np.nansum(series_truth_SM, axis=0) / n_known_M
    return float(np.nan_to_num(of_slices, nan=0.5)), np.nan_to_num(of_series_M, nan=0.5)


def _positive_shares(
    truth_N: Float64Array, series_of_slice_N: Int64Array, n_series: int
) -> tuple[Float64Array, Int64Array]:
    """Return the share of positives among the slices of each series whose truth is known, and their number, both [S].

    The share is 0 where none is known.
    """
    is_known_N = ~np.isnan(truth_N)
    n_known_S = np.bincount(series_of_slice_N[is_known_N], minlength=n_series)
    n_positive_S = np.bincount(series_of_slice_N, weights=np.nan_to_num(truth_N), minlength=n_series)
    return n_positive_S / np.maximum(n_known_S, 1), n_known_S
