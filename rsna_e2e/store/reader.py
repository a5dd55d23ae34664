"""Reading a study store: its index in memory, its pixels slice by slice, each checked."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import Column, Float32Array, Int16Array, Int16Image, Refusal
from rsna_e2e.store.checks import (
    StoreFiles,
    check_files,
    read_index,
    read_labels,
    read_refusals,
    stored_pixels,
)
from rsna_e2e.store.codecs import check_codec
from rsna_e2e.store.folds import patients_in_several_folds
from rsna_e2e.store.layout import MANIFEST, REPAIR, SHARDS, StoreError
from rsna_e2e.store.manifest import StoreManifest, read_manifest
from rsna_e2e.store.series_order import run_starts
from rsna_e2e.store.shards import StoredPixels, read_pixels
from rsna_e2e.tasks.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesSpan:
    """One series: its slices are the rows [first_row, first_row + n_slices) of the index, in geometric order.

    split is "train" where any slice has a label and `prepare` did not hold the patient out, else "test". fold is -1 in
    split "test".
    """

    series_key: str
    patient_id: str
    study_uid: str
    series_uid: str
    first_row: int
    n_slices: int
    split: str
    fold: int

    @property
    def rows(self) -> slice:
        """Its rows of the index."""
        return slice(self.first_row, self.first_row + self.n_slices)


def rows_of(spans: Iterable[SeriesSpan]) -> npt.NDArray[np.int64]:
    """Return the rows of the index of these series, one series after another."""
    parts = [np.arange(span.first_row, span.first_row + span.n_slices, dtype=np.int64) for span in spans]
    return np.concatenate([np.empty(0, dtype=np.int64), *parts])


class Store:
    """An opened study store; open one with `Store.open`. Threads may share it; unpickled, it is opened again.

    index: every column of `INDEX_COLUMNS` by name, [N]. labels: [N, L] float32, NaN where there is none.
    series: in the order of the index. compression: of its pixels. key_check: of the key that identifiers are hashed
    with, empty where they are not. image_ids: what they are, before they were hashed. geometry: "none" where
    slices have no place in the patient, and series are in the order of their files.
    """

    def __init__(self, path: Path, manifest: StoreManifest, index: dict[str, Column], labels: Float32Array) -> None:
        self.path = path
        self._manifest = manifest
        self.index = index
        self.labels = labels
        self.label_names = manifest.label_names
        self.task_name = manifest.task
        self.data_hash = manifest.data_hash
        self.compression = manifest.compression
        self.key_check = manifest.key_check
        self.image_ids = manifest.image_ids
        self.geometry = manifest.geometry
        self.content_windows_hu = manifest.content_windows_hu
        self.series = _spans(index)
        self.series_labels = np.empty((len(self.series), 0), dtype=np.float32)
        _check_folds(path, index)

    @classmethod
    def open(cls, path: Path) -> "Store":
        """Open a store, which may be from anywhere, and check everything but the pixels, which are checked when read.

        Raises StoreError when it is missing, unfinished, of another version, damaged, or leads out of its folder, and
        MissingCapabilityError when its pixels are packed and what unpacks them is missing.
        """
        path = Path(path)
        manifest = read_manifest(path)
        check_codec(manifest.compression)
        check_files(path, manifest)
        index = read_index(path, manifest)
        labels = read_labels(path, manifest, index)
        StoreFiles(path, manifest, index).check_shards()
        return cls(path, manifest, index, labels)

    def __len__(self) -> int:
        """Return the number of slices, N."""
        return len(self.index["series_key"])

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Store.open, (self.path,)

    def read_slice(self, row: int) -> Int16Image:
        """Return the HU [rows, columns] of one row of the index. Raises StoreError when they are damaged."""
        hu = np.empty((int(self.index["rows"][row]), int(self.index["columns"][row])), dtype="<i2")
        self.read_slices([row], hu.reshape(-1))
        return hu

    def read_slices(self, rows: Sequence[int], values: Int16Array) -> None:
        """Read the HU of these rows of the index one after another into `values`, flat and of their total size.

        Raises StoreError, naming the slice, when they are damaged.
        """
        end = 0
        for shard, run in groupby(rows, key=self.index["shard"].__getitem__):
            slices: list[tuple[StoredPixels, Int16Array]] = []
            of_run = list(run)
            for row in of_run:
                start, end = end, end + int(self.index["rows"][row]) * int(self.index["columns"][row])
                slices.append((stored_pixels(self.index, row), values[start:end]))
            self._read_run(self.path / SHARDS / shard, of_run, slices)
        assert end == len(values)

    def _read_run(self, shard: Path, rows: Sequence[int], slices: Sequence[tuple[StoredPixels, Int16Array]]) -> None:
        try:
            damaged = read_pixels(shard, slices, compression=self.compression)
        except OSError as error:
            series = f"series {self.index['series_key'][rows[0]][:8]}"
            raise StoreError(f"{shard}: cannot be read ({series}): {error.strerror}. {REPAIR}") from error
        if damaged:
            row = rows[damaged[0]]
            raise StoreError(
                f"{shard}: slice {self.index['slice_index'][row]} of series {self.index['series_key'][row][:8]} is "
                f"damaged, or changed since the store was opened (checksum). {REPAIR}"
            )

    def read_refusals(self) -> list[Refusal]:
        """Return the refused files and slices."""
        columns = read_refusals(self.path, self._manifest)
        has_label = set(self._manifest.refused_with_label or ())
        words = zip(*(columns[name] for name in ("path", "reason", "detail")), strict=True)
        return [
            Refusal(path, reason, detail, has_label=row in has_label)
            for row, (path, reason, detail) in enumerate(words)
        ]

    def close(self) -> None:
        """Release the index. No file is held open between reads."""
        self.index = {}


def is_store(path: Path) -> bool:
    """Whether a folder is a study store, be it whole or damaged."""
    return (path / MANIFEST).is_file()


def _check_folds(path: Path, index: dict[str, Column]) -> None:
    """Refuse folds by which a patient would be both trained on and scored."""
    several = patients_in_several_folds(index["patient_id"].tolist(), index["fold"].tolist())
    if several:
        row = int(np.argmax(index["patient_id"] == several[0]))
        raise StoreError(
            f"{path}: {len(several)} patients are in more than one fold, one of them with series "
            f"{index['series_key'][row][:8]}: scores would include patients that were trained on. Prepare it again"
        )


def _spans(index: dict[str, Column]) -> tuple[SeriesSpan, ...]:
    keys = index["series_key"]
    starts = run_starts(keys)
    ends = np.append(starts[1:], len(keys))
    return tuple(
        SeriesSpan(
            series_key=keys[start],
            patient_id=index["patient_id"][start],
            study_uid=index["study_uid"][start],
            series_uid=index["series_uid"][start],
            first_row=int(start),
            n_slices=int(end - start),
            split=index["split"][start],
            fold=int(index["fold"][start]),
        )
        for start, end in zip(starts, ends, strict=True)
    )


def check_labels(store: Store, task: Task) -> None:
    """Raise BadInputError unless the store was prepared for `task`."""
    if tuple(store.label_names) != task.slices.names:
        raise BadInputError(
            f"{store.path}: prepared for labels {', '.join(store.label_names)}, not for task {task.name}. "
            f"Run: rsna-e2e prepare RAW STORE --task {task.name}"
        )
