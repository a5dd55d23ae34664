"""Adds the labels of a task to a store: joins a label table to its index, and opens no file of pixels."""

# N slices

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.files import lock_folder
from rsna_e2e.core.records import Column, Progress, Refusal, no_progress
from rsna_e2e.core.table_files import TableFile, table_at
from rsna_e2e.dicom.image_ids import ImageIds
from rsna_e2e.store import StoreError, StoreFiles
from rsna_e2e.store.checks import read_refusals
from rsna_e2e.store.layout import SETS, hash_of_data
from rsna_e2e.store.prepare.balance import balanced
from rsna_e2e.store.prepare.carried import Carried, carried_folds, number_of
from rsna_e2e.store.prepare.division import HELD_OUT, Division
from rsna_e2e.store.prepare.find_labels import FoundLabels, LabelFile, LabelFiles, read_label_file
from rsna_e2e.store.prepare.label_report import LabelReport, describe_labels
from rsna_e2e.store.prepare.match_labels import LabelIds, match_labels, with_labels
from rsna_e2e.store.prepare.measure import measure_brain
from rsna_e2e.store.prepare.reading import check_is_about
from rsna_e2e.store.prepare.sets import Joined, divided, join, make_set
from rsna_e2e.store.prepare.store_plan import with_image_ids
from rsna_e2e.store.prepare.tables import Table, to_numpy
from rsna_e2e.store.pseudonyms import Pseudonyms
from rsna_e2e.store.set_writer import NewSet, write_set
from rsna_e2e.tasks.task import Task

_SUFFIX = ".dcm"  # of the file of a slice, which only its image id tells


@dataclass(frozen=True, slots=True, kw_only=True)
class Further:
    """What else is asked of a label set. balance: cut it to as many slices with this label as without, see `balanced`;
    "" for the headline, None to cut nothing. measures_brain: read all pixels, and keep the share of brain of each
    slice; progress: of that."""

    balance: str | None = None
    measures_brain: bool = False
    progress: Progress = no_progress


def label(
    store: Path,
    labels: Path | TableFile,
    *,
    task: Task,
    image_ids: ImageIds = "auto",
    n_folds: int | None = None,
    holdout: float | None = None,
    seed: int | None = None,
    replaces: bool = False,
    own_folds: bool = False,
    pseudonyms: Pseudonyms | None = None,
    further: Further = Further(),
) -> LabelReport:
    """Add the labels of a task to a store, as a set of their own; nothing else in the store is touched.

    n_folds, holdout, seed: see `Division`; None for those of the set that is replaced, else for the defaults of
    `DEFAULT`. Patients that other sets have divided keep their fold, or stay held out. own_folds: all are divided anew,
    whatever sets there are. replaces: a set of this task that is there. pseudonyms: of a store of hashed identifiers.
    Raises what `read_labels` and `match_labels` raise, BadInputError for labels of no slice, StoreError for a damaged
    store, one that another process is writing to, or one that has labels of this task already, and UsageError where
    patients keep their folds and are to be divided otherwise, and for a task of the other modality.
    """
    started_s = time.perf_counter()
    files, file = _open(store, labels, task, replaces=replaces)
    columns, found, joined = _join(files, _hashed(file, files, pseudonyms), task, image_ids)
    patient_N = columns["patient_id"]
    kept = Carried() if own_folds else carried_folds(files, patient_N[joined.is_labelled].tolist(), name=task.name)
    division = kept.division(n_folds=n_folds, holdout=holdout, seed=seed)
    joined, new, of_report = _new_set(files, columns, found, joined, task, kept, division, further)
    with _alone_in(store):
        manifest = write_set(store, new, files.manifest, files.index, replaces=replaces)
    return LabelReport(
        **describe_labels(columns, joined, new.fold, found, task),
        store=store,
        data_hash=hash_of_data(files.manifest.pixels_hash, manifest.labels_hash),
        **of_report,
        folds_of=kept.folds_of or "none",
        elapsed_s=time.perf_counter() - started_s,
    )


def _open(store: Path, labels: Path | TableFile, task: Task, *, replaces: bool) -> tuple[StoreFiles, LabelFile]:
    files = StoreFiles.open(store)
    check_is_about(task, files.manifest.values, store)
    if (store / SETS / task.name).exists() and not replaces:
        raise StoreError(f"{store}: has labels of task {task.name} already. To replace them, add --replace")
    return files, read_label_file(table_at(labels) if isinstance(labels, Path) else labels, task)


@dataclass(frozen=True, slots=True)
class _Extra:
    """What is asked beside labels, as fields of the set and of the report."""

    of_set: dict[str, Any]
    of_report: dict[str, Any]


def _with_further(
    files: StoreFiles, patient_N: Column, joined: Joined, task: Task, further: Further, *, seed: int
) -> tuple[Joined, _Extra]:
    extra = _Extra({}, {})
    if further.balance is not None:
        name = further.balance or task.headline
        joined, extra.of_report["balanced"] = balanced(joined, patient_N, task, name, seed=seed)
        extra.of_set["balanced_by"] = name
    if further.measures_brain:
        share_N = measure_brain(files, progress=further.progress)
        quartiles = np.quantile(share_N, [0.25, 0.5, 0.75])
        extra.of_set["brain_share"] = share_N
        words = ("a quarter below", "median", "a quarter above")
        extra.of_report["brain_share"] = dict(zip(words, quartiles.tolist(), strict=True))
    return joined, extra


def _new_set(
    files: StoreFiles,
    columns: Mapping[str, Column],
    found: FoundLabels,
    joined: Joined,
    task: Task,
    kept: Carried,
    division: Division,
    further: Further,
) -> tuple[Joined, NewSet, dict[str, Any]]:
    """Return the labels that are left, their set, and what the report says of what was asked for beside them."""
    # Divided before it is cut, so that no patient who was held out is trained on in a set that is cut.
    fold_N = divided(columns, joined, division, kept.fold_of)
    joined, extra = _with_further(files, columns["patient_id"], joined, task, further, seed=division.seed)
    new = make_set(
        task,
        found,
        joined,
        np.where(joined.is_labelled, fold_N, HELD_OUT),
        division,
        image_ids=columns["image_id"],
        refusals=with_labels(_refusals(files), found.match, files.path),
        folds_of=kept.folds_of,
        number=number_of(files, task.name),
    )
    return joined, replace(new, **extra.of_set), extra.of_report


def _join(
    files: StoreFiles, file: LabelFile, task: Task, image_ids: ImageIds
) -> tuple[dict[str, Column], FoundLabels, Joined]:
    """Return the columns of the index, with image ids as the labels have them, and the labels of its slices."""
    own_rule, headers = files.manifest.image_ids, _headers(files)
    rule = own_rule if image_ids == "auto" and own_rule == "sop_uid" else image_ids  # no names of files are known
    ids = LabelIds(raw=files.path, tables=[file.ids], must_match=True, rule=rule, refused=())
    match = match_labels(headers, (), ids)
    headers, further = with_image_ids(headers, np.arange(len(headers)), match)
    found = LabelFiles(files=[file]).taken(match, task)
    found.check_copies(further)
    columns = files.index | {"image_id": to_numpy(headers, "image_id")}
    joined = join(columns, found.table, further, task)
    if not joined.is_labelled.any():
        raise BadInputError(f"{file.ids.file}: what it says of slices in {files.path} is empty. Give 0 or 1")
    return (files.index if match.rule == own_rule else columns), found, joined


def _headers(files: StoreFiles) -> Table:
    """Return the slices of a store like headers of files, in which image ids are by name."""
    index = files.index
    several = set(index["sop_uid"][index["frame_number"] > 1])
    ids, names = [], []
    for image_id, sop_uid, frame in zip(index["image_id"], index["sop_uid"], index["frame_number"], strict=True):
        ids.append(image_id.rpartition("/")[2])
        is_frame = sop_uid in several and image_id.endswith(f"_{frame}")
        names.append(os.fsencode((image_id.removesuffix(f"_{frame}") if is_frame else image_id) + _SUFFIX))
    columns = {name: index[name] for name in ("patient_id", "study_uid", "series_uid", "sop_uid", "frame_number")}
    arrays = {name: pa.array(column.tolist()) for name, column in columns.items()}
    return pa.table({"image_id": pa.array(ids), "name": pa.array(names, pa.binary()), **arrays})


def _hashed(found: LabelFile, files: StoreFiles, pseudonyms: Pseudonyms | None) -> LabelFile:
    """Return a label file with the identifiers of a store: hashed, where the store's are."""
    if not files.key_check and pseudonyms is None:
        return found
    if not files.key_check:
        raise UsageError(f"{files.path}: holds no hashed identifiers. Leave out --key")
    if pseudonyms is None:
        raise UsageError(f"{files.path}: holds hashed identifiers. Give --key, the key file it was prepared with")
    if pseudonyms.check != files.key_check:
        raise BadInputError(f"{files.path}: prepared with another key. Give the key file it was prepared with")
    sop_uids = set(files.index["sop_uid"])
    instances = {one: pseudonyms.of("instance", one) for one in found.ids.image_ids}
    ids = [
        hashed if (hashed := instances[one]) in sop_uids else pseudonyms.of("image", one) for one in found.ids.image_ids
    ]
    assert found.table is not None, "a file that is no valid label file was refused"
    studies = [pseudonyms.of("study", one) for one in found.table.study_ids]
    table = replace(found.table, image_ids=ids, study_ids=studies)
    return LabelFile(ids=replace(found.ids, image_ids=ids, study_ids=studies), table=table)


def _refusals(files: StoreFiles) -> list[Refusal]:
    columns = read_refusals(files.path, files.manifest)
    return [Refusal(*words) for words in zip(*(columns[name] for name in ("path", "reason", "detail")), strict=True)]


@contextmanager
def _alone_in(store: Path) -> Iterator[None]:
    """Keep other processes from writing to a store."""
    try:
        lock = lock_folder(store)
    except BlockingIOError:
        raise StoreError(f"{store}: another process is writing to it. Wait for it") from None
    except OSError as error:
        raise BadInputError(f"{store}: cannot be written: {error.strerror}. Labels are kept in the store") from error
    try:
        yield
    finally:
        os.close(lock)
