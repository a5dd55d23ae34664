"""Labels and notes that studies have of their own: how often they hold, and whether they obey the task's tree."""

# N slices, S series, E studies, M labels of studies, K notes

from typing import Any

import numpy as np

from rsna_e2e.core.records import Float64Array
from rsna_e2e.evaluation.inspection.slices import Slices
from rsna_e2e.evaluation.inspection.tally import plain
from rsna_e2e.tasks.rules import violations


def describe_studies(slices: Slices) -> dict[str, Any] | None:
    """Return labels and notes of the studies of a store; None where they have none of their own.

    n_breaking: studies of which the labels, with those of their slices, break the tree.
    """
    store, task = slices.store, slices.task
    if store is None or not task.series:
        return None
    study_S = slices["study_uid"][slices.first].astype(str)
    first_E, study_of_series = np.unique(study_S, return_index=True, return_inverse=True)[1:]
    labels_EM = store.series_labels[first_E].astype(np.float64)
    notes_EK = store.series_notes[first_E].astype(np.float64)
    study_of_slice = study_of_series[slices.series_of_row].astype(np.int64)
    broken_E = violations(slices.labels.astype(np.float64), study_of_slice, labels_EM, task)
    return {
        "n": len(labels_EM),
        "n_labelled": int((~np.isnan(labels_EM)).any(axis=1).sum()),
        "labels": _rates(task.series.names, labels_EM),
        "notes": _rates(task.series.notes, notes_EK),
        "n_breaking": int(np.count_nonzero(broken_E)),
    }


def _rates(names: tuple[str, ...], values_EM: Float64Array) -> list[dict[str, Any]]:
    """Return of how many studies each is known, and of how many it holds."""
    known_M, positive_M = (~np.isnan(values_EM)).sum(axis=0), (values_EM > 0).sum(axis=0)
    share_M = positive_M / np.where(known_M > 0, known_M, np.nan)
    return [
        {"label": name, "n": int(known), "n_positive": int(positive), "prevalence": plain(share)}
        for name, known, positive, share in zip(names, known_M, positive_M, share_M, strict=True)
    ]
