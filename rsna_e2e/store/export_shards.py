"""Writes a store as HDF5 shards, in the layout of the EC601 solution of RSNA-STR Pulmonary Embolism 2020.

A shard `npy-<k>.hdf5`, k from 1, has a group for each study and in it a dataset for each slice, int16 HU without
compression. Groups keep the order in which slices were written. `npy-pe-pos.hdf5` has the positive slices once more.
"""

# N slices

import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rsna_e2e import __version__
from rsna_e2e.core.errors import BadInputError, DiskFullError, UsageError
from rsna_e2e.core.files import (
    entries,
    is_inside,
    lock_folder,
    make_folder,
    read_json,
    sealed,
    sha256_of,
    unsealed,
    write_json,
)
from rsna_e2e.core.hdf5 import ALIGNMENT_BYTES, new_file
from rsna_e2e.core.records import Progress, Rows, no_progress
from rsna_e2e.core.table_files import TableFile
from rsna_e2e.dicom.sources.hdf5 import KEY, MANIFEST, MOST_SLICES, POSITIVES
from rsna_e2e.store.manifest import is_plain_file
from rsna_e2e.store.reader import Store, check_labels
from rsna_e2e.tasks.catalogue import get_task
from rsna_e2e.tasks.labels import read_image_ids
from rsna_e2e.tasks.task import Task

SHARD_SLICES = 100_000  # as published

_SLICE_BYTES = 2 * ALIGNMENT_BYTES  # of a file for each slice, beside its values: headers of HDF5, and alignment

Keys = list[tuple[str, str]]  # of each slice [N]: the names of its group and its dataset


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What was written. n_positive: slices in the file of positives, which is not there without any. n_kept: files that
    an earlier attempt had finished. n_not_in_labels: slices that the labels do not name, which come last."""

    out: Path
    n_shards: int
    n_slices: int
    n_positive: int
    n_kept: int
    n_not_in_labels: int
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class _Shard:
    """A file to write, and the rows of the store in it."""

    name: str
    rows: Rows


def export_shards(
    store: Store,
    out: Path,
    *,
    task: Task | None = None,
    slices_per_shard: int = SHARD_SLICES,
    labels: TableFile | None = None,
    progress: Progress = no_progress,
) -> ExportReport:
    """Write the slices of a store as shards in the folder `out`, with their checksums in `shards.json`.

    task: whose headline label makes slices positive; by default that whose labels the store was opened with. labels:
    slices come in the order in which this table of the task names them, then those that it does not; by default in the
    order of the store. Called again after an interruption, it keeps the files that are whole. Raises UsageError for a
    number of slices that is not read back; BadInputError for X-rays, when `out` holds something else, names of slices
    cannot be keys, or the store has labels of another task; DiskFullError before anything is written, where that shows.
    """
    started_s = time.perf_counter()
    if not 1 <= slices_per_shard <= MOST_SLICES:
        raise UsageError(f"{slices_per_shard} slices in a shard: expected 1 to {MOST_SLICES:,}")
    if is_inside(out, store.path):
        raise UsageError(f"{out}: must not lie inside the store {store.path}. Choose another folder")
    task = task or get_task(store.task_name)
    check_labels(store, task)
    keys = _keys(store)
    order, n_not_in_labels = (np.arange(len(store)), 0) if labels is None else _order(store, keys, labels, task)
    shards = _divide(store, order, slices_per_shard, task)
    about = _about(store, slices_per_shard, labels)
    with _folder(out, about) as finished:
        n_kept = _write_missing(store, keys, out, shards, about, finished, progress)
    return ExportReport(
        out=out,
        n_shards=-(-len(store) // slices_per_shard),
        n_slices=len(store),
        n_positive=sum(len(shard.rows) for shard in shards if shard.name == POSITIVES),
        n_kept=n_kept,
        n_not_in_labels=n_not_in_labels,
        elapsed_s=time.perf_counter() - started_s,
    )


def _about(store: Store, slices_per_shard: int, labels: TableFile | None) -> dict[str, Any]:
    """Return what all files of a folder have in common, for its manifest."""
    return {
        "format": "rsna_e2e HDF5 shards",
        "data_hash": store.data_hash,
        "slices_per_shard": slices_per_shard,
        "order": "store" if labels is None else f"labels {labels.sha256()}",
    }


def _keys(store: Store) -> Keys:
    """Return the key of each slice: its study, and its SOP instance; frames of one are told apart by their number.

    Raises BadInputError for a name that is no key, for two slices of one key, and for X-rays.
    """
    if store.values == "grey":
        raise BadInputError(f"{store.path}: holds X-rays; shards are of HU. Give a store of CT")
    studies, sop_uids, frames = (store.index[name].tolist() for name in ("study_uid", "sop_uid", "frame_number"))
    n_frames = Counter(zip(studies, store.index["series_key"].tolist(), sop_uids, strict=True))
    several = {(study, sop_uid) for (study, _, sop_uid), n in n_frames.items() if n > 1}
    keys = [
        (study, f"{sop_uid}_{frame}" if frame > 1 or (study, sop_uid) in several else sop_uid)
        for study, sop_uid, frame in zip(studies, sop_uids, frames, strict=True)
    ]
    row_of: dict[tuple[str, str], int] = {}
    for row, key in enumerate(keys):
        if not all(map(KEY.fullmatch, key)):
            raise BadInputError(
                f"{store.path}: series {_short(store, row)}: its StudyInstanceUID, or the SOPInstanceUID of a slice, "
                "cannot be a name in an HDF5 file, which has up to 64 letters, digits, dots, dashes and underscores. "
                "Prepare the store with --deidentify"
            )
        if (first := row_of.setdefault(key, row)) != row:
            raise BadInputError(
                f"{store.path}: series {_short(store, first)} and {_short(store, row)} of a study share a "
                "SOPInstanceUID, so shards do not tell their slices apart. Prepare a store without one of them"
            )
    return keys


def _short(store: Store, row: int) -> str:
    return str(store.index["series_key"][row][:8])


def _order(store: Store, keys: Keys, labels: TableFile, task: Task) -> tuple[Rows, int]:
    """Return the rows of the store [N] as a table names them, then the others, and the number of these.

    Its IDs are image ids or SOP instance UIDs, whichever name more slices. Raises BadInputError when neither does.
    """
    named = dict.fromkeys(read_image_ids(labels, task))
    image_ids, sop_uids = store.index["image_id"].tolist(), [sop_uid for _, sop_uid in keys]
    row_of = max(
        ({one: row for row, one in enumerate(ids)} for ids in (image_ids, sop_uids)),
        key=lambda row_of: len(named.keys() & row_of.keys()),
    )
    first = [row_of[one] for one in named if one in row_of]
    if not first:
        why = ". Its identifiers are pseudonyms, those of the labels are not" if store.key_check else ""
        raise BadInputError(
            f"{labels}: names none of the slices of {store.path}{why}. Leave --labels away for the order of the store"
        )
    rest = np.setdiff1d(np.arange(len(store)), first)
    return np.concatenate([np.array(first, dtype=np.int64), rest]), len(rest)


def _divide(store: Store, order: Rows, slices_per_shard: int, task: Task) -> list[_Shard]:
    """Return the files to write: shards of so many slices, and the positives of the label that heads the task."""
    is_positive_N = store.labels[:, task.headline_index] > 0
    parts = [order[first : first + slices_per_shard] for first in range(0, len(order), slices_per_shard)]
    shards = [_Shard(f"npy-{number}.hdf5", rows) for number, rows in enumerate(parts, start=1)]
    positives = order[is_positive_N[order]]
    return [*shards, *([_Shard(POSITIVES, positives)] if len(positives) else [])]


@contextmanager
def _folder(out: Path, about: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Hold the folder of the shards against other processes, and yield its finished files as in the manifest.

    Raises BadInputError when it holds something else.
    """
    make_folder(out)
    try:
        lock = lock_folder(out)
    except BlockingIOError:
        raise BadInputError(f"{out}: another process is writing there. Wait for it or choose another folder") from None
    try:
        finished = _read_manifest(out, about) if entries(out) else {}
        for unfinished in out.glob("npy-*.hdf5.tmp-*"):  # of a process that was killed
            unfinished.unlink()
        _write_manifest(out, about, finished)
        yield finished
    finally:
        os.close(lock)


def _read_manifest(out: Path, about: dict[str, Any]) -> dict[str, Any]:
    try:
        manifest = unsealed(read_json(out / MANIFEST))
    except (OSError, ValueError):
        raise BadInputError(
            f"{out}: exists, and has no {MANIFEST} of export-shards, or a damaged one. Choose another folder, or "
            "remove it first"
        ) from None
    if {name: manifest.get(name) for name in about} != about or not isinstance(manifest.get("files"), dict):
        raise BadInputError(
            f"{out}: holds shards of another store, order or number of slices. Choose another folder, or remove it "
            "first"
        )
    return dict(manifest["files"])


def _write_manifest(out: Path, about: dict[str, Any], files: dict[str, Any]) -> None:
    write_json(out / MANIFEST, sealed(about | {"created_by": f"rsna_e2e {__version__}", "files": files}))


def _write_missing(
    store: Store,
    keys: Keys,
    out: Path,
    shards: Sequence[_Shard],
    about: dict[str, Any],
    finished: dict[str, Any],
    progress: Progress,
) -> int:
    """Write the files that are not whole, and return how many were."""
    total, done = sum(len(shard.rows) for shard in shards), 0
    missing = []
    for shard in shards:
        if _is_whole(out / shard.name, finished.get(shard.name)):
            done += len(shard.rows)
            progress(done, total, f"{shard.name} is there")
        else:
            missing.append(shard)
    _check_space(store, out, missing)
    for shard in missing:
        path = out / shard.name
        with new_file(path, n_bytes=_n_bytes(store, shard)) as file:
            for row in shard.rows.tolist():
                study, name = keys[row]
                group = file[study] if study in file else file.create_group(study, track_order=True)
                group.create_dataset(name, data=store.read_slice(row))
                done += 1
                progress(done, total, shard.name)
        n_bytes = path.stat().st_size
        finished[shard.name] = {"sha256": sha256_of(path), "n_bytes": n_bytes, "n_slices": len(shard.rows)}
        _write_manifest(out, about, finished)
    return len(shards) - len(missing)


def _is_whole(path: Path, known: Any) -> bool:
    """Whether a file is there as the manifest knows it."""
    if not isinstance(known, dict) or not is_plain_file(path) or path.stat().st_size != known.get("n_bytes"):
        return False
    return sha256_of(path) == known.get("sha256")


def _n_bytes(store: Store, shard: _Shard) -> int:
    """Return how many bytes the slices of a file take."""
    shapes = (store.index[name][shard.rows].astype(np.int64) for name in ("rows", "columns"))
    return int(2 * np.prod(list(shapes), axis=0).sum())


def _check_space(store: Store, out: Path, missing: Sequence[_Shard]) -> None:
    needed = sum(_n_bytes(store, shard) + _SLICE_BYTES * len(shard.rows) for shard in missing)
    if shutil.disk_usage(out).free < needed:
        raise DiskFullError(
            f"{out}: the disk is too small: the shards need {needed:,} bytes. Free some space or choose another disk"
        )
