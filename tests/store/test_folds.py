"""Folds: the published rule by its golden table, and the balanced default by what it promises."""

import csv
from pathlib import Path

import numpy as np
import pytest

from rsna_e2e.store.folds import patients_in_several_folds, published_folds, stratified_folds

GOLDEN = Path(__file__).parents[1] / "golden"


def test_published_folds_are_those_of_the_published_table() -> None:
    with (GOLDEN / "folds.csv").open() as file:
        rows = list(csv.DictReader(file))
    # Any order of rows must do: the rule sorts by image id itself.
    rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    folds = published_folds([row["Image"] for row in rows], [row["PatientID"] for row in rows])
    assert folds.tolist() == [int(row["fold"]) for row in rows]


def test_reference_fold_is_the_row_of_the_first_image_not_the_patients_number() -> None:
    patients = ["p", "p", "q", "p", "q", "r", "s", "q", "r", "t"]  # first seen at rows 0, 2, 5, 6, 9
    folds = published_folds([f"ID_{row}" for row in range(10)], patients)
    assert dict(zip(patients, folds.tolist(), strict=True)) == {"p": 0, "q": 2, "r": 0, "s": 1, "t": 4}


@pytest.fixture
def patients_and_counts() -> tuple[list[str], np.ndarray]:
    """300 rows of 100 patients: a rare and a common label, and one slice each."""
    rng = np.random.default_rng(7)
    patients = [f"p{i:03d}" for i in rng.integers(0, 100, 300)]
    counts = np.column_stack([rng.random(300) < 0.1, rng.random(300) < 0.4, np.ones(300)]).astype(np.float64)
    return patients, counts


def test_stratified_folds_keep_patients_whole_and_counts_even(
    patients_and_counts: tuple[list[str], np.ndarray],
) -> None:
    patients, counts = patients_and_counts
    folds = stratified_folds(patients, counts, n_folds=5, seed=0)
    fold_of = dict(zip(patients, folds.tolist(), strict=True))
    assert all(fold_of[patient] == fold for patient, fold in zip(patients, folds.tolist(), strict=True))
    shares = np.array([counts[folds == fold].sum(axis=0) for fold in range(5)]) / counts.sum(axis=0)
    # A fifth each; a patient holds about 3 of 30 rare positives at most, so a tenth of a share is what can remain.
    assert np.abs(shares - 0.2).max() < 0.05


def test_stratified_folds_depend_on_the_seed_and_not_on_the_order_of_rows(
    patients_and_counts: tuple[list[str], np.ndarray],
) -> None:
    patients, counts = patients_and_counts
    folds = stratified_folds(patients, counts, n_folds=5, seed=0)
    order = np.random.default_rng(1).permutation(len(patients))
    shuffled = stratified_folds([patients[i] for i in order], counts[order], n_folds=5, seed=0)
    assert shuffled.tolist() == folds[order].tolist()
    assert stratified_folds(patients, counts, n_folds=5, seed=1).tolist() != folds.tolist()


def test_patients_in_several_folds_are_found() -> None:
    patients = ["a", "b", "a", "c", "b", "c", "d"]
    # c has studies without labels too, which are in no fold
    assert patients_in_several_folds(patients, [0, 1, 0, 2, 1, -1, 0]) == []
    assert patients_in_several_folds(patients, [0, 1, 3, 2, 0, -1, 0]) == ["a", "b"]
