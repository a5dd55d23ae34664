"""Tables of a store: genuine ones of any size are believed, and none takes more memory than its bytes may claim."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stores import edit_index, edit_manifest, make_index, make_labels, make_slices, make_store

from rsna_e2e.core.errors import BadInputError, RsnaError
from rsna_e2e.core.records import Refusal
from rsna_e2e.store import StoreError, StoreFiles, StoreWriter, set_writer, write_shard
from rsna_e2e.store.checks import read_refusals
from rsna_e2e.store.label_sets import open_set
from rsna_e2e.store.layout import INDEX_COLUMNS, file_checksum
from rsna_e2e.store.tables import read_table, write_table

REFUSAL_COLUMNS = {"path": "str", "reason": "str", "detail": "str"}


def test_many_numbered_names_take_less_than_a_byte_each(tmp_path: Path) -> None:
    n = 300_000
    columns = {
        "path": np.array([f"sent/{i:08d}.txt" for i in range(n)], dtype=object),
        "reason": np.full(n, "not_dicom", dtype=object),
        "detail": np.full(n, "no DICM", dtype=object),
    }
    write_table(tmp_path / "t", columns)
    assert (tmp_path / "t").stat().st_size < n
    assert read_table(tmp_path / "t", REFUSAL_COLUMNS, n_rows=n)["path"].tolist() == columns["path"].tolist()


@pytest.mark.slow
def test_a_large_store_without_labels_is_committed_and_read(tmp_path: Path) -> None:
    """Numbered names and missing labels are packed to less than a byte each."""
    n = 300_000
    rng = np.random.default_rng(0)
    names = np.array([f"scan-{i}" for i in range(n)], dtype=object)
    with StoreWriter(tmp_path / "store") as store:
        small = make_index(write_shard(store.shards_folder / "00000.h5", iter(make_slices())))
        os.truncate(store.shards_folder / "00000.h5", 8 * n)  # as if all lay there
        index = {name: np.full(n, small[name][3]) for name in (*INDEX_COLUMNS, "split", "fold")} | {
            "rows": np.full(n, 2),
            "columns": np.full(n, 2),
            **{f"content_{corner}": np.full(n, 2 * (corner[1] == "1")) for corner in ("x0", "y0", "x1", "y1")},
            "byte_offset": 8 * np.arange(n),
            "stored_bytes": np.full(n, 8),
            "series_key": np.repeat(np.array([f"{i:016x}" for i in range(n // 30)], dtype=object), 30),
            "slice_index": np.arange(n) % 30,
            "image_id": names,
            "sop_uid": names,
            "position_mm": np.arange(n) % 30 * 5.0,
            "checksum": rng.integers(0, 1 << 63, n).astype(np.uint64),
        }
        refusals = [Refusal(f"sent/{i:08d}.txt", "not_dicom", "no DICM") for i in range(n)]
        labels = make_labels(index, np.full((n, 6), np.nan, np.float32))
        store.commit(index=index, labels=labels, refusals=refusals)
    for name in ("tasks/ich/slices.parquet", "refusals.parquet"):
        assert (tmp_path / "store" / name).stat().st_size < n
    files = StoreFiles.open(tmp_path / "store")
    assert files.index["image_id"].tolist() == names.tolist()
    assert open_set(files.path, files.manifest, files.index, "ich").labels.shape == (n, 6)
    assert read_refusals(files.path, files.manifest)["path"][-1] == "sent/00299999.txt"


def test_long_paths_that_differ_in_their_end(tmp_path: Path) -> None:
    paths = np.array([f"{'every patient/' * 70}{i:08d}.txt" for i in range(60_000)], dtype=object)
    columns = {"path": paths, "reason": np.full(len(paths), "not_ct"), "detail": np.full(len(paths), "no CT")}
    write_table(tmp_path / "t", {name: column.astype(object) for name, column in columns.items()})
    assert (tmp_path / "t").stat().st_size * 256 < 60_000 * 980
    assert read_table(tmp_path / "t", REFUSAL_COLUMNS, n_rows=60_000)["path"].tolist() == paths.tolist()


def test_what_does_not_read_back_is_no_store_and_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_reversed(path: Path, columns: dict[str, np.ndarray]) -> None:
        write_table(path, {name: column[::-1] if name == "image_id" else column for name, column in columns.items()})

    monkeypatch.setattr(set_writer, "write_table", write_reversed)
    with pytest.raises(
        RsnaError, match=r"does not read back: .*labels_hash is not that of its tables\)\. Check the disk"
    ) as error:
        _commit(tmp_path / "store")
    assert not isinstance(error.value, BadInputError)
    assert not (tmp_path / "store").exists()
    assert (tmp_path / "store.partial" / "store" / "shards" / "00000.h5").exists()


def _commit(path: Path) -> None:
    with StoreWriter(path, inputs="same") as store:
        stored = write_shard(store.shards_folder / "00000.h5", iter(make_slices()))
        index = make_index(stored)
        store.commit(index=index, labels=make_labels(index), refusals=[])


OPEN_AND_MEASURE = """
import sys
from pathlib import Path
import pyarrow
from rsna_e2e.store import Store, StoreError
try:
    Store.open(Path(sys.argv[1]))
except StoreError as error:
    print(error)
print(pyarrow.default_memory_pool().max_memory())
"""


def test_one_long_text_for_every_row_takes_its_memory_once(tmp_path: Path) -> None:
    make_store(tmp_path)
    n = 400
    columns = {
        name: pa.array(["x"] * n) if kind == "str" else pa.array(np.arange(n).astype(kind))
        for name, kind in INDEX_COLUMNS.items()
    }
    columns["transfer_syntax_uid"] = pa.array(["1.2"] * n)
    columns["decoder"] = pa.DictionaryArray.from_arrays(np.zeros(n, np.int32), ["a" * 1_000_000])
    pq.write_table(pa.table(columns), tmp_path / "index.parquet", compression="zstd", store_schema=False)
    files = {name: file_checksum(tmp_path / name) for name in ("index.parquet", "refusals.parquet")}
    edit_manifest(tmp_path, n_slices=n, files=files)
    assert (tmp_path / "index.parquet").stat().st_size < 100_000
    command = [sys.executable, "-c", OPEN_AND_MEASURE, str(tmp_path)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert "impossible frame_number" in said[0]
    assert int(said[1]) < 100 << 20


def test_text_in_no_encoding(tmp_path: Path) -> None:
    columns = {name: pa.array(["x"]) for name in REFUSAL_COLUMNS} | {
        "path": pa.array([b"\xff\xfe"], pa.binary()).view(pa.string())
    }
    pq.write_table(pa.table(columns), tmp_path / "t")
    with pytest.raises(StoreError, match=r"damaged \(UnicodeDecodeError"):
        read_table(tmp_path / "t", REFUSAL_COLUMNS, n_rows=1)


def test_texts_of_several_row_groups(tmp_path: Path) -> None:
    table = pa.table({name: ["b", "a", "b", "c", "a"] for name in REFUSAL_COLUMNS})
    pq.write_table(table, tmp_path / "t", row_group_size=2)
    columns = read_table(tmp_path / "t", REFUSAL_COLUMNS, n_rows=5)
    assert columns["detail"].tolist() == ["b", "a", "b", "c", "a"]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("slope", np.nan),
        ("intercept", np.inf),
        ("iop_column_y", np.nan),
        ("position_mm", np.nan),
        ("position_mm", 1e308),
        ("ipp_z_mm", -1e308),
        ("spacing_row_mm", np.nan),
    ],
)
def test_numbers_that_nobody_can_reckon_with(tmp_path: Path, column: str, value: float) -> None:
    make_store(tmp_path)
    edit_index(tmp_path, lambda index: index.update({column: np.full(5, value)}))
    with pytest.raises(
        StoreError, match=rf"index\.parquet: damaged \(impossible {column}, row 0: slice 0 of series a\)"
    ):
        StoreFiles.open(tmp_path)
