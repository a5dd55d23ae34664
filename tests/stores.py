"""A small store of known slices, written without any DICOM file, and ways to change it."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from rsna_e2e.core.files import sealed
from rsna_e2e.core.records import Refusal, Values, VoiLut
from rsna_e2e.store import Compression, StoredPixels, StoreWriter, write_shard
from rsna_e2e.store.layout import (
    BOX_COLUMNS,
    INDEX_COLUMNS,
    SERIES_COLUMNS,
    SLICE_COLUMNS,
    StoreError,
    columns_of,
    file_checksum,
    hash_of_labels,
    hash_of_pixels,
)
from rsna_e2e.store.luts import luts_to_table
from rsna_e2e.store.manifest import SEAL
from rsna_e2e.store.set_writer import NewSet
from rsna_e2e.store.tables import read_table, write_table
from rsna_e2e.tasks.ich import ICH

DIVISION = ("split", "fold", "csv_place")
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


def make_labels(index: dict[str, np.ndarray], labels: np.ndarray = LABELS) -> NewSet:
    """Return the labels of a store with this index, which has split and fold beside its own columns."""
    return NewSet(
        task=ICH,
        image_ids=index["image_id"].astype(object),
        id_rule="name",
        split=index["split"],
        fold=index["fold"],
        csv_place=np.arange(len(index["fold"])),
        slices=labels,
        series=np.empty((len(np.unique(index["series_key"])), 0), np.float32),
        n_folds=5,
        seed=0,
    )


def make_store(path: Path, *, compression: Compression = "none", labels: np.ndarray = LABELS) -> str:
    """Write a store of one shard and return its data hash."""
    with StoreWriter(path) as writer:
        stored = write_shard(writer.shards_folder / "00000.h5", iter(make_slices()), compression=compression)
        refusals = [Refusal("x.txt", "not_dicom", "no DICM")]
        index = make_index(stored)
        return writer.commit(index=index, labels=make_labels(index, labels), refusals=refusals, compression=compression)


# Of grey 0 to 9; and, of signed values, of -2 to 1 in 8 bits
LUTS = [VoiLut(0, 16, np.arange(0, 50000, 5000, dtype=np.uint16)), VoiLut(-2, 8, np.array([0, 9, 200, 255], np.uint16))]


def make_xray_index(stored: list[StoredPixels]) -> dict[str, np.ndarray]:
    """Return the index of five X-rays, of which the first two have LUTs."""
    n, unknown = len(stored), np.full(len(stored), np.nan)
    rows, columns = (np.array(sides) for sides in zip(*SHAPES, strict=True))
    index = make_index(stored)
    return index | {
        **{name: unknown for name in index if name.startswith(("ipp_", "iop_", "spacing_"))},
        **{name: np.array([f"{name}{row}" for row in range(n)]) for name in ("series_key", "study_uid", "series_uid")},
        "patient_id": np.array(["patient"] * 3 + ["other"] * 2),
        "slice_index": np.zeros(n),
        "position_mm": np.zeros(n),
        "window_center_hu": unknown,
        "window_width_hu": unknown,
        **{f"content_{corner}": np.zeros(n) for corner in ("x0", "y0")},
        "content_x1": columns,
        "content_y1": rows,
        "value_offset": np.array([0, 0, 32768, 0, 0]),
        "pixel_representation": np.array([1, 1, 0, 1, 1], dtype=np.int32),
        "photometric": np.array(["MONOCHROME1", *["MONOCHROME2"] * 4]),
        "voi_function": np.array(["LUT", "LUT", "LINEAR", "SIGMOID", ""]),
        "voi_lut": np.array([LUTS[0].sha256, LUTS[1].sha256, "", "", ""]),
        "window_center": np.array([np.nan, 5.0, 30000.0, -0.5, np.nan]),
        "window_width": np.array([np.nan, 9.0, 60000.0, 4096.0, np.nan]),
        "padding_low": np.array([np.nan] * 4 + [-2000]),
        "padding_high": np.array([np.nan] * 4 + [-2000]),
        "low_grey": np.arange(n),
        "high_grey": np.arange(n) + 1,
        "view": np.array(["PA", "AP", "LL", "", "PA"]),
        "sex": np.array(["F", "M", "O", "", "F"]),
        "age_y": np.array([90.0, 0.5, 61.0, np.nan, 0.0]),
        "imager_spacing_mm": np.array([0.139, np.nan, 0.2, 0.1, 0.1]),
    }


def make_xray_store(path: Path, *, compression: Compression = "none") -> str:
    """Write a store of X-rays of one shard and return its data hash."""
    with StoreWriter(path) as writer:
        shard, slices = writer.shards_folder / "00000.h5", iter(make_slices())
        index = make_xray_index(write_shard(shard, slices, compression=compression, values="grey"))
        luts = [luts_to_table({lut.sha256: lut for lut in some}) for some in (LUTS[:1], LUTS)]  # the first one twice
        return writer.commit(index=index, labels=make_labels(index), refusals=[], compression=compression, luts=luts)


def edit_manifest(path: Path, **values: object) -> None:
    """Change values of a store's manifest."""
    manifest = json.loads((path / "store.json").read_text())
    (path / "store.json").write_text(json.dumps(sealed(manifest | values, key=SEAL)))


def edit_set(path: Path, **values: object) -> None:
    """Change values of the manifest of a store's only label set."""
    place = set_of(path) / "set.json"
    place.write_text(json.dumps(sealed(json.loads(place.read_text()) | values, key=SEAL)))


def set_of(path: Path) -> Path:
    """Return the folder of a store's only label set."""
    (place,) = (path / "tasks").iterdir()
    return place


def edit_index(path: Path, edit: Callable[[dict[str, np.ndarray]], object]) -> None:
    """Change a store's index, split and fold among it, and the manifests with it, as somebody would who wants to be
    believed."""
    manifest = json.loads((path / "store.json").read_text())
    index = read_table(path / "index.parquet", columns_of(_values(manifest)), n_rows=manifest["n_slices"])
    slices = _slices(path)
    index = {name: column.copy() for name, column in (index | {name: slices[name] for name in DIVISION}).items()}
    edit(index)
    for name in DIVISION:
        slices[name] = index.pop(name)
    write_table(path / "index.parquet", index)
    write_table(set_of(path) / "slices.parquet", slices)
    sign(path)


def edit_labels(path: Path, edit: Callable[[dict[str, np.ndarray]], object]) -> None:
    """Change a store's labels, and the manifests with it."""
    labels = _slices(path)
    edit(labels)
    write_table(set_of(path) / "slices.parquet", labels)
    sign(path)


def _values(manifest: dict[str, object]) -> Values:
    return "grey" if manifest.get("values") == "grey" else "hu"


def _slices(path: Path) -> dict[str, np.ndarray]:
    n = json.loads((path / "store.json").read_text())["n_slices"]
    names = json.loads((set_of(path) / "set.json").read_text())["slices"]["names"]
    slices = read_table(set_of(path) / "slices.parquet", SLICE_COLUMNS | dict.fromkeys(names, "float32"), n_rows=n)
    return {name: column.copy() for name, column in slices.items()}


def _series(path: Path) -> dict[str, np.ndarray]:
    """The table of labels of series, none where they are those of slices."""
    if not (set_of(path) / "series.parquet").exists():
        return {}
    n = json.loads((path / "store.json").read_text())["n_series"]
    of_series = json.loads((set_of(path) / "set.json").read_text())["series"]
    kinds = SERIES_COLUMNS | dict.fromkeys((*of_series["names"], *of_series["notes"]), "float32")
    return read_table(set_of(path) / "series.parquet", kinds, n_rows=n)


def _boxes(path: Path) -> dict[str, np.ndarray]:
    """The table of boxes, none of a task without."""
    if not (set_of(path) / "boxes.parquet").exists():
        return {}
    n = json.loads((set_of(path) / "set.json").read_text())["n_boxes"]
    return read_table(set_of(path) / "boxes.parquet", BOX_COLUMNS, n_rows=n)


def sign(path: Path) -> None:
    """Make the manifests of a store and its set agree with its files, as far as these can be read."""
    manifest = json.loads((path / "store.json").read_text())
    manifest["files"] = {name: file_checksum(path / name) for name in manifest["files"]}
    manifest["shards"] = {name: (path / "shards" / name).stat().st_size for name in manifest["shards"]}
    with suppress(StoreError):
        index = read_table(path / "index.parquet", columns_of(_values(manifest)), n_rows=manifest["n_slices"])
        manifest["pixels_hash"] = hash_of_pixels(index, _values(manifest))
    (path / "store.json").write_text(json.dumps(sealed(manifest, key=SEAL)))
    place = set_of(path)
    content = json.loads((place / "set.json").read_text())
    content["files"] = {name: file_checksum(place / name) for name in content["files"]}
    content["pixels_hash"] = manifest["pixels_hash"]
    with suppress(StoreError, KeyError):
        content["labels_hash"] = hash_of_labels(_slices(path), _series(path), _boxes(path))
    (place / "set.json").write_text(json.dumps(sealed(content, key=SEAL)))
