"""Builds the columns of the index from stored slices."""

# N slices

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rsna_e2e.core.records import Column, SliceRecord
from rsna_e2e.store import StoredPixels
from rsna_e2e.store.layout import XRAY_COLUMNS
from rsna_e2e.store.pseudonyms import IDENTIFIERS, Pseudonyms
from rsna_e2e.store.series_order import ids_of_series, run_starts, series_key, slice_indices, volume_numbers

# Columns that are fields of `SliceRecord` under the same name.
RECORD_COLUMNS = (
    "image_id",
    "patient_id",
    "study_uid",
    "series_uid",
    "sop_uid",
    "frame_number",
    "rows",
    "columns",
    "slope",
    "intercept",
    "bits_stored",
    "pixel_representation",
    "burned_in_annotation",
    "transfer_syntax_uid",
    "decoder",
    "repair",
    "n_rounded",
    "n_saturated",
    "n_padding",
    "hu_min",
    "hu_max",
)
# Columns that a field of several numbers is spread over.
VECTOR_COLUMNS = {
    "image_position_mm": [f"ipp_{axis}_mm" for axis in "xyz"],
    "image_orientation": [f"iop_{direction}_{axis}" for direction in ("row", "column") for axis in "xyz"],
    "pixel_spacing_mm": ["spacing_row_mm", "spacing_column_mm"],
}
OPTIONAL_COLUMNS = ("window_center_hu", "window_width_hu", "slice_thickness_mm")  # NaN where a file does not say


@dataclass(frozen=True, slots=True)
class StoredSlice:
    """A slice in the store; content is x0, y0, x1, y1 in px, the last two exclusive."""

    record: SliceRecord
    series_key: str
    position_mm: float
    content: tuple[int, int, int, int]
    shard: str
    pixels: StoredPixels


def stored_columns(stored: Sequence[StoredSlice]) -> dict[str, Column]:
    """Return the columns of the index that depend on each slice alone."""
    records = [s.record for s in stored]
    columns: dict[str, Column] = {name: _column([getattr(r, name) for r in records]) for name in RECORD_COLUMNS}
    columns |= {name: _with_nan([getattr(r, name) for r in records]) for name in OPTIONAL_COLUMNS}
    if records and records[0].xray is not None:
        columns |= {name: _column([getattr(r.xray, name) for r in records]) for name in XRAY_COLUMNS}
    columns |= {
        "series_key": _column([s.series_key for s in stored]),
        "position_mm": np.array([s.position_mm for s in stored]),
        "checksum": np.array([s.pixels.checksum for s in stored], dtype=np.uint64),
        "byte_offset": np.array([s.pixels.byte_offset for s in stored], dtype=np.int64),
        "stored_bytes": np.array([s.pixels.n_bytes for s in stored], dtype=np.int64),
        "packed_checksum": np.array([s.pixels.packed_checksum for s in stored], dtype=np.uint64),
        "shard": _column([s.shard for s in stored]),
    }
    for name, parts in VECTOR_COLUMNS.items():
        columns |= spread([getattr(r, name) for r in records], parts)
    columns |= spread([s.content for s in stored], [f"content_{corner}" for corner in ("x0", "y0", "x1", "y1")])
    return columns


def index_columns(stored: dict[str, Column]) -> dict[str, Column]:
    """Return all columns of the store's index from those of `stored_columns`, which stand in its order."""
    return stored | {"slice_index": slice_indices(stored["series_key"])}


def with_pseudonyms(index: dict[str, Column], pseudonyms: Pseudonyms) -> dict[str, Column]:
    """Return the columns of an index without the identifiers in it; series keys are made of the pseudonyms."""
    return pseudonyms.of_columns(index) | {"series_key": pseudonymous_keys(index, pseudonyms)}


def pseudonymous_keys(index: dict[str, Column], pseudonyms: Pseudonyms) -> Column:
    """Return the series key of each slice in a store where identifiers are pseudonyms."""
    starts, volumes = run_starts(index["series_key"]), volume_numbers(index)
    keys = []
    for row, volume in zip(starts.tolist(), volumes.tolist(), strict=True):
        one, other, third = (pseudonyms.of(IDENTIFIERS[name], index[name][row]) for name in ids_of_series(index))
        keys.append(series_key((one, other, third), volume=volume))
    lengths = np.diff(np.append(starts, len(index["series_key"])))
    return np.repeat(np.array(keys, dtype=object), lengths)


def _column(values: Sequence[Any]) -> Column:
    """Texts as objects, numbers by their type; of no values at all the type does not matter."""
    return np.array(values, dtype=object if values and isinstance(values[0], str) else None)


def spread(vectors: Sequence[tuple[float, ...]] | Column, names: Sequence[str]) -> dict[str, Column]:
    """Return a column for each element of vectors [N, len(names)]."""
    values = np.array(vectors).reshape(len(vectors), len(names))
    return {name: np.ascontiguousarray(values[:, i]) for i, name in enumerate(names)}


def _with_nan(values: Sequence[float | None]) -> Column:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
