"""Truth of a submission: the labels that the store has of the predicted slices, written beside it for `evaluate`."""

# N slices, E studies, L labels of slices, M of studies

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsna_e2e.core.records import Float64Array, Rows, printable
from rsna_e2e.inference.predictions import beside
from rsna_e2e.model.forward import Prediction
from rsna_e2e.store import Store
from rsna_e2e.tasks.labels import write_labels
from rsna_e2e.tasks.metrics import scorable
from rsna_e2e.tasks.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthFile:
    """The truth beside a submission: it has n_slices of the n_predicted slices."""

    path: Path
    n_slices: int
    n_predicted: int


def write_truth(store: Store, prediction: Prediction, *, task: Task, submission: Path) -> TruthFile | None:
    """Write the labels that the store has of what was predicted, in the form of a submission; None where it has none.

    A label of which the store knows nothing here is left out, and so is a slice, or a study, that lacks one of the
    other labels.
    """
    rows = prediction.rows
    labels_NL = store.labels[rows].astype(np.float64)
    is_known_N, _ = scorable(labels_NL)
    studies, labels_EM = _of_studies(store, prediction.positions, task)
    is_known_E, _ = scorable(labels_EM)
    if not (is_known_N.any() or is_known_E.any()):
        return None
    image_ids = [printable(image_id) for image_id in store.index["image_id"][rows[is_known_N]]]
    path = beside(submission, "truth.csv")
    write_labels(
        path,
        task,
        image_ids,
        labels_NL[is_known_N],
        study_ids=[study for study, is_known in zip(studies, is_known_E, strict=True) if is_known],
        study_values=labels_EM[is_known_E],
    )
    return TruthFile(path=path, n_slices=len(image_ids), n_predicted=len(rows))


def _of_studies(store: Store, positions: Rows, task: Task) -> tuple[list[str], Float64Array]:
    """Return the studies of series, and their labels [E, M]: the store has those of a study with each of its series."""
    if not task.csv.series_id:
        return [], np.empty((0, len(task.series)))
    position_of = {printable(store.series[p].study_uid): p for p in reversed(positions.tolist())}
    first = list(reversed(position_of.items()))
    labels_EM: Float64Array = store.series_labels[[position for _, position in first]].astype(np.float64)
    return [study for study, _ in first], labels_EM
