"""Labels of a data set: prevalence, co-occurrence, order of positive slices, folds, and copies of slices."""

# N slices, S series, P patients, L labels

from typing import Any

import numpy as np

from rsna_e2e.evaluation.inspection.slices import Column, Slices
from rsna_e2e.evaluation.inspection.tally import plain, whole_numbers
from rsna_e2e.store.label_runs import check_order, positive_runs
from rsna_e2e.store.series_order import run_starts, studies_of_single_slices, volume_numbers

MOST_RUNS = 12
MOST_STUDIES = 10


def describe_counts(slices: Slices) -> dict[str, Any]:
    """Return how many patients, studies, series and slices there are, by split, and how they are nested."""
    patient_S, study_S = slices["patient_id"][slices.first], slices["study_uid"][slices.first]
    studies, first, n_series = np.unique(study_S, return_index=True, return_counts=True)
    patients, n_studies = np.unique(patient_S[first], return_counts=True)
    is_train_S = slices.is_train
    volume_S = volume_numbers(slices.columns)
    in_both = np.intersect1d(patient_S[is_train_S], patient_S[~is_train_S])
    return {
        "patients": len(patients),
        "studies": len(studies),
        "series": len(slices.first),
        "slices": len(slices),
        "train_series": int(is_train_S.sum()),
        "test_series": int((~is_train_S).sum()),
        "train_slices": int(slices.lengths[is_train_S].sum()),
        "test_slices": int(slices.lengths[~is_train_S].sum()),
        "slices_per_series": whole_numbers(slices.lengths, at_most=400),
        "single_slice_series": int(np.count_nonzero(slices.lengths == 1)),
        "studies_per_patient": whole_numbers(n_studies, at_most=MOST_STUDIES),
        "patients_with_several_studies": int(np.count_nonzero(n_studies > 1)),
        "studies_with_several_series": int(np.count_nonzero(n_series > 1)),
        "patients_in_train_and_test": len(in_both),
        "series_of_several_volumes": int(np.count_nonzero(volume_S == 1)),
        "further_volumes": int(np.count_nonzero(volume_S)),
        "studies_with_a_series_for_every_slice": studies_of_single_slices(slices.columns),
    }


def describe_labels(slices: Slices) -> dict[str, Any]:
    """Return prevalence, co-occurrence, runs of positive slices and folds."""
    labels_NL = slices.labels.astype(np.float64)
    known_NL = ~np.isnan(labels_NL)
    positive_NL = np.nan_to_num(labels_NL) > 0
    known_SL, positive_SL = slices.per_series(known_NL) > 0, slices.per_series(positive_NL) > 0
    names = slices.task.slices.names
    return {
        "n_labelled": int(known_NL.any(axis=1).sum()),
        "n_unlabelled_in_train": int((slices.is_train[slices.series_of_row] & ~known_NL.any(axis=1)).sum()),
        "labels": [
            {
                "label": name,
                "slices": _rate(int(positive_NL[:, i].sum()), int(known_NL[:, i].sum())),
                "series": _rate(int(positive_SL[:, i].sum()), int(known_SL[:, i].sum())),
            }
            for i, name in enumerate(names)
        ],
        "together": (positive_NL.T.astype(np.int64) @ positive_NL.astype(np.int64)).tolist(),
        "order": _order(slices, positive_NL[:, slices.task.headline_index]),
        "folds": _folds(slices, positive_NL) if "fold" in slices else [],
    }


def describe_copies(slices: Slices) -> dict[str, Any]:
    """Return how many slices have the same pixels as another patient's, and whether their labels agree.

    Slices of one value throughout are no copies of anything.
    """
    rows = np.flatnonzero(slices["hu_min"] != slices["hu_max"])
    order = rows[np.argsort(slices["checksum"][rows], kind="stable")]
    starts = run_starts(slices["checksum"][order])
    lengths = np.diff(np.append(starts, len(order)))
    n_groups = n_slices = n_conflicts = 0
    for start, length in zip(starts[lengths > 1].tolist(), lengths[lengths > 1].tolist(), strict=True):
        group = order[start : start + length]
        if len(set(slices["patient_id"][group])) > 1:
            n_groups, n_slices = n_groups + 1, n_slices + length
            labels = slices.labels[group][~np.isnan(slices.labels[group]).any(axis=1)]
            n_conflicts += bool(len(labels)) and bool((labels != labels[0]).any())
    return {"n_groups": n_groups, "n_slices": n_slices, "n_groups_of_other_labels": n_conflicts}


def _rate(n_positive: int, n: int) -> dict[str, Any]:
    return {"n": n, "n_positive": n_positive, "prevalence": n_positive / n if n else None}


def _order(slices: Slices, is_positive_N: Column) -> dict[str, Any]:
    """Runs of slices with the headline label: few where slices lie in the order of the body."""
    check = check_order(slices.labels[:, slices.task.headline_index], slices.lengths.tolist())
    runs_S = positive_runs(is_positive_N, slices.lengths.tolist())
    return {
        "n_series": check.n_series,
        "runs": plain(check.runs),
        "shuffled_runs": plain(check.shuffled_runs),
        "looks_shuffled": bool(check.looks_shuffled),
        "runs_per_series": whole_numbers(runs_S[runs_S > 0], at_most=MOST_RUNS),
    }


def _folds(slices: Slices, positive_NL: Column) -> list[dict[str, Any]]:
    found = []
    for fold in np.unique(slices["fold"]).tolist():
        is_in_N = slices["fold"] == fold
        found.append(
            {
                "fold": fold,
                "patients": len(set(slices["patient_id"][is_in_N])),
                "series": int(is_in_N[slices.first].sum()),
                "slices": int(is_in_N.sum()),
                "positive": dict(zip(slices.task.slices.names, positive_NL[is_in_N].sum(axis=0).tolist(), strict=True)),
            }
        )
    return [fold for fold in found if fold["fold"] >= 0]
