"""Truth of a submission: the labels that the store has of the predicted slices, written beside it for `evaluate`."""

# N slices, L labels

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsna_e2e.core.records import Rows, printable
from rsna_e2e.inference.predictions import beside
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


def write_truth(store: Store, rows: Rows, *, task: Task, submission: Path) -> TruthFile | None:
    """Write the labels of these rows of the store, in the form of a submission; return None where no slice has any.

    A label of which the store knows nothing here is left out, and so is a slice that lacks one of the other labels.
    """
    labels_NL = store.labels[rows].astype(np.float64)
    is_known_N, is_label_L = scorable(labels_NL)
    if not is_known_N.any():
        return None
    known = task.only([name for name, is_known in zip(task.slices.names, is_label_L, strict=True) if is_known])
    image_ids = [printable(image_id) for image_id in store.index["image_id"][rows[is_known_N]]]
    path = beside(submission, "truth.csv")
    write_labels(path, known, image_ids, labels_NL[np.ix_(is_known_N, is_label_L)])
    return TruthFile(path=path, n_slices=len(image_ids), n_predicted=len(rows))
