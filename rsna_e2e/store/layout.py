"""File names, columns and versions of a store, for its reader and its writer."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import xxhash

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import Column, Values

FORMAT: Final = "rsna_e2e study store"
FORMAT_VERSION: Final = 4
SET_FORMAT: Final = "rsna_e2e label set"

MANIFEST = "store.json"
INDEX = "index.parquet"
REFUSALS = "refusals.parquet"
LUTS = "luts.parquet"  # of a store of X-rays
SHARDS = "shards"
SETS = "tasks"  # folder of label sets, each in a folder with the name of its task
PARTIAL = ".partial"  # while a store is made: this folder in it, or beside it one of this suffix; a set: beside it

SET_MANIFEST = "set.json"
SLICES = "slices.parquet"
SERIES = "series.parquet"
BOXES = "boxes.parquet"

# Columns of the index. Positions and directions are in mm and unit vectors of the patient axes (left, back, head);
# `content_*` bounds the content in px, x1 and y1 exclusive, all 0 on a slice of air.
INDEX_COLUMNS: dict[str, str] = {
    "series_key": "str",
    "slice_index": "int32",
    "position_mm": "float64",
    "image_id": "str",
    "patient_id": "str",
    "study_uid": "str",
    "series_uid": "str",
    "sop_uid": "str",
    "frame_number": "int32",
    "rows": "int32",
    "columns": "int32",
    **{f"ipp_{axis}_mm": "float64" for axis in "xyz"},
    **{f"iop_{direction}_{axis}": "float64" for direction in ("row", "column") for axis in "xyz"},
    "spacing_row_mm": "float64",
    "spacing_column_mm": "float64",
    "slope": "float64",
    "intercept": "float64",
    "bits_stored": "int32",
    "pixel_representation": "int32",
    "window_center_hu": "float64",
    "window_width_hu": "float64",
    "slice_thickness_mm": "float64",
    "burned_in_annotation": "str",
    "transfer_syntax_uid": "str",
    "decoder": "str",
    "repair": "str",
    "n_rounded": "int32",
    "n_saturated": "int32",
    "n_padding": "int32",
    "hu_min": "int32",
    "hu_max": "int32",
    **{f"content_{corner}": "int32" for corner in ("x0", "y0", "x1", "y1")},
    "checksum": "uint64",
    "shard": "str",
    "byte_offset": "int64",
    "stored_bytes": "int64",
    "packed_checksum": "uint64",
}

# Further columns of a store of X-rays, as in `XrayRecord`. Its others mean the same, but for these: `window_*_hu` are
# NaN, `hu_min` and `hu_max` are of the values in the shards, and the content is the whole image.
XRAY_COLUMNS = {
    "value_offset": "int32",
    "photometric": "str",
    "voi_function": "str",
    "voi_lut": "str",
    "window_center": "float64",
    "window_width": "float64",
    "padding_low": "float64",
    "padding_high": "float64",
    "low_grey": "int32",
    "high_grey": "int32",
    "view": "str",
    "sex": "str",
    "age_y": "float64",
    "imager_spacing_mm": "float64",
}

# Columns of a set's table of slices, before its labels, and of its table of series.
SLICE_COLUMNS = {"image_id": "str", "split": "str", "fold": "int32", "csv_place": "int64"}
SERIES_COLUMNS = {"series_key": "str"}

# Before the name of a column of slices that was measured of the pixels: no name of a label. pixels_hash covers it.
MEASURED = "measured."
BRAIN_SHARE: Final = "brain_share"

# Columns of a set's table of boxes: the row of the slice in the index; edges in px, where 0 is the centre of the first
# pixel; and the number of the class.
EDGES = ("x0", "y0", "x1", "y1")
BOX_COLUMNS = {"row": "int64", **dict.fromkeys(EDGES, "float64"), "class": "int32"}

# The place of the pixels, which may differ between stores of the same data.
_STORAGE_COLUMNS = ("shard", "byte_offset", "stored_bytes", "packed_checksum")

# What names slices and people, or says how files hold them, and nothing of what they show.
_UNSEEN_COLUMNS = (
    *("series_key", "image_id", "patient_id", "study_uid", "series_uid", "sop_uid", "sex", "age_y"),
    *("frame_number", "transfer_syntax_uid", "decoder"),
)

# What to do about damage, at the end of a message.
REPAIR = "Find all damage with: rsna-e2e store verify STORE; and repair it with: rsna-e2e store repair STORE RAW"
PREPARE_AGAIN = "It cannot be mended: prepare the store again"
LABEL_AGAIN = "Make this label set again: rsna-e2e label STORE LABELS {task} --replace"


class StoreError(BadInputError):
    """A study store that is missing, unfinished, of another version, or damaged."""


def columns_of(values: Values) -> dict[str, str]:
    """Return the columns of the index of a store of these values, and what they hold."""
    return INDEX_COLUMNS | XRAY_COLUMNS if values == "grey" else INDEX_COLUMNS


def tables_of(values: Values) -> tuple[str, ...]:
    """Return the file names of the tables of a store of these values."""
    return (INDEX, REFUSALS, LUTS) if values == "grey" else (INDEX, REFUSALS)


def hash_of_pixels(index: Mapping[str, Column], values: Values = "hu") -> str:
    """Return the sha256 of a store without its label sets: pixels by their checksums, and the index."""
    return _hash_of({name: index[name] for name in columns_of(values) if name not in _STORAGE_COLUMNS})


def hash_of_study(index: Mapping[str, Column], series: Iterable[slice], values: Values = "hu") -> str:
    """Return the sha256 of the slices of a study, each series being rows of the index: their pixels by their checksums,
    geometry and presentation. No name is in it, of files and people, no UID, sex or age, and not how files hold it."""
    names = [name for name in columns_of(values) if name not in (*_STORAGE_COLUMNS, *_UNSEEN_COLUMNS)]
    parts = sorted(_hash_of({name: index[name][rows] for name in names}) for rows in series)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def hash_of_labels(
    slices: Mapping[str, Column], series: Mapping[str, Column], boxes: Mapping[str, Column] | None = None
) -> str:
    """Return the sha256 of a label set: names, labels, split and folds in its tables; `series` may have no columns, and
    there may be no table of boxes. What was measured of pixels is left out: it changes nothing that was labelled."""
    slices = {name: column for name, column in slices.items() if not name.startswith(MEASURED)}
    of_boxes = {f"boxes {name}": column for name, column in (boxes or {}).items()}
    return _hash_of({f"slices {name}": column for name, column in slices.items()} | dict(series) | of_boxes)


def hash_of_data(pixels_hash: str, labels_hash: str) -> str:
    """Return the sha256 of a store with one of its label sets; without a set, `labels_hash` is empty."""
    return hashlib.sha256(f"{pixels_hash}\0{labels_hash}".encode()).hexdigest()


def _hash_of(columns: Mapping[str, Column]) -> str:
    digest = hashlib.sha256()
    for name, column in columns.items():
        digest.update(f"{name}\0".encode())
        if column.dtype == np.float32:  # of labels, in which any NaN is unknown
            column = np.where(np.isnan(column), np.float32(np.nan), column)
        digest.update("\0".join(column).encode() if column.dtype == object else column.tobytes())
    return digest.hexdigest()


def file_checksum(path: Path) -> str:
    """Return the xxh3_64 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_64).hexdigest()
