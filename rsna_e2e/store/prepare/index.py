"""Builds the columns of the index from stored slices, and joins labels and folds to them."""

# N slices, L labels

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.errors import UsageError
from rsna_e2e.core.records import Column, Float32Array, Float64Array, SliceRecord
from rsna_e2e.store import StoredPixels
from rsna_e2e.store.folds import stratified_folds
from rsna_e2e.store.pseudonyms import IDENTIFIERS, Pseudonyms
from rsna_e2e.store.series_order import SERIES_IDS, run_starts, series_key, slice_indices, volume_numbers
from rsna_e2e.tasks.labels import LabelTable

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


def join_labels(index: Mapping[str, Column], table: LabelTable, further: Mapping[str, Sequence[int]]) -> Float32Array:
    """Return the labels [N, L] of slices, NaN where the table has none."""
    padded = np.vstack([table.values, np.full((1, table.values.shape[1]), np.nan)]).astype(np.float32)
    return np.asarray(padded[label_rows(index, table, further)])


def label_rows(index: Mapping[str, Column], table: LabelTable, further: Mapping[str, Sequence[int]]) -> list[int]:
    """Return the row of the label table for each slice [N], -1 where there is none: that of its image id, or else the
    first in `further`."""
    row_of = {image_id: row for row, image_id in enumerate(table.image_ids)}
    return [row_of.get(image_id, further.get(image_id, [-1])[0]) for image_id in index["image_id"].tolist()]


def stored_columns(stored: Sequence[StoredSlice]) -> dict[str, Column]:
    """Return the columns of the index that depend on each slice alone."""
    records = [s.record for s in stored]
    columns: dict[str, Column] = {name: _column([getattr(r, name) for r in records]) for name in RECORD_COLUMNS}
    columns |= {name: _with_nan([getattr(r, name) for r in records]) for name in OPTIONAL_COLUMNS}
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """How labelled patients are divided: into folds, after some were held out.

    holdout: share of the labelled slices, and about of the positives, that goes to split "test" by whole patients and
    keeps its labels; None for none. seed: decides among equals. Raises UsageError for what is no share or number.
    """

    n_folds: int
    holdout: float | None
    seed: int

    def __post_init__(self) -> None:
        if self.n_folds < 1:
            raise UsageError(f"folds {self.n_folds}: must be at least 1")
        if self.holdout is not None and not 0 < self.holdout < 1:
            raise UsageError(f"holdout {self.holdout:g}: must be a share between 0 and 1, such as 0.2")

    def check(self, *, has_labels: bool) -> None:
        """Raise UsageError where patients are to be held out and there are no labels."""
        if self.holdout is not None and not has_labels:
            raise UsageError(
                f"holdout {self.holdout:g}: there are no labels. Give them with --labels; without any, all series are "
                "in split test already"
            )


def index_columns(stored: dict[str, Column], labels_NL: Float32Array, division: Division) -> dict[str, Column]:
    """Return all columns of the store's index from those of `stored_columns`, which stand in its order.

    Raises what `training_slices` raises.
    """
    is_train_N = training_slices(stored, labels_NL, division)
    return stored | {
        "slice_index": slice_indices(stored["series_key"]),
        "split": np.where(is_train_N, "train", "test"),
        "fold": _folds(stored["patient_id"], labels_NL, is_train_N, division),
    }


def training_slices(
    columns: Mapping[str, Column], labels_NL: Float32Array, division: Division
) -> npt.NDArray[np.bool_]:
    """Return which slices are of split "train" [N]: of series with labels whose patients are not held out.

    columns: series_key and patient_id. Raises UsageError where no labelled patient, or every one, would be held out.
    """
    _, series_N = np.unique(columns["series_key"], return_inverse=True)
    has_label_N = ~np.isnan(labels_NL).all(axis=1)
    is_train_N = np.bincount(series_N, weights=has_label_N)[series_N] > 0
    if division.holdout is not None:
        is_train_N &= ~_held_out(columns["patient_id"], labels_NL, is_train_N, division.holdout, seed=division.seed)
    return np.asarray(is_train_N)


def with_pseudonyms(index: dict[str, Column], pseudonyms: Pseudonyms) -> dict[str, Column]:
    """Return the columns of an index without the identifiers in it; series keys are made of the pseudonyms."""
    return pseudonyms.of_columns(index) | {"series_key": pseudonymous_keys(index, pseudonyms)}


def pseudonymous_keys(index: dict[str, Column], pseudonyms: Pseudonyms) -> Column:
    """Return the series key of each slice in a store where identifiers are pseudonyms."""
    starts, volumes = run_starts(index["series_key"]), volume_numbers(index)
    keys = []
    for row, volume in zip(starts.tolist(), volumes.tolist(), strict=True):
        patient, study, series = (pseudonyms.of(IDENTIFIERS[name], index[name][row]) for name in SERIES_IDS)
        keys.append(series_key((patient, study, series), volume=volume))
    lengths = np.diff(np.append(starts, len(index["series_key"])))
    return np.repeat(np.array(keys, dtype=object), lengths)


def _folds(
    patient_ids: Column, labels_NL: Float32Array, is_train_N: npt.NDArray[np.bool_], division: Division
) -> npt.NDArray[np.int64]:
    """Return the fold of each slice, -1 in split "test"; positives of each label and slices are balanced."""
    fold_N = np.full(len(patient_ids), -1, dtype=np.int64)
    fold_N[is_train_N] = stratified_folds(
        patient_ids[is_train_N].tolist(),
        _counts(labels_NL[is_train_N]),
        n_folds=division.n_folds,
        seed=division.seed,
    )
    return fold_N


def _held_out(
    patient_ids: Column, labels_NL: Float32Array, is_labelled_N: npt.NDArray[np.bool_], share: float, *, seed: int
) -> npt.NDArray[np.bool_]:
    """Return which slices of labelled series are of patients to hold out: about `share` of slices and of positives."""
    names = patient_ids[is_labelled_N].tolist()
    part = stratified_folds(names, _counts(labels_NL[is_labelled_N]), n_folds=2, seed=seed, sizes=(1 - share, share))
    if not 0 < np.count_nonzero(part) < len(part):
        raise UsageError(
            f"holdout {share:g}: too few labelled patients ({len(set(names))}) to hold out this share of them. Choose "
            "a share of at least one patient that leaves at least one to train on, or label more patients"
        )
    is_held_N = np.zeros(len(patient_ids), dtype=np.bool_)
    is_held_N[is_labelled_N] = part == 1
    return is_held_N


def _counts(labels_NL: Float32Array) -> Float64Array:
    """Return what is balanced between parts of the data: positives of each label, and slices [N, L + 1]."""
    return np.column_stack([np.nan_to_num(labels_NL), np.ones(len(labels_NL))]).astype(np.float64)


def _column(values: Sequence[Any]) -> Column:
    """Texts as objects, numbers by their type; of no values at all the type does not matter."""
    return np.array(values, dtype=object if values and isinstance(values[0], str) else None)


def spread(vectors: Sequence[tuple[float, ...]] | Column, names: Sequence[str]) -> dict[str, Column]:
    """Return a column for each element of vectors [N, len(names)]."""
    values = np.array(vectors).reshape(len(vectors), len(names))
    return {name: np.ascontiguousarray(values[:, i]) for i, name in enumerate(names)}


def _with_nan(values: Sequence[float | None]) -> Column:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
