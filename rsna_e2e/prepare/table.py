"""From stored slices to the columns of the index, their labels and their folds."""

# N slices, L labels

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rsna_e2e.folds import stratified_folds
from rsna_e2e.labels import LabelTable
from rsna_e2e.prepare.workers import StoredSlice
from rsna_e2e.records import Float32Array

Column = npt.NDArray[Any]

# Columns that are fields of `SliceRecord` under the same name.
RECORD_COLUMNS = (
    "image_id",
    "patient_id",
    "study_uid",
    "series_uid",
    "sop_uid",
    "rows",
    "columns",
    "slope",
    "intercept",
    "bits_stored",
    "pixel_representation",
    "transfer_syntax_uid",
    "repair",
    "n_rounded",
    "n_saturated",
)


def join_labels(stored: Sequence[StoredSlice], table: LabelTable) -> Float32Array:
    """Return the labels [N, L] of the stored slices by image id, NaN where the table has none."""
    row_of = {image_id: row for row, image_id in enumerate(table.image_ids)}
    padded = np.vstack([table.values, np.full((1, table.values.shape[1]), np.nan)]).astype(np.float32)
    return np.asarray(padded[[row_of.get(s.record.image_id, -1) for s in stored]])


def index_columns(
    stored: Sequence[StoredSlice], labels_NL: Float32Array, *, n_folds: int, seed: int
) -> dict[str, Column]:
    """Return the columns of the store's index for slices that stand in its order."""
    records = [s.record for s in stored]
    keys = np.array([s.series_key for s in stored], dtype=object)
    _, first, series_N = np.unique(keys, return_index=True, return_inverse=True)
    has_label_N = ~np.isnan(labels_NL).all(axis=1)
    is_train_N = np.bincount(series_N, weights=has_label_N)[series_N] > 0
    columns: dict[str, Column] = {name: np.array([getattr(r, name) for r in records]) for name in RECORD_COLUMNS}
    columns |= {
        "series_key": keys,
        "slice_index": np.arange(len(stored)) - first[series_N],
        "position_mm": np.array([s.position_mm for s in stored]),
        "split": np.where(is_train_N, "train", "test"),
        "fold": _folds(columns["patient_id"], labels_NL, is_train_N, n_folds=n_folds, seed=seed),
        "window_center_hu": _with_nan([r.window_center_hu for r in records]),
        "window_width_hu": _with_nan([r.window_width_hu for r in records]),
        "checksum": np.array([s.pixels.checksum for s in stored], dtype=np.uint64),
        "byte_offset": np.array([s.pixels.byte_offset for s in stored]),
        "shard": np.array([s.shard for s in stored]),
    }
    columns |= _spread([r.image_position_mm for r in records], [f"ipp_{axis}_mm" for axis in "xyz"])
    columns |= _spread(
        [r.image_orientation for r in records],
        [f"iop_{direction}_{axis}" for direction in ("row", "column") for axis in "xyz"],
    )
    columns |= _spread([r.pixel_spacing_mm for r in records], ["spacing_row_mm", "spacing_column_mm"])
    columns |= _spread([s.content for s in stored], [f"content_{corner}" for corner in ("x0", "y0", "x1", "y1")])
    return columns


def _folds(
    patient_ids: Column, labels_NL: Float32Array, is_train_N: npt.NDArray[np.bool_], *, n_folds: int, seed: int
) -> npt.NDArray[np.int64]:
    """Return the fold of each slice, -1 in split "test"; positives of each label and slices are balanced."""
    fold_N = np.full(len(patient_ids), -1, dtype=np.int64)
    counts = np.column_stack([np.nan_to_num(labels_NL), np.ones(len(labels_NL))]).astype(np.float64)
    fold_N[is_train_N] = stratified_folds(
        patient_ids[is_train_N].tolist(), counts[is_train_N], n_folds=n_folds, seed=seed
    )
    return fold_N


def _spread(vectors: Sequence[tuple[float, ...]], names: Sequence[str]) -> dict[str, Column]:
    values = np.array(vectors)
    assert values.shape == (len(vectors), len(names))
    return {name: np.ascontiguousarray(values[:, i]) for i, name in enumerate(names)}


def _with_nan(values: Sequence[float | None]) -> Column:
    return np.array([np.nan if value is None else value for value in values])
