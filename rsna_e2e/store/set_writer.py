"""Writes a label set: under another name beside its place, read back, and moved there when it is whole."""

# N slices, L labels of slices, S series, M labels of series

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsna_e2e import __version__
from rsna_e2e.core.files import full_disk_named, sync
from rsna_e2e.core.records import Column, Float32Array, IdRule
from rsna_e2e.store.label_sets import are_labelled, read_set
from rsna_e2e.store.layout import (
    BOXES,
    BRAIN_SHARE,
    MEASURED,
    PARTIAL,
    SERIES,
    SET_MANIFEST,
    SETS,
    SLICES,
    StoreError,
    file_checksum,
    hash_of_labels,
)
from rsna_e2e.store.manifest import StoreManifest
from rsna_e2e.store.series_order import run_starts
from rsna_e2e.store.set_boxes import as_columns
from rsna_e2e.store.set_manifest import SetManifest, as_fields, label_columns
from rsna_e2e.store.tables import write_table
from rsna_e2e.tasks.boxes import NO_BOXES, ImageBoxes
from rsna_e2e.tasks.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSet:
    """A label set to be written, in the order of the index of its store; fields as of `LabelSet` and `SetManifest`.

    slices: [N, L + Q], the labels and notes of slices; series: [S, M + K], those of series. boxes: of slices, by their
    row. brain_share: [N], None where it was not measured.
    """

    task: Task
    image_ids: Column
    id_rule: IdRule
    split: Column
    fold: Column
    csv_place: Column
    slices: Float32Array
    series: Float32Array
    boxes: ImageBoxes = NO_BOXES
    n_folds: int
    seed: int
    holdout: float | None = None
    folds_of: str = ""
    number: int = 1
    refused_with_label: Sequence[int] = ()
    balanced_by: str = ""
    brain_share: Float32Array | None = None


def write_set(
    store: Path, new: NewSet, of_store: StoreManifest, index: Mapping[str, Column], *, replaces: bool = False
) -> SetManifest:
    """Write a label set into a store, and return its manifest.

    index: of the store. replaces: a set of the same task that is there. Raises StoreError where there is one and it is
    not to be replaced, and where what was written does not read back; OSError, on a full disk among others.
    """
    place = store / SETS / new.task.name
    if place.exists() and not replaces:
        raise StoreError(f"{store}: has labels of task {new.task.name} already. To replace them, add --replace")
    partial = place.with_name(f"{place.name}{PARTIAL}")
    shutil.rmtree(partial, ignore_errors=True)  # of an attempt that was killed
    try:
        with full_disk_named(store):
            partial.mkdir(parents=True)
            manifest = _write(partial, new, of_store, index)
            read_set(store, manifest, of_store, index, folder=partial.name)
            _move(partial, place)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        if not any(place.parent.iterdir()):
            place.parent.rmdir()
        raise
    return manifest


def _write_tables(
    folder: Path, new: NewSet, index: Mapping[str, Column]
) -> tuple[dict[str, Column], dict[str, Column], dict[str, Column]]:
    """Write the tables of a set, and return the columns of slices, series and boxes; of what there is not, none."""
    slices = {"image_id": new.image_ids, "split": new.split.astype(object), "fold": new.fold.astype(np.int32)}
    slices["csv_place"] = new.csv_place.astype(np.int64)
    slices |= dict(zip(label_columns(new.task.slices), new.slices.T.astype(np.float32), strict=True))
    if new.brain_share is not None:
        slices[MEASURED + BRAIN_SHARE] = new.brain_share
    series: dict[str, Column] = {}
    if new.task.series_truth == "own":
        series = {"series_key": index["series_key"][run_starts(index["series_key"])]}
        series |= dict(zip(label_columns(new.task.series), new.series.T.astype(np.float32), strict=True))
    boxes = as_columns(new.boxes) if new.task.boxes else {}
    for name, columns in ((SLICES, slices), (SERIES, series), (BOXES, boxes)):
        if columns:
            write_table(folder / name, columns)
    return slices, series, boxes


def _write(folder: Path, new: NewSet, of_store: StoreManifest, index: Mapping[str, Column]) -> SetManifest:
    slices, series, boxes = _write_tables(folder, new, index)
    starts, n_labels = run_starts(index["series_key"]), len(new.task.slices)
    labels_NL, series_labels_SM = new.slices[:, :n_labels], new.series[:, : len(new.task.series)]
    has_own_S = (~np.isnan(series_labels_SM)).any(axis=1) if series else are_labelled(labels_NL, new.series, starts)
    manifest = SetManifest(
        **as_fields(new.task),
        created_by=f"rsna_e2e {__version__}",
        number=new.number,
        image_ids=new.id_rule,
        n_folds=new.n_folds,
        seed=new.seed,
        holdout=new.holdout,
        folds_of=new.folds_of,
        refused_with_label=tuple(new.refused_with_label),
        n_boxes=len(new.boxes),
        n_labelled_slices=int((~np.isnan(labels_NL)).any(axis=1).sum()),
        n_labelled_series=int(has_own_S.sum()),
        n_positive_slices=int((labels_NL[:, new.task.headline_index] > 0).sum()),
        balanced_by=new.balanced_by,
        measured=() if new.brain_share is None else (BRAIN_SHARE,),
        pixels_hash=of_store.pixels_hash,
        labels_hash=hash_of_labels(slices, series, boxes),
        files={path.name: file_checksum(path) for path in sorted(folder.iterdir())},
    )
    (folder / SET_MANIFEST).write_text(manifest.to_json())
    return manifest


def _move(partial: Path, place: Path) -> None:
    """Give a set, which is whole now, its name."""
    for path in (*partial.iterdir(), partial):
        sync(path)
    replaced = place.with_name(f"{place.name}.replaced{PARTIAL}")
    shutil.rmtree(replaced, ignore_errors=True)
    if place.exists():
        place.replace(replaced)
    partial.replace(place)
    sync(place.parent)
    shutil.rmtree(replaced, ignore_errors=True)
