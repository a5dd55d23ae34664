"""Slices of one submission and series of another, joined."""

from pathlib import Path

import numpy as np
import pytest
from submissions import member, series_of, table_of

from rsna_e2e.cli import main
from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.inference.average import write_submission
from rsna_e2e.inference.merge import merge
from rsna_e2e.inference.predictions import predictions_path, read_predictions, read_series, series_path
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import read_labels

SERIES = series_of([0.25, 0.75], keys=["a", "b"], n_slices=[2, 1])
OTHERS = series_of([0.5, 0.5], keys=["a", "b"], n_slices=[2, 1])


def test_slices_are_of_the_first_and_series_of_the_second(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slices = member(tmp_path, "slices", [0.1, 0.2, 0.3], series=OTHERS)
    series = tmp_path / "series.csv"
    write_submission(series, ICH, table_of([0.7, 0.8, 0.9], keys=["b", "a", "a"], index=[0, 0, 1]), series=SERIES)
    out = tmp_path / "out" / "both.csv.gz"
    assert main(["merge", str(slices), str(series), "--out", str(out)]) == 0
    assert "joined 3 slices and 2 series" in capsys.readouterr().out
    table = read_predictions(predictions_path(out), ICH)
    assert table.image_ids == ["ID_a0", "ID_a1", "ID_b0"]
    assert table.probability[:, 0].tolist() == read_labels(out, ICH).values[:, 0].tolist() == [0.1, 0.2, 0.3]
    joined = read_series(series_path(out), ICH, table)
    assert (joined.series_keys, joined.n_slices.tolist()) == (["a", "b"], [2, 1])
    np.testing.assert_array_equal(joined.probability, SERIES.probability)


def test_submissions_of_other_slices_are_not_joined(tmp_path: Path) -> None:
    slices, series = member(tmp_path, "slices", [0.1, 0.2, 0.3]), tmp_path / "series.csv"
    others = table_of([0.7, 0.8, 0.9], keys=["a", "a", "b"], index=[0, 2, 0])
    write_submission(series, ICH, others, series=SERIES)
    with pytest.raises(BadInputError, match=r"does not hold the slices of slices\.csv .* 2 differ, such as ID_a1"):
        merge(slices, series, task=ICH, out=tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_the_second_needs_a_series_table(tmp_path: Path) -> None:
    slices, series = (member(tmp_path, name, [0.1, 0.2, 0.3]) for name in ("slices", "series"))
    with pytest.raises(BadInputError, match=r"series\.csv: has no series table beside it"):
        merge(slices, series, task=ICH, out=tmp_path / "out.csv")


def test_what_is_joined_is_not_overwritten(tmp_path: Path) -> None:
    slices = member(tmp_path, "slices", [0.1, 0.2, 0.3])
    series = member(tmp_path, "series", [0.1, 0.2, 0.3], series=SERIES)
    for out in (slices, series):
        with pytest.raises(UsageError, match="stands twice"):
            merge(slices, series, task=ICH, out=out)
    with pytest.raises(UsageError, match="stands twice"):
        merge(series, series, task=ICH, out=tmp_path / "out.csv")
