"""How suspicious a label is: its prediction says otherwise, and so do the slices on either side."""

# N slices, L labels

from dataclasses import dataclass

import numpy as np

from rsna_e2e.core.records import Float64Array
from rsna_e2e.evaluation.scores import SeriesLayout
from rsna_e2e.tasks.metrics import Int64Array

NONE = -1  # no neighbour on this side


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspicion:
    """Per slice and label [N, L], of 0 to 1, NaN where no label is given.

    contradiction: 0.5 where the prediction fits the label as well as it fits labels of that value on average, and the
    other value as well as those. discontinuity: what the neighbours leave of the label, NaN without neighbours.
    score: of both together. before, after [N]: the neighbours, `NONE` where there is none.
    """

    score: Float64Array
    contradiction: Float64Array
    discontinuity: Float64Array
    before: Int64Array
    after: Int64Array


def suspicion(given_NL: Float64Array, probability_NL: Float64Array, layout: SeriesLayout) -> Suspicion:
    """Return how suspicious every label is. given_NL: labels of 0 and 1, NaN where unknown.

    score: the geometric mean of contradiction and discontinuity, so that either can acquit; contradiction alone where
    there is no neighbour.
    """
    before, after = _neighbours(layout)
    contradiction = _contradiction(given_NL, probability_NL)
    discontinuity = np.abs(given_NL - _expected(given_NL, probability_NL, before, after))
    score = np.where(np.isnan(discontinuity), contradiction, np.sqrt(contradiction * discontinuity))
    return Suspicion(score=score, contradiction=contradiction, discontinuity=discontinuity, before=before, after=after)


def _contradiction(given_NL: Float64Array, probability_NL: Float64Array) -> Float64Array:
    """Margin by which a prediction favours the other value over the one that is given, mapped from [-1, 1] to [0, 1].

    Both are taken less the mean that the model gives the value where it is given, so that a label of which it is never
    sure is not suspicious for that. Source: Northcutt, Jiang and Chuang, Confident Learning, JAIR 70, 2021: a threshold
    for each class (equation 2), and ranking by margin.
    """
    of_one, of_zero = probability_NL, 1.0 - probability_NL
    least_one, least_zero = (
        _mean(np.where(given_NL == value, of_value, np.nan), axis=0)
        for value, of_value in ((1.0, of_one), (0.0, of_zero))
    )
    least_one, least_zero = np.nan_to_num(least_one, nan=1.0), np.nan_to_num(least_zero, nan=1.0)
    margin = (of_one - least_one) - (of_zero - least_zero)  # for a label of 0
    margin = np.where(given_NL == 1.0, -margin, margin)
    return np.where(np.isnan(given_NL), np.nan, np.clip(0.5 + 0.5 * margin, 0.0, 1.0))


def _expected(
    given_NL: Float64Array, probability_NL: Float64Array, before: Int64Array, after: Int64Array
) -> Float64Array:
    """Probability [N, L] that neighbours lead to expect: the mean of their labels and of what is predicted of them."""
    both = np.stack([given_NL, probability_NL])
    padded = np.concatenate([both, np.full((2, 1, given_NL.shape[1]), np.nan)], axis=1)  # where NONE points to
    return _mean(np.concatenate([padded[:, before], padded[:, after]]), axis=0)


def _neighbours(layout: SeriesLayout) -> tuple[Int64Array, Int64Array]:
    """Slice before and after each in its series; `NONE` at its ends, and where the next slice is not among these."""
    order = np.lexsort((layout.slice_index, layout.series_of_slice))
    series, index = layout.series_of_slice[order], layout.slice_index[order]
    is_next = (series[1:] == series[:-1]) & (index[1:] - index[:-1] == 1)
    before, after = (np.full(len(order), NONE, dtype=np.int64) for _ in range(2))
    before[order[1:][is_next]] = order[:-1][is_next]
    after[order[:-1][is_next]] = order[1:][is_next]
    return before, after


def _mean(values: Float64Array, *, axis: int) -> Float64Array:
    """Mean of what is not NaN; NaN where all is."""
    is_known = ~np.isnan(values)
    n = is_known.sum(axis=axis)
    total = np.where(is_known, values, 0.0).sum(axis=axis)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)
