"""Scores of the studies of which a note says yes, and of those of which it says no: motion, poor contrast."""

# E studies, N their slices

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from rsna_e2e.evaluation.cells import losses
from rsna_e2e.evaluation.comparisons import Part
from rsna_e2e.evaluation.scores import Evaluation
from rsna_e2e.store import Store

BoolArray = npt.NDArray[np.bool_]


def with_parts(evaluation: Evaluation, store: Store) -> Evaluation:
    """Add the scores by each note of a store that says both, of the studies that are scored."""
    if not evaluation.studies or not evaluation.layout:
        return evaluation
    study_row = {key: row for row, key in enumerate(evaluation.layout.series_keys)}
    parts = []
    for column, note in enumerate(store.note_names):
        value_E = np.full(len(study_row), np.nan)
        for span, value in zip(store.series, store.series_notes[:, column].tolist(), strict=True):
            if (row := study_row.get(span.study_uid)) is not None and not np.isnan(value):
                value_E[row] = np.fmax(value_E[row], value)
        if (value_E > 0).any() and (value_E == 0).any():
            parts += [
                _part(evaluation, note, value_E > 0, value=True),
                _part(evaluation, note, value_E == 0, value=False),
            ]
    return replace(evaluation, parts=tuple(parts))


def _part(evaluation: Evaluation, note: str, is_member_E: BoolArray, *, value: bool) -> Part:
    task, study_of_slice, resamples = evaluation.task, evaluation.study_of_slice, evaluation.by_unit
    is_member_N, headline = is_member_E[study_of_slice], task.headline_index
    found = losses(task, evaluation.truth, evaluation.predicted, study_of_slice)
    by_slice = resamples.of(resamples.cluster[study_of_slice]).only(is_member_N)
    slices = evaluation.slices
    return Part(
        note=note,
        value=value,
        n_studies=int(is_member_E.sum()),
        n_slices=int(is_member_N.sum()),
        weighted_log_loss=resamples.only(is_member_E).ratio(found.loss[is_member_E], found.weight[is_member_E]),
        auc=by_slice.auc(slices.truth[is_member_N, headline], slices.probability[is_member_N, headline]),
    )
