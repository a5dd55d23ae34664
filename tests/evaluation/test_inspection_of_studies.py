"""The data report of a task whose studies have labels of their own: numbers by hand, on the page and as findings."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import small
from pages import assert_numbers_are_those_of, parsed

from rsna_e2e.evaluation.inspection import inspect_store, write_inspection
from rsna_e2e.evaluation.inspection.findings import find
from rsna_e2e.evaluation.inspection.slices import Slices
from rsna_e2e.evaluation.inspection.studies import describe_studies
from rsna_e2e.store import Store
from rsna_e2e.store.prepare import prepare
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.pe import PE


def labels_of(*names: str) -> list[float]:
    return [float(name in names) for name in PE.series.names]


def described() -> dict[str, Any]:
    """Four studies, the second of two series: one that is negative and indeterminate, one of both sides that obeys the
    tree, one without a label, and a negative one whose slice shows an embolus."""
    series = ["a", "a", "b", "c", "d", "e"]
    of_series = [
        labels_of("negative_exam_for_pe", "indeterminate"),
        *[labels_of("leftsided_pe", "rightsided_pe", "rv_lv_ratio_lt_1")] * 2,
        [np.nan] * 9,
        labels_of("negative_exam_for_pe"),
    ]
    notes = [[1, np.nan, 0, 0], [1, np.nan, 0, 0], [1, np.nan, 0, 0], [np.nan] * 4, [0, np.nan, 0, 0]]
    slices = Slices(
        task=PE,
        columns={
            "series_key": np.array(series, dtype=object),
            "study_uid": np.array(["1", "1", "2", "2", "3", "4"], dtype=object),
        },
        labels=np.array([[0], [0], [1], [0], [np.nan], [1]], dtype=np.float32),
        refusals=[],
        store=SimpleNamespace(  # type: ignore[arg-type]
            series_labels=np.array(of_series, dtype=np.float32), series_notes=np.array(notes, dtype=np.float32)
        ),
    )
    found = describe_studies(slices)
    assert found is not None
    return found


def test_labels_and_notes_are_counted_by_study() -> None:
    found = described()
    assert (found["n"], found["n_labelled"], found["n_breaking"]) == (4, 3, 2)
    by_label = {row["label"]: row for row in found["labels"]}
    assert by_label["negative_exam_for_pe"] == {
        "label": "negative_exam_for_pe",
        "n": 3,
        "n_positive": 2,
        "prevalence": 2 / 3,
    }
    assert by_label["leftsided_pe"]["n_positive"] == 1
    motion, contrast, *_ = found["notes"]
    assert (motion["n"], motion["n_positive"], contrast["n"], contrast["prevalence"]) == (3, 2, 0, None)


def test_a_task_without_them_has_none() -> None:
    slices = Slices(task=ICH, columns={}, labels=np.zeros((0, 6), np.float32), refusals=[], store=SimpleNamespace())  # type: ignore[arg-type]
    assert describe_studies(slices) is None


@pytest.mark.usefixtures("one_thread")
def test_the_page_shows_them_and_says_what_breaks_the_rules(tmp_path: Path) -> None:
    small.write_raw(tmp_path / "raw")
    prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_jobs=1)
    content, slices = inspect_store(Store.open(tmp_path / "store"), n_sampled=3)
    content["studies"] = described()
    assert "2 of 4 studies have labels that exclude each other" in str(find(content))
    page = write_inspection(content, slices, out=tmp_path / "out").read_text()
    numbers = parsed(page).numbers
    assert_numbers_are_those_of(json.loads((tmp_path / "out" / "inspection.json").read_text()), numbers)
    paths = {path for path, _, _ in numbers}
    assert {"studies.labels.0.prevalence", "studies.notes.0.n_positive", "studies.n_breaking"} <= paths
    assert {"hu.windows.0.mean", "hu.windows.2.std"} <= paths
    assert "Mean, std of the task's windows on these slices" in page


@pytest.mark.usefixtures("one_thread")
def test_the_page_shows_them_where_no_slice_has_a_label(tmp_path: Path) -> None:
    small.write_raw(tmp_path / "raw")
    prepare(tmp_path / "raw", tmp_path / "store", task=ICH, labels="none", n_jobs=1)
    content, slices = inspect_store(Store.open(tmp_path / "store"), task=ICH, n_sampled=3)
    content["studies"] = described()
    page = write_inspection(content, slices, out=tmp_path / "out").read_text()
    assert "No slice has a label." in page
    assert "Labels and notes of studies" in page
