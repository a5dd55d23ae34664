"""Label files in the long form with rows of studies beside those of slices."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import read_labels
from rsna_e2e.tasks.pe import PE
from rsna_e2e.tasks.task import Csv, Labels, Task

# An image label of which a label of studies is the end, and one the other way round
TANGLED = replace(
    ICH,
    name="tangled",
    slices=Labels(names=("clot", "old_clot"), weights=(1.0, 1.0)),
    headline="clot",
    series=Labels(names=("any_old_clot", "old"), weights=(1.0, 1.0)),
    series_truth="own",
    csv=Csv(series_id="{study}_{label}"),
)


def table(folder: Path, *rows: str, header: str = "id,label") -> Path:
    path = folder / "labels.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_a_submission_of_both_levels(tmp_path: Path) -> None:
    study_rows = [f"1.2_{name},0.{place}" for place, name in enumerate(PE.series.names)]
    path = table(tmp_path, "1.2.9,0.25", *study_rows[::-1], "1.2.8,0.5", "1.3_indeterminate,1", "1.2.8,0.5")
    read = read_labels(path, PE)
    assert read.image_ids == ["1.2.8", "1.2.9"]
    np.testing.assert_array_equal(read.values, [[0.5], [0.25]])
    assert read.study_ids == ["1.2", "1.3"]
    np.testing.assert_array_equal(read.study_values[0], np.arange(9) / 10)
    assert np.flatnonzero(~np.isnan(read.study_values[1])).tolist() == [PE.series.index("indeterminate")]
    assert read.n_repeated_rows == 1


def test_the_longest_label_that_fits_is_taken_of_either_level(tmp_path: Path) -> None:
    read = read_labels(
        table(tmp_path, "a_any_old_clot,1", "a_old_clot,0.5", "a_old,0.25", "a_clot,0", header="ID,Label"), TANGLED
    )
    assert (read.image_ids, read.study_ids) == (["a"], ["a"])
    np.testing.assert_array_equal(read.values, [[0, 0.5]])
    np.testing.assert_array_equal(read.study_values, [[1, 0.25]])


@pytest.mark.parametrize(
    ("task", "rows", "message"),
    [
        (PE, ["1.2_chronic_pe,0", "7,0", "1.2_chronic_pe,1"], "rows of ID 1.2_chronic_pe differ (lines 2, 4)"),
        (PE, ["7,0", "7,1"], "rows of ID 7 differ (lines 2, 3)"),
        (PE, ["1.2_chronic_pe,2"], "line 2: Label of 1.2_chronic_pe is '2'. Expected a number in [0, 1]"),
    ],
)
def test_what_is_wrong_is_named_by_its_row(tmp_path: Path, task: Task, rows: list[str], message: str) -> None:
    with pytest.raises(BadInputError) as caught:
        read_labels(table(tmp_path, *rows), task)
    assert message in str(caught.value)


def test_a_task_without_own_labels_of_series_has_no_studies(tmp_path: Path) -> None:
    read = read_labels(table(tmp_path, "ID_a_any,1", header="ID,Label"), ICH)
    assert (read.study_ids, read.study_values.shape) == ([], (0, 0))
