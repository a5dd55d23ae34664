"""Cuts a label set to as many positive as negative slices, by patient."""

# N slices, P patients

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.errors import UsageError
from rsna_e2e.core.records import Column
from rsna_e2e.store.prepare.sets import Joined
from rsna_e2e.tasks.task import Task

Mask = npt.NDArray[np.bool_]


def balanced(joined: Joined, patient_N: Column, task: Task, label: str, *, seed: int) -> tuple[Joined, dict[str, int]]:
    """Return labels of equally many slices with and without `label`, and counts; other slices have no label then.

    All slices of the rarer kind stay. Those of the other stay of one patient after another, in an order of `seed`,
    until they are as many; of the last patient a part may stay. So a patient without slices of the rarer kind is whole
    or left out, but for one. Slices of which the label is unknown are left out. Raises UsageError for another label
    than the task's of slices, and where all slices are of one kind.
    """
    if label not in task.slices.names:
        raise UsageError(f"--balance {label:.100}: is no label of slices. Choose one of {', '.join(task.slices.names)}")
    value_N = joined.labels[:, task.slices.index(label)]
    kinds = [value_N > 0, value_N == 0]
    rarer_N, other_N = sorted(kinds, key=np.count_nonzero)
    if not rarer_N.any():
        kind = "positive" if rarer_N is kinds[0] else "negative"
        raise UsageError(f"--balance {label}: no slice is {kind}, so there is nothing to balance. Leave it out")
    stays_N = rarer_N | _of_first_patients(other_N, patient_N, int(rarer_N.sum()), seed=seed)
    patients = set(patient_N[stays_N].tolist())
    stays_S = np.array([patient in patients for patient in patient_N[joined.starts]])
    left = replace(
        joined,
        labels=np.where(stays_N[:, None], joined.labels, np.float32(np.nan)),
        series_labels=np.where(stays_S[:, None], joined.series_labels, np.float32(np.nan)),
        boxes=joined.boxes.at(np.flatnonzero(stays_N[joined.boxes.images])),
    )
    was_labelled_N = ~np.isnan(joined.labels).all(axis=1)
    return left, {
        f"with {label}": int((stays_N & kinds[0]).sum()),
        "without": int((stays_N & kinds[1]).sum()),
        "slices left out": int((was_labelled_N & ~stays_N).sum()),
        "patients left out": len(set(patient_N[was_labelled_N].tolist()) - patients),
    }


def _of_first_patients(is_one_N: Mask, patient_N: Column, n: int, *, seed: int) -> Mask:
    """Return `n` of these slices: those of one patient after another."""
    rng = np.random.default_rng(seed)
    names, patient_of_N = np.unique(patient_N.astype(str), return_inverse=True)
    place_P, rows = rng.permutation(len(names)), np.flatnonzero(is_one_N)
    in_order = np.lexsort((rng.permutation(len(rows)), place_P[patient_of_N[rows]]))
    is_first_N = np.zeros(len(is_one_N), dtype=np.bool_)
    is_first_N[rows[in_order[:n]]] = True
    return is_first_N
