"""Label sets of a store: what is known of its slices and series for one task, and how its patients are divided."""

# N slices, L labels of slices, S series, M labels of series, K notes of series

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsna_e2e.core.records import Column, Float32Array, Rows
from rsna_e2e.store.folds import patients_in_several_folds
from rsna_e2e.store.layout import (
    BOXES,
    BRAIN_SHARE,
    MEASURED,
    SERIES,
    SERIES_COLUMNS,
    SET_MANIFEST,
    SETS,
    SLICE_COLUMNS,
    SLICES,
    StoreError,
    hash_of_labels,
)
from rsna_e2e.store.manifest import StoreManifest, table_damage
from rsna_e2e.store.ranges import LABEL, SHARE, Mask, first_outside
from rsna_e2e.store.series_order import run_starts
from rsna_e2e.store.set_boxes import read_boxes, wrong_boxes
from rsna_e2e.store.set_manifest import (
    SetManifest,
    choose_set,
    label_again,
    label_columns,
    read_set_manifest,
)
from rsna_e2e.store.tables import read_table
from rsna_e2e.tasks.boxes import NO_BOXES, ImageBoxes


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSet:
    """The labels of one task for the slices and series of a store, which are in the order of its index.

    image_ids [N]: objects. split, fold [N]: "train" or "test", and -1 in "test". csv_place [N]: of the slice in the
    order of the label file, from 0, -1 where that does not name it. labels: [N, L], slice_notes: [N, Q],
    series_labels: [S, M], series_notes: [S, K], NaN where unknown; M and K are 0 where labels of series are those of
    their slices. All are float32. boxes: of slices, by their row. brain_share [N]: of the pixels of each slice, None
    where it was not measured. manifest: None of a store without labels, whose L and M are 0.
    """

    manifest: SetManifest | None
    image_ids: Column
    split: Column
    fold: Column
    csv_place: Column
    labels: Float32Array
    slice_notes: Float32Array
    series_labels: Float32Array
    series_notes: Float32Array
    boxes: ImageBoxes = NO_BOXES
    brain_share: Float32Array | None = None

    @property
    def box_labels(self) -> Float32Array:
        """The labels [N, C] of the classes of boxes."""
        manifest = self.manifest
        return self.labels[:, [manifest.slices.index(name) for name in manifest.boxes] if manifest else []]


def open_set(store: Path, manifest: StoreManifest, index: Mapping[str, Column], task: str | None) -> LabelSet:
    """Read the label set of a task, or the only one; of a store without sets, all slices are of split "test".

    Raises what `choose_set` and `read_set` raise.
    """
    name = choose_set(store, task)
    if name is None:
        n, n_series = manifest.n_slices, manifest.n_series
        return LabelSet(
            manifest=None,
            image_ids=index["image_id"],
            split=np.full(n, "test", dtype=object),
            fold=np.full(n, -1, dtype=np.int32),
            csv_place=np.full(n, -1, dtype=np.int64),
            labels=np.empty((n, 0), np.float32),
            slice_notes=np.empty((n, 0), np.float32),
            series_labels=np.empty((n_series, 0), np.float32),
            series_notes=np.empty((n_series, 0), np.float32),
        )
    return read_set(store, read_set_manifest(store, name), manifest, index)


def read_set(
    store: Path, manifest: SetManifest, of_store: StoreManifest, index: Mapping[str, Column], *, folder: str = ""
) -> LabelSet:
    """Read and check the tables of a label set. folder: of the set, where it does not have its name yet.

    Raises StoreError where a table is missing or damaged, or the set is that of another store.
    """
    name = manifest.task
    place = store / SETS / (folder or name)
    if manifest.pixels_hash != of_store.pixels_hash:
        raise StoreError(
            f"{place / SET_MANIFEST}: of another store, or of this one prepared otherwise. {label_again(name)}"
        )
    for file, checksum in manifest.files.items():
        if table_damage(place / file, checksum):
            raise StoreError(f"{place / file}: missing or damaged. {label_again(name)}")
    slices = read_table(place / SLICES, _kinds_of_slices(manifest), n_rows=of_store.n_slices, way_out=label_again(name))
    series = {}
    if manifest.has_own_series:
        kinds = SERIES_COLUMNS | dict.fromkeys(label_columns(manifest.series), "float32")
        series = read_table(place / SERIES, kinds, n_rows=of_store.n_series, way_out=label_again(name))
    boxes, box_columns = NO_BOXES, dict[str, Column]()
    if manifest.boxes:
        boxes, box_columns = read_boxes(place / BOXES, manifest.n_boxes, way_out=label_again(name))
    if hash_of_labels(slices, series, box_columns) != manifest.labels_hash:
        raise StoreError(
            f"{place / SET_MANIFEST}: damaged (labels_hash is not that of its tables). {label_again(name)}"
        )
    found = _as_set(manifest, slices, series, boxes, of_store.n_series)
    if manifest.image_ids == of_store.image_ids and not np.array_equal(found.image_ids, index["image_id"]):
        raise StoreError(f"{place / SLICES}: labels of other images than the index names. {label_again(name)}")
    for file, wrong in (
        (SLICES, _wrong_slices(found, index)),
        (SERIES, _wrong_series(found, series, index)),
        (BOXES, wrong_boxes(boxes, found.box_labels, index)),
    ):
        if wrong:
            raise StoreError(f"{place / file}: damaged ({wrong}). {label_again(name)}")
    return found


def _kinds_of_slices(manifest: SetManifest) -> dict[str, str]:
    numbers = (*label_columns(manifest.slices), *(MEASURED + name for name in manifest.measured))
    return SLICE_COLUMNS | dict.fromkeys(numbers, "float32")


def _as_set(
    manifest: SetManifest,
    slices: Mapping[str, Column],
    series: Mapping[str, Column],
    boxes: ImageBoxes,
    n_series: int,
) -> LabelSet:
    n = len(slices["fold"])
    return LabelSet(
        manifest=manifest,
        image_ids=slices["image_id"],
        split=slices["split"],
        fold=slices["fold"],
        csv_place=slices["csv_place"],
        labels=stacked(slices, manifest.slices.names, n),
        slice_notes=stacked(slices, manifest.slices.notes, n),
        series_labels=stacked(series, manifest.series.names, n_series),
        series_notes=stacked(series, manifest.series.notes, n_series),
        boxes=boxes,
        brain_share=slices.get(MEASURED + BRAIN_SHARE),
    )


def stacked(columns: Mapping[str, Column], names: Sequence[str], n: int) -> Float32Array:
    """Return columns of `n` rows as one array [n, len(names)]."""
    return np.stack([columns[name] for name in names], axis=1) if names else np.empty((n, 0), np.float32)


def are_labelled(labels_NL: Float32Array, series_labels_SM: Float32Array, starts: Rows) -> Mask:
    """Return which series [S] have any label, of a slice or of their own. starts [S]: the first row of each."""
    has_slices_S = np.logical_or.reduceat(~np.isnan(labels_NL).all(axis=1), starts)
    return np.asarray(has_slices_S | (~np.isnan(series_labels_SM)).any(axis=1))


def _wrong_slices(found: LabelSet, index: Mapping[str, Column]) -> str:
    """Return what no table of slices may hold, with the slice or series of it, or nothing."""
    keys = index["series_key"]
    for name, values in (("label", found.labels), ("note", found.slice_notes)):
        if (row := first_outside(values, LABEL)) is not None:
            return f"impossible {name}, row {row}: slice {index['slice_index'][row]} of series {keys[row][:8]}"
    if found.brain_share is not None and (row := first_outside(found.brain_share, SHARE)) is not None:
        return f"impossible share of brain, row {row}: slice {index['slice_index'][row]} of series {keys[row][:8]}"
    for name, is_good in _relations(found, index, run_starts(keys)):
        if not is_good.all():
            row = int(np.argmin(is_good))
            return f"impossible {name}, row {row}: slice {index['slice_index'][row]} of series {keys[row][:8]}"
    if several := patients_in_several_folds(index["patient_id"].tolist(), found.fold.tolist()):
        row = int(np.argmax(index["patient_id"] == several[0]))
        return (
            f"{len(several)} patients are in more than one fold, one of them with series {keys[row][:8]}: scores would "
            "include patients that were trained on"
        )
    return ""


def _wrong_series(found: LabelSet, series: Mapping[str, Column], index: Mapping[str, Column]) -> str:
    """Return what no table of series may hold, with the series of it, or nothing."""
    keys = index["series_key"][run_starts(index["series_key"])]
    if series and not np.array_equal(series["series_key"], keys):
        return "labels of other series than the index names"
    for name, values in (("label", found.series_labels), ("note", found.series_notes)):
        if (row := first_outside(values, LABEL)) is not None:
            return f"impossible {name} of series {keys[row][:8]}"
    return ""


def _relations(found: LabelSet, index: Mapping[str, Column], starts: Rows) -> Iterator[tuple[str, Mask]]:
    """Yield the name of a relation, and where [N] it holds.

    A series of "train" has labels; one of "test" has labels only where patients were held out, in this set or in one
    whose folds it takes over, and then no series of its patient is in "train".
    """
    manifest, split, fold = found.manifest, found.split, found.fold
    assert manifest is not None
    yield "fold", (fold >= -1) & (fold < len(fold)) & ((fold >= 0) == (split == "train"))
    yield "csv_place", found.csv_place >= -1
    is_same_series = np.append(True, index["series_key"][1:] == index["series_key"][:-1])
    for name, column in (("split", split), ("fold", fold)):
        yield name, ~is_same_series | np.append(True, column[1:] == column[:-1])
    is_labelled, is_train = are_labelled(found.labels, found.series_labels, starts), split[starts] == "train"
    if manifest.holdout is None and not manifest.folds_of:
        is_wrong = is_labelled != is_train
    else:
        patients = index["patient_id"][starts]
        held_out = set(patients[is_labelled & ~is_train])
        is_held_out = np.fromiter((patient in held_out for patient in patients), np.bool_, len(patients))
        is_wrong = is_train & (~is_labelled | is_held_out)
    yield "split", np.repeat(~is_wrong, np.diff(starts, append=len(split)))
