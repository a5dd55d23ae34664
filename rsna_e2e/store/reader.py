"""Reading a study store: its index in memory, its pixels slice by slice, each checked."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rsna_e2e.folds import patients_in_several_folds
from rsna_e2e.records import Float32Array, Int16Array, Int16Image, Refusal
from rsna_e2e.store.layout import (
    FORMAT,
    FORMAT_VERSION,
    INDEX,
    INDEX_COLUMNS,
    LABELS,
    MANIFEST,
    MANIFEST_KEYS,
    REFUSALS,
    SHARDS,
    Column,
    StoreError,
    file_checksum,
    read_table,
)
from rsna_e2e.store.shards import StoredPixels, read_pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesSpan:
    """One series: its slices are the rows [first_row, first_row + n_slices) of the index, in geometric order.

    split is "train" where any slice has a label, else "test". fold is -1 in split "test".
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
    """An opened study store; open one with `Store.open`. Threads may share it; pickled, it opens itself again.

    index: every column of `INDEX_COLUMNS` by name, [N]. labels: [N, L] float32, NaN where there is none.
    series: in the order of the index. key_check: of the key that identifiers are hashed with, empty where they are not.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], index: dict[str, Column], labels: Float32Array) -> None:
        self.path = path
        self.index = index
        self.labels = labels
        self.label_names: tuple[str, ...] = tuple(manifest["label_names"])
        self.task_name: str = manifest["task"]
        self.data_hash: str = manifest["data_hash"]
        self.key_check: str = manifest["key_check"]
        self.content_windows_hu: tuple[tuple[float, float], ...] = tuple(
            (center, width) for center, width in manifest["content_windows_hu"]
        )
        self.series = _spans(index)
        _check_folds(path, index)

    @classmethod
    def open(cls, path: Path) -> "Store":
        """Open a store. Raises StoreError when it is missing, unfinished, of another version, or damaged."""
        path = Path(path)
        manifest = _read_manifest(path)
        for name, checksum in manifest["files"].items():
            if not (path / name).is_file() or file_checksum(path / name) != checksum:
                raise _damaged(path / name)
        for name, n_bytes in manifest["shards"].items():
            shard = path / SHARDS / name
            if not shard.is_file() or shard.stat().st_size != n_bytes:
                raise _damaged(shard)
        index = read_table(path / INDEX)
        labels = read_table(path / LABELS)
        label_columns = [labels[name] for name in manifest["label_names"]]
        if set(index) != set(INDEX_COLUMNS) or any(len(c) != manifest["n_slices"] for c in index.values()):
            raise _damaged(path / INDEX)
        return cls(path, manifest, index, np.stack(label_columns, axis=1).astype(np.float32))

    def __len__(self) -> int:
        """Return the number of slices, N."""
        return len(self.index["series_key"])

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Store.open, (self.path,)

    def read_slice(self, row: int) -> Int16Image:
        """Return the HU [rows, columns] of one row of the index. Raises StoreError when they are not those stored."""
        hu = np.empty((int(self.index["rows"][row]), int(self.index["columns"][row])), dtype="<i2")
        self.read_slices([row], hu.reshape(-1))
        return hu

    def read_slices(self, rows: Sequence[int], values: Int16Array) -> None:
        """Read the HU of these rows of the index one after another into `values`, flat and of their total size.

        Raises StoreError, naming the slice, when they are not those stored.
        """
        end = 0
        for shard, run in groupby(rows, key=self.index["shard"].__getitem__):
            slices: list[tuple[StoredPixels, Int16Array]] = []
            of_run = list(run)
            for row in of_run:
                pixels = StoredPixels(int(self.index["byte_offset"][row]), int(self.index["checksum"][row]))
                start, end = end, end + int(self.index["rows"][row]) * int(self.index["columns"][row])
                slices.append((pixels, values[start:end]))
            self._read_run(self.path / SHARDS / shard, of_run, slices)
        assert end == len(values)

    def _read_run(self, shard: Path, rows: Sequence[int], slices: Sequence[tuple[StoredPixels, Int16Array]]) -> None:
        series = f"series {self.index['series_key'][rows[0]][:8]}"
        try:
            damaged = read_pixels(shard, slices)
        except OSError as error:
            raise StoreError(f"{shard}: cannot be read ({series}): {error.strerror}. Check the disk") from error
        if damaged is not None:
            row = rows[damaged]
            raise StoreError(
                f"{shard}: slice {self.index['slice_index'][row]} of series {self.index['series_key'][row][:8]} is "
                "damaged, or changed since the store was opened (checksum). Prepare the store again"
            )

    def read_refusals(self) -> list[Refusal]:
        """Return what was not taken, and why."""
        columns = read_table(self.path / REFUSALS)
        return [
            Refusal(*words) for words in zip(*(columns[name] for name in ("path", "reason", "detail")), strict=True)
        ]

    def close(self) -> None:
        """Let go of the index. No file is held open between reads, so there is nothing else to close."""
        self.index = {}


def is_store(path: Path) -> bool:
    """Whether a folder is a study store, be it whole or damaged."""
    return (path / MANIFEST).is_file()


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise StoreError(f"{path}: no such folder. Make a store with: rsna-e2e prepare RAW {path}")
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise StoreError(f"{path}: not a finished study store (no {MANIFEST}). Prepare it again") from None
    except (ValueError, OSError):
        raise _damaged(path / MANIFEST) from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise StoreError(f"{path / MANIFEST}: not the {MANIFEST} of a study store")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise StoreError(
            f"{path}: store version {manifest.get('format_version')}, this program reads {FORMAT_VERSION}. "
            "Prepare it again with this program"
        )
    if not MANIFEST_KEYS <= set(manifest):
        raise _damaged(path / MANIFEST)
    return manifest


def _damaged(path: Path) -> StoreError:
    return StoreError(f"{path}: missing or damaged. Prepare the store again")


def _check_folds(path: Path, index: dict[str, Column]) -> None:
    """Refuse a split by which a patient's slices would be both trained on and scored."""
    several = patients_in_several_folds(index["patient_id"].tolist(), index["fold"].tolist())
    if several:
        row = int(np.argmax(index["patient_id"] == several[0]))
        raise StoreError(
            f"{path}: {len(several)} patients are in more than one fold, one of them with series "
            f"{index['series_key'][row][:8]}: scores would be of slices that were trained on. Prepare the store again"
        )


def _spans(index: dict[str, Column]) -> tuple[SeriesSpan, ...]:
    keys = index["series_key"]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
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
