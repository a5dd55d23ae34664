"""The predictions table: read back as written, refused when damaged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.inference.predictions import (
    PredictionTable,
    find_predictions,
    predictions_path,
    read_predictions,
    write_predictions,
)
from rsna_e2e.tasks.task import ICH

TABLE = PredictionTable(
    image_ids=["ID_b", "ID_a"],
    series_keys=["s", "s"],
    slice_index=np.array([1, 0]),
    position_mm=np.array([5.0, -2.5]),
    probability=np.array([[0.1] * 6, [0.2, 0, 1, 0.3, 0.4, 0.5]]),
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
