"""Divides labelled patients: into folds, after some were held out; those that a store has divided already stay."""

# N slices, C counts

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.errors import UsageError
from rsna_e2e.core.records import N_FOLDS, Column, Float64Array
from rsna_e2e.store.folds import stratified_folds

Mask = npt.NDArray[np.bool_]
Folds = npt.NDArray[np.int64]

HELD_OUT = -1  # instead of a fold


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """How labelled patients are divided: into folds, after some were held out.

    holdout: share of the labelled slices, and about of the positives, that goes to split "test" by whole patients and
    keeps its labels; None for none. seed: decides among equals. Raises UsageError for what is no share or number.
    """

    n_folds: int
    holdout: float | None
    seed: int

    def __post_init__(self) -> None:
        if self.n_folds < 1:
            raise UsageError(f"folds {self.n_folds}: must be at least 1")
        if self.holdout is not None and not 0 < self.holdout < 1:
            raise UsageError(f"holdout {self.holdout:g}: must be a share between 0 and 1, such as 0.2")

    def check(self, *, has_labels: bool) -> None:
        """Raise UsageError where patients are to be held out and there are no labels."""
        if self.holdout is not None and not has_labels:
            raise UsageError(
                f"holdout {self.holdout:g}: there are no labels. Give them with --labels; without any, all series are "
                "in split test already"
            )


DEFAULT = Division(n_folds=N_FOLDS, holdout=None, seed=0)


def divide(
    patient_ids: Column, is_labelled_N: Mask, counts_NC: Float64Array, division: Division, known: Mapping[str, int]
) -> Folds:
    """Return the fold of each slice [N], -1 in split "test": of series without labels, or of patients held out.

    is_labelled_N: whether its series has labels. counts_NC: what is balanced between parts of the data. known: the fold
    of patients that have one already, or `HELD_OUT`. Raises UsageError where no labelled patient, or every one, would
    be held out.
    """
    fold_N = np.full(len(patient_ids), HELD_OUT, dtype=np.int64)
    is_known_N = np.fromiter((patient in known for patient in patient_ids), np.bool_, len(patient_ids)) & is_labelled_N
    fold_N[is_known_N] = [known[patient] for patient in patient_ids[is_known_N]]
    is_new_N = is_labelled_N & ~is_known_N
    if division.holdout is not None:
        is_new_N &= ~_held_out(patient_ids, counts_NC, is_new_N, division.holdout, seed=division.seed)
    fold_N[is_new_N] = stratified_folds(
        patient_ids[is_new_N].tolist(), counts_NC[is_new_N], n_folds=division.n_folds, seed=division.seed
    )
    return fold_N


def _held_out(patient_ids: Column, counts_NC: Float64Array, is_labelled_N: Mask, share: float, *, seed: int) -> Mask:
    """Return which slices of labelled series are of patients to hold out: about `share` of each count."""
    names = patient_ids[is_labelled_N].tolist()
    part = stratified_folds(names, counts_NC[is_labelled_N], n_folds=2, seed=seed, sizes=(1 - share, share))
    if not 0 < np.count_nonzero(part) < len(part):
        raise UsageError(
            f"holdout {share:g}: too few labelled patients ({len(set(names))}) to hold out this share of them. Choose "
            "a share of at least one patient that leaves at least one to train on, or label more patients"
        )
    is_held_N = np.zeros(len(patient_ids), dtype=np.bool_)
    is_held_N[is_labelled_N] = part == 1
    return is_held_N


def count_positives(labels_NL: npt.NDArray[Any], series_labels_SM: npt.NDArray[Any], starts: Column) -> Float64Array:
    """Return what is balanced between parts of the data [N, L + M + 1]: positives of each label of slices, those of
    series, at the first slice of each, and slices. starts [S]: the first row of each series."""
    of_series_NM = np.zeros((len(labels_NL), series_labels_SM.shape[1]))
    of_series_NM[starts] = np.nan_to_num(series_labels_SM)
    return np.column_stack([np.nan_to_num(labels_NL), of_series_NM, np.ones(len(labels_NL))]).astype(np.float64)
