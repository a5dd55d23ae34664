"""The predictions table and the series table: read back as written, refused when damaged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.inference.predictions import (
    PredictionTable,
    SeriesTable,
    find_predictions,
    find_series,
    predictions_path,
    read_predictions,
    read_series,
    series_path,
    write_predictions,
    write_series,
)
from rsna_e2e.tasks.ich import ICH

TABLE = PredictionTable(
    image_ids=["ID_b", "ID_a"],
    series_keys=["s", "s"],
    slice_index=np.array([1, 0]),
    position_mm=np.array([5.0, -2.5]),
    probability=np.array([[0.1] * 6, [0.2, 0, 1, 0.3, 0.4, 0.5]]),
)


LONGER = PredictionTable(  # three series, the last of one slice
    image_ids=["ID_a", "ID_b", "ID_c", "ID_d", "ID_e"],
    series_keys=["s", "s", "t", "t", "u"],
    slice_index=np.array([0, 1, 0, 1, 0]),
    position_mm=np.array([0.0, 5, 0, 5, 0]),
    probability=np.full((5, 6), 0.5),
)
SERIES = SeriesTable(
    series_keys=["t", "u", "s"],
    n_slices=np.array([2, 1, 2]),
    probability=np.array([[0.1] * 6, [0.2, 0, 1, 0.3, 0.4, 0.5], [1e-9] * 6]),
)


def test_reads_back_as_written(tmp_path: Path) -> None:
    write_predictions(tmp_path / "a.parquet", ICH, TABLE)
    table = read_predictions(tmp_path / "a.parquet", ICH)
    assert table.image_ids == TABLE.image_ids
    assert table.series_keys == TABLE.series_keys
    np.testing.assert_array_equal(table.slice_index, TABLE.slice_index)
    np.testing.assert_array_equal(table.position_mm, TABLE.position_mm)
    np.testing.assert_array_equal(table.probability, TABLE.probability)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_the_table_stands_beside_the_submission(name: str) -> None:
    assert predictions_path(Path("out") / name) == Path(f"out/{name}.predictions.parquet")


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_a_table_that_two_names_once_shared_is_found(tmp_path: Path, name: str) -> None:
    own, shared = tmp_path / f"{name}.predictions.parquet", tmp_path / "a.predictions.parquet"
    assert find_predictions(tmp_path / name) == own
    write_predictions(shared, ICH, TABLE)
    assert find_predictions(tmp_path / name) == shared
    write_predictions(own, ICH, TABLE)
    assert find_predictions(tmp_path / name) == own


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (replace(TABLE, probability=TABLE.probability * 3), "intraventricular probability of ID_a is 3.0"),
        (replace(TABLE, probability=TABLE.probability * np.nan), "epidural probability of ID_b is nan"),
        (replace(TABLE, position_mm=np.array([0.0, np.inf])), "position_mm of ID_a is not finite"),
        (replace(TABLE, image_ids=["ID_a", "ID_a"]), "1 rows repeat an image_id"),
    ],
)
def test_bad_values_are_neither_written_nor_read(
    tmp_path: Path, table: PredictionTable, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadInputError, match=message):
        write_predictions(tmp_path / "a.parquet", ICH, table)
    assert not (tmp_path / "a.parquet").exists()
    with monkeypatch.context() as patch:
        patch.setattr("rsna_e2e.inference.predictions._check", lambda path, task, table: None)
        write_predictions(tmp_path / "a.parquet", ICH, table)
    with pytest.raises(BadInputError, match=message):
        read_predictions(tmp_path / "a.parquet", ICH)


def columns_of(table: SeriesTable) -> dict[str, object]:
    return {
        "series_key": table.series_keys,
        "n_slices": table.n_slices,
        **{name: table.probability[:, label] for label, name in enumerate(ICH.slices.names)},
    }


def test_a_series_table_reads_back_as_written_beside_its_submission(tmp_path: Path) -> None:
    submission = tmp_path / "a.csv.gz"
    assert find_series(submission) is None
    write_series(series_path(submission), ICH, SERIES)
    assert find_series(submission) == tmp_path / "a.csv.gz.series.parquet"
    stored = pq.read_table(series_path(submission))
    assert stored.column_names == ["series_key", "n_slices", *ICH.slices.names]
    table = read_series(series_path(submission), ICH, LONGER)
    assert table.series_keys == SERIES.series_keys
    np.testing.assert_array_equal(table.n_slices, SERIES.n_slices)
    np.testing.assert_array_equal(table.probability, SERIES.probability)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (replace(SERIES, probability=SERIES.probability * 3), "intraventricular probability of u is 3.0"),
        (replace(SERIES, probability=SERIES.probability * np.nan), "epidural probability of t is nan"),
        (replace(SERIES, series_keys=["t", "u", "t"]), "1 rows repeat a series_key"),
    ],
)
def test_bad_values_of_series_are_neither_written_nor_read(tmp_path: Path, table: SeriesTable, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        write_series(tmp_path / "a.parquet", ICH, table)
    assert not (tmp_path / "a.parquet").exists()
    pq.write_table(pa.table(columns_of(table)), tmp_path / "a.parquet")
    with pytest.raises(BadInputError, match=message):
        read_series(tmp_path / "a.parquet", ICH, LONGER)


@pytest.mark.parametrize(
    "table",
    [
        replace(SERIES, series_keys=["t", "v", "s"]),
        replace(SERIES, n_slices=np.array([2, 2, 2])),
        SeriesTable(series_keys=["t"], n_slices=np.array([2]), probability=np.full((1, 6), 0.5)),
        SeriesTable(series_keys=[], n_slices=np.array([], dtype=np.int64), probability=np.empty((0, 6))),
    ],
    ids=["another series", "another number of slices", "a series lacks", "empty"],
)
def test_a_series_table_of_other_series_is_refused(tmp_path: Path, table: SeriesTable) -> None:
    write_series(tmp_path / "a.parquet", ICH, table)
    with pytest.raises(BadInputError, match=r"a\.parquet: does not hold the series of the predictions table"):
        read_series(tmp_path / "a.parquet", ICH, LONGER)


BAD_COLUMNS = {
    "text for numbers": ({"any": ["high", "low", "low"]}, "a column is of another type than predict writes"),
    "half a slice": ({"n_slices": [2.5, 1.0, 2.0]}, "a column is of another type than predict writes"),
    "lists": ({"epidural": [[0.1], [0.1], [0.1]]}, "a column is of another type than predict writes"),
    "a key lacks": ({"series_key": ["t", None, "s"]}, "series_key lacks 1 of its values"),
    "probabilities lack": ({"any": [None, 0.5, None]}, "any lacks 2 of its values"),
}


@pytest.mark.parametrize("case", BAD_COLUMNS)
def test_a_column_of_another_kind_is_refused(tmp_path: Path, case: str) -> None:
    changed, message = BAD_COLUMNS[case]
    pq.write_table(pa.table(columns_of(SERIES) | changed), tmp_path / "a.parquet")
    with pytest.raises(BadInputError, match=message):
        read_series(tmp_path / "a.parquet", ICH, LONGER)


def test_bad_files_of_series_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with pytest.raises(BadInputError, match="no such series table"):
        read_series(path, ICH, LONGER)
    path.write_bytes(b"PAR1 and nothing more")
    with pytest.raises(BadInputError, match="not a readable Parquet file"):
        read_series(path, ICH, LONGER)
    write_predictions(path, ICH, LONGER)
    with pytest.raises(BadInputError, match=r"no column n_slices\."):
        read_series(path, ICH, LONGER)
    twice = pa.table(columns_of(SERIES)).append_column("any", pa.array([0.5] * 3))
    pq.write_table(twice, path)
    with pytest.raises(BadInputError, match="not a readable Parquet file"):
        read_series(path, ICH, LONGER)
    path.unlink()
    path.mkdir()
    with pytest.raises(BadInputError, match="no file"):
        read_series(path, ICH, LONGER)


def test_bad_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with pytest.raises(BadInputError, match="no such predictions table"):
        read_predictions(path, ICH)
    path.write_bytes(b"PAR1 and nothing more")
    with pytest.raises(BadInputError, match="not a readable Parquet file"):
        read_predictions(path, ICH)
    pq.write_table(pa.table({"image_id": ["ID_a"]}), path)
    with pytest.raises(BadInputError, match="no column series_key, slice_index"):
        read_predictions(path, ICH)
