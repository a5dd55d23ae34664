"""Reading a study store: its index in memory, its pixels slice by slice, each checked."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import Column, Int16Array, Int16Image, Presentation, Refusal, VoiLut
from rsna_e2e.store.checks import (
    StoreFiles,
    check_files,
    read_index,
    read_refusals,
    stored_pixels,
)
from rsna_e2e.store.codecs import check_codec
from rsna_e2e.store.label_sets import LabelSet, open_set
from rsna_e2e.store.layout import MANIFEST, REPAIR, SHARDS, StoreError, hash_of_data
from rsna_e2e.store.luts import read_luts
from rsna_e2e.store.manifest import StoreManifest, read_manifest
from rsna_e2e.store.series_order import run_starts
from rsna_e2e.store.set_manifest import label_again
from rsna_e2e.store.shards import StoredPixels, read_pixels
from rsna_e2e.tasks.boxes import known_boxes
from rsna_e2e.tasks.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesSpan:
    """One series: its slices are the rows [first_row, first_row + n_slices) of the index, in geometric order.

    split is "train" where it or any slice has a label and the patient was not held out, else "test". fold is -1 in
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
    """An opened study store with one of its label sets; open one with `Store.open`. Threads may share it; unpickled, it
    is opened again.

    index: every column of `INDEX_COLUMNS` by name, [N], and split and fold of the label set. series: S, in the order of
    the index. labels: [N, L], series_labels: [S, M], series_notes: [S, K], float32, NaN where there is none; M and K
    are 0 of a task whose series have no labels of their own. label_names, series_label_names, note_names: of these
    columns. boxes: of slices, by their row of the index, of classes called box_names; boxes_known [N]: of which slices
    the labels say them all. brain_share [N]: of the pixels of each slice of CT, None where `label` did not measure
    it. task_name: whose labels they are, empty of a store without label sets, where all series are
    of split "test". data_hash: of pixels and labels. compression: of its pixels. key_check: of the key that identifiers
    are hashed with, empty where they are not. image_ids: what they are, before they were hashed. geometry: "none" where
    slices have no place in the patient, and series are in the order of their files. values: "grey" of X-rays, whose
    index has `XRAY_COLUMNS` too; luts: VOI LUTs that these name.
    """

    def __init__(
        self,
        path: Path,
        manifest: StoreManifest,
        index: dict[str, Column],
        found: LabelSet,
        luts: Mapping[str, VoiLut],
    ) -> None:
        self.path = path
        self._manifest = manifest
        self._set = found.manifest
        self.index = index | {"image_id": found.image_ids, "split": found.split, "fold": found.fold}
        self.index["csv_place"] = found.csv_place
        self.labels, self.series_labels, self.series_notes = found.labels, found.series_labels, found.series_notes
        self.box_names = self._set.boxes if self._set else ()
        self.boxes, self.boxes_known = found.boxes, known_boxes(found.boxes, found.box_labels)
        self.brain_share = found.brain_share
        self._task: Task | None = None  # whose labels an unlabelled store lacks
        self.task_name = self._set.task if self._set else ""
        self.label_names = self._set.slices.names if self._set else ()
        self.series_label_names = self._set.series.names if self._set else ()
        self.note_names = self._set.series.notes if self._set else ()
        self.data_hash = hash_of_data(manifest.pixels_hash, self._set.labels_hash if self._set else "")
        self.compression = manifest.compression
        self.key_check = manifest.key_check
        self.image_ids = self._set.image_ids if self._set else manifest.image_ids
        self.geometry = manifest.geometry
        self.content_from_hu = manifest.content_from_hu
        self.values, self.luts = manifest.values, luts
        self.series = _spans(self.index)

    @classmethod
    def open(cls, path: Path, task: str | None = None) -> "Store":
        """Open a store, which may be from anywhere, with the label set of `task`, by default the only one; check
        everything but the pixels, which are checked when read.

        Raises StoreError when it is missing, unfinished, of another version, damaged, leads out of its folder, or has
        label sets of other tasks alone; UsageError when it has several and none is named; and MissingCapabilityError
        when its pixels are packed and what unpacks them is missing.
        """
        path = Path(path)
        manifest = read_manifest(path)
        check_codec(manifest.compression)
        check_files(path, manifest)
        index = read_index(path, manifest)
        found = open_set(path, manifest, index, task)
        StoreFiles(path, manifest, index).check_shards()
        return cls(path, manifest, index, found, read_luts(path, index) if manifest.values == "grey" else {})

    def __len__(self) -> int:
        """Return the number of slices, N."""
        return len(self.index["series_key"])

    def __reduce__(self) -> tuple[Any, tuple[Path, str | None, Task | None]]:
        return _open_again, (self.path, self.task_name or None, self._task)

    def difference(self, task: Task) -> str:
        """Return the first thing in which the labels are not those of a task, empty where they are, or there are
        none."""
        return self._set.difference(task) if self._set else ""

    def lack_labels_of(self, task: Task) -> None:
        """Have the labels of a task, all unknown, in a store without label sets."""
        assert self._set is None
        self._task = task
        self.label_names, self.series_label_names = task.slices.names, task.series.names
        self.note_names = task.series.notes
        self.labels, self.series_labels, self.series_notes = (
            np.full((n, len(names)), np.nan, np.float32)
            for n, names in (
                (len(self), self.label_names),
                (len(self.series), self.series_label_names),
                (len(self.series), self.note_names),
            )
        )

    def presentation(self, row: int) -> Presentation:
        """Return what turns the values of an X-ray image into what is shown."""
        of_row: dict[str, Any] = {one.name: self.index[one.name][row] for one in fields(Presentation)}
        plain = {name: x.item() if isinstance(x, np.generic) else x for name, x in of_row.items()}
        known: dict[str, Any] = {
            name: math.nan if x != x else x for name, x in plain.items()
        }  # NaN differs from itself
        return Presentation(**known)

    def read_slice(self, row: int) -> Int16Image:
        """Return the HU [rows, columns] of one row of the index, or of an X-ray grey less its `value_offset`.

        Raises StoreError when they are damaged.
        """
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
        has_label = set(self._set.refused_with_label if self._set else ())
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


def _open_again(path: Path, task_name: str | None, lacking: Task | None) -> Store:
    store = Store.open(path, task_name)
    if lacking is not None:
        check_labels(store, lacking)
    return store


def check_labels(store: Store, task: Task) -> None:
    """Raise BadInputError, which names the first difference, unless a store was opened with the labels of `task`.

    A store without label sets has those of the task from then on, all unknown.
    """
    if not store.task_name:
        store.lack_labels_of(task)
    elif difference := store.difference(task):
        raise BadInputError(
            f"{store.path}: opened with the labels of task {store.task_name}, which are not those of task {task.name}: "
            f"{difference}. {label_again(task.name)}"
        )
