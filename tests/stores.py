"""A small store of known slices, written without any DICOM file, and ways to change it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rsna_e2e.core.files import sealed
from rsna_e2e.core.records import Refusal
from rsna_e2e.store import Compression, StoredPixels, StoreWriter, write_shard
from rsna_e2e.store.layout import INDEX_COLUMNS, file_checksum
from rsna_e2e.store.manifest import SEAL
from rsna_e2e.store.tables import read_table, write_table
from rsna_e2e.tasks.ich import ICH

SHAPES = [(64, 64), (64, 64), (80, 48), (64, 64), (16, 16)]
SERIES = ["a", "a", "a", "b", "b"]


def make_slices() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(-32768, 32768, size=shape).astype(np.int16) for shape in SHAPES]


def make_index(stored: list[StoredPixels]) -> dict[str, np.ndarray]:
    n = len(stored)
    index = {
        name: np.array([f"{name}{row}" for row in range(n)]) if kind == "str" else np.arange(n).astype(kind)
        for name, kind in INDEX_COLUMNS.items()
    }
    return index | {
        "series_key": np.array(SERIES),
        "slice_index": np.array([0, 1, 2, 0, 1]),
        "split": np.array(["train"] * 3 + ["test"] * 2),
        "fold": np.array([4, 4, 4, -1, -1]),
        **{name: np.array([name + key for key in SERIES]) for name in ("patient_id", "study_uid", "series_uid")},
        "frame_number": np.ones(n, dtype=np.int32),
        "iop_row_x": np.ones(n),
        "iop_column_y": np.ones(n),
        **{f"iop_{name}": np.zeros(n) for name in ("row_y", "row_z", "column_x", "column_z")},
        "spacing_row_mm": np.full(n, 0.5),
        "spacing_column_mm": np.full(n, 0.5),
        "slope": np.ones(n),
        "bits_stored": np.full(n, 16),
        "pixel_representation": np.ones(n, dtype=np.int32),
        "slice_thickness_mm": np.full(n, np.nan),
        "burned_in_annotation": np.array([""] * n),
        "transfer_syntax_uid": np.array(["1.2.840.10008.1.2.1"] * n),
        "repair": np.array(["", "monochrome1", "unused_bits+padding_kept", "", ""]),
        "content_x0": np.array([0, 1, 0, 2, 3]),
        "content_y0": np.array([0, 1, 0, 2, 3]),
        "content_x1": np.array([64, 2, 0, 60, 16]),
        "content_y1": np.array([64, 2, 0, 60, 16]),
        "rows": np.array([rows for rows, _ in SHAPES]),
        "columns": np.array([columns for _, columns in SHAPES]),
        "shard": np.array(["00000.h5"] * n),
        "byte_offset": np.array([pixels.byte_offset for pixels in stored]),
        "stored_bytes": np.array([pixels.n_bytes for pixels in stored]),
        "packed_checksum": np.array([pixels.packed_checksum for pixels in stored], dtype=np.uint64),
        "checksum": np.array([pixels.checksum for pixels in stored], dtype=np.uint64),
    }


LABELS = np.array([[0, 1, 0, 0, 0, 1]] * 3 + [[np.nan] * 6] * 2, dtype=np.float32)


def make_store(path: Path, *, compression: Compression = "none", labels: np.ndarray = LABELS) -> str:
    """Write a store of one shard and return its data hash."""
    with StoreWriter(path) as writer:
        stored = write_shard(writer.shards_folder / "00000.h5", iter(make_slices()), compression=compression)
        refusals = [Refusal("x.txt", "not_dicom", "no DICM")]
        return writer.commit(ICH, index=make_index(stored), labels=labels, refusals=refusals, compression=compression)


def edit_manifest(path: Path, **values: object) -> None:
    """Change values of a store's manifest."""
    manifest = json.loads((path / "store.json").read_text())
    (path / "store.json").write_text(json.dumps(sealed(manifest | values, key=SEAL)))


def edit_index(path: Path, edit: Callable[[dict[str, np.ndarray]], object]) -> None:
    """Change a store's index, and the manifest with it, as somebody would who wants to be believed."""
    manifest = json.loads((path / "store.json").read_text())
    index = read_table(path / "index.parquet", INDEX_COLUMNS, n_rows=manifest["n_slices"])
    index = {name: column.copy() for name, column in index.items()}
    edit(index)
    write_table(path / "index.parquet", index)
    sign(path)


def edit_labels(path: Path, edit: Callable[[dict[str, np.ndarray]], object]) -> None:
    """Change a store's labels, and the manifest with it."""
    manifest = json.loads((path / "store.json").read_text())
    kinds = {"image_id": "str", **dict.fromkeys(manifest["label_names"], "float32")}
    labels = read_table(path / "labels.parquet", kinds, n_rows=manifest["n_slices"])
    labels = {name: column.copy() for name, column in labels.items()}
    edit(labels)
    write_table(path / "labels.parquet", labels)
    sign(path)


def sign(path: Path) -> None:
    """Make a store's manifest agree with its files."""
    manifest = json.loads((path / "store.json").read_text())
    manifest["files"] = {name: file_checksum(path / name) for name in manifest["files"]}
    manifest["shards"] = {name: (path / "shards" / name).stat().st_size for name in manifest["shards"]}
    (path / "store.json").write_text(json.dumps(sealed(manifest, key=SEAL)))
