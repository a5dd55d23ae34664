"""Mends a store from the raw files: damaged slices are read again and written where they were, and nothing else.

A slice is recognised by the checksum of its HU. So this may be killed and begun again, files may have been renamed
since, and the store's identifiers may be hashed.
"""

# M headers

import errno
import math
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.files import lock_folder
from rsna_e2e.core.process import available_cores
from rsna_e2e.core.records import Progress, RawFile, Rows, no_progress
from rsna_e2e.dicom.image_ids import names_of
from rsna_e2e.dicom.sources.files import Source, open_source
from rsna_e2e.store import Damage, StoreError, StoreFiles, Verification, verify_shard, verify_store
from rsna_e2e.store.layout import PREPARE_AGAIN, SHARDS
from rsna_e2e.store.manifest import is_plain_file, read_manifest
from rsna_e2e.store.prepare.jobs import ReadHeaders
from rsna_e2e.store.prepare.mend import LAID_OUT_OTHERWISE, MendShard, ShardSlice, WhyNot
from rsna_e2e.store.prepare.pool import Pool
from rsna_e2e.store.prepare.reading import Reading
from rsna_e2e.store.prepare.run import files_per_job
from rsna_e2e.store.prepare.tables import HeaderOf, Table, read_note, table_to_headers, to_numpy
from rsna_e2e.store.shards import Shape

_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)

Place = tuple[Shape, tuple[float, ...] | str]  # ImagePositionPatient in mm, or the SOP instance UID where there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairReport:
    """The result of mending a store. left: damage that remains, and why."""

    store: Path
    n_mended_slices: int
    n_mended_shards: int
    left: tuple[Damage, ...]
    elapsed_s: float


def repair(store: Path, raw: Path, *, n_jobs: int | None = None, progress: Progress = no_progress) -> RepairReport:
    """Verify a store and mend what is damaged from the files that it was prepared from.

    raw: as for `prepare`. Slices that are whole keep their bytes, and the store its data hash; label sets stay as they
    are, and so do files that do not belong to the store. Raises StoreError when `store` is not a store, a table of it
    is damaged, or another process is mending it, BadInputError when there is no `raw` or the store cannot be written
    to, OutOfResourcesError when the disk is full.
    """
    started_s = time.perf_counter()
    source = open_source(raw)
    n_jobs = n_jobs or available_cores()
    with _alone_in(store), TemporaryDirectory(prefix="rsna_e2e-") as notes:  # which hold names, so only their user's
        found = verify_store(store, n_threads=n_jobs, progress=progress)
        _check_tables(found)
        files = StoreFiles.open(store)
        wanted = [damage.row for damage in found.damages if damage.row is not None]
        with Pool(n_jobs) as pool:
            search = _Search(source, pool, Path(notes), files, progress)
            why_not = _mend(search, found, wanted)
        left = [
            damage
            for damage in found.damages
            if not damage.is_foreign and not damage.of_set and not _is_in_shard(damage, files)
        ]
        for name, rows in files.rows_by_shard():
            if name in why_not:
                left += [
                    replace(damage, what=why_not[name].get(damage.row, damage.what))
                    for damage in verify_shard(files, name, rows)
                ]
    return RepairReport(
        store=store,
        n_mended_slices=len(wanted) - sum(damage.row is not None for damage in left),
        n_mended_shards=len(why_not) - len({damage.file for damage in left if _is_in_shard(damage, files)}),
        left=tuple(left),
        elapsed_s=time.perf_counter() - started_s,
    )


@contextmanager
def _alone_in(store: Path) -> Iterator[None]:
    """Keep other processes from mending `store`, once it is known to be one."""
    manifest = read_manifest(store)
    if (store / SHARDS).is_symlink():
        raise StoreError(f"{store / SHARDS}: a link; a store has a folder here. Put the folder in its place")
    try:
        lock = lock_folder(store)
    except BlockingIOError:
        raise StoreError(f"{store}: another process is mending it. Wait for it") from None
    try:
        for name in manifest.shards:
            for leftover in (store / SHARDS).glob(f"{name}.tmp-*"):  # of a repair that was killed
                if is_plain_file(leftover):
                    leftover.unlink()
        yield
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
        raise BadInputError(f"{error.filename}: cannot be written. Mending a store needs to write there") from error
    finally:
        os.close(lock)


def _check_tables(found: Verification) -> None:
    for damage in found.damages:
        if damage.is_in_table:
            raise StoreError(f"{found.store / damage.file}: {damage.what}; {PREPARE_AGAIN}")


def _is_in_shard(damage: Damage, files: StoreFiles) -> bool:
    return damage.file.removeprefix(f"{SHARDS}/") in files.manifest.shards


@dataclass(frozen=True, slots=True)
class _Search:
    """A search for slices of a store in raw files. notes: folder for the notes of worker processes."""

    source: Source
    pool: Pool
    notes: Path
    files: StoreFiles
    progress: Progress


def _mend(search: _Search, found: Verification, wanted: Sequence[int]) -> dict[str, WhyNot]:
    """Mend the damage in shards; return for each damaged shard, by name, what could not be mended, and why.

    Files with the names of the damaged slices are read first, all others only for slices not found in these.
    """
    damages: dict[str, list[Damage]] = defaultdict(list)
    for damage in found.damages:
        if _is_in_shard(damage, search.files):
            damages[damage.file.removeprefix(f"{SHARDS}/")].append(damage)
    names = set(damages)
    why_not: dict[str, WhyNot] = {}
    headers: dict[int, list[HeaderOf]] = {}
    for raw_files in _in_turns(search, wanted):
        found_now = _find_headers(search, raw_files, wanted)
        headers |= found_now
        if why_not:  # in the second turn
            names = {search.files.index["shard"][row] for row in found_now}
        jobs = [
            _job(search, name, rows, damages[name], headers)
            for name, rows in search.files.rows_by_shard()
            if name in names
        ]
        for done, (number, not_mended) in enumerate(search.pool.run(jobs), start=1):
            why_not[jobs[number].path.name] = not_mended
            n_left = sum(len(of_shard) for of_shard in why_not.values())
            search.progress(done, len(jobs), f"mending shards, {n_left} things cannot be mended")
        wanted = [
            row
            for of_shard in why_not.values()
            for row, reason in of_shard.items()
            if row is not None and reason != LAID_OUT_OTHERWISE
        ]
    return why_not


def _in_turns(search: _Search, wanted: Sequence[int]) -> tuple[list[RawFile], list[RawFile]]:
    """Return the raw files with the names of these slices, and all others."""
    raw_files = search.source.find()[0] if wanted else []
    image_ids = {search.files.index["image_id"][row] for row in wanted}
    image_ids |= {image_id.rpartition("_")[0] for image_id in image_ids}  # of frames: their file is called so
    turns: tuple[list[RawFile], list[RawFile]] = ([], [])
    for raw_file in raw_files:
        turns[image_ids.isdisjoint(names_of(raw_file.name))].append(raw_file)
    return turns


def _job(
    search: _Search, name: str, rows: Rows, damages: Sequence[Damage], headers: Mapping[int, Sequence[HeaderOf]]
) -> MendShard:
    """Return the job that mends a shard. headers: of raw slices that may be the same, by row of the index."""
    files = search.files
    damaged = {damage.row for damage in damages}
    slices = [
        ShardSlice(
            row=row,
            shape=files.shape(row),
            pixels=files.pixels(row),
            is_damaged=row in damaged,
            headers=headers.get(row, ()),
        )
        for row in rows.tolist()
    ]
    return MendShard(
        source=search.source,
        path=files.shard(name),
        slices=slices,
        is_whole_file=None in damaged,
        n_bytes=files.manifest.shards[name],
        frame=files.manifest.frames[name],
        compression=files.compression,
        values=files.manifest.values,
    )


def _find_headers(search: _Search, raw_files: Sequence[RawFile], rows: Sequence[int]) -> dict[int, list[HeaderOf]]:
    """Return the headers of the files at the position of each slice, by row of the index."""
    found: dict[int, list[HeaderOf]] = {}
    for table in _read_headers(search, raw_files if rows else []):
        for row, headers in _matching(table, search.files, rows).items():
            found.setdefault(row, []).extend(headers)
    return found


def _read_headers(search: _Search, raw_files: Sequence[RawFile]) -> Iterator[Table]:
    size = files_per_job(search.source)
    reading = Reading(modality="xr" if search.files.manifest.values == "grey" else "ct")
    jobs = [
        ReadHeaders(search.source, raw_files[i : i + size], search.notes / f"{i:09d}.arrow", reading)
        for i in range(0, len(raw_files), size)
    ]
    for done, (number, _) in enumerate(search.pool.run(jobs), start=1):
        yield read_note(jobs[number].note)[0]
        jobs[number].note.unlink()
        n_read = min(done * size, len(raw_files))
        search.progress(n_read, len(raw_files), "looking for the damaged slices")


def _matching(table: Table, files: StoreFiles, rows: Sequence[int]) -> dict[int, list[HeaderOf]]:
    """Return, for each slice, which of the headers have its size and place; its own SOP instance first."""
    names = ("rows", "columns", "image_position_mm", "sop_uid")
    at: dict[Place, list[int]] = defaultdict(list)
    for i, (n_rows, n_columns, *where) in enumerate(
        zip(*(to_numpy(table, name).tolist() for name in names), strict=True)
    ):
        at[_place((n_rows, n_columns), *where)].append(i)
    found = {}
    for row in rows:
        position = [float(files.index[f"ipp_{axis}_mm"][row]) for axis in "xyz"]
        sop_uid = files.index["sop_uid"][row]
        hits = at.get(_place(files.shape(row), position, sop_uid), [])
        if hits:
            headers = table_to_headers(table.take(hits))
            found[row] = sorted(headers, key=lambda of: of.header.record.sop_uid != sop_uid)
    return found


def _place(shape: Shape, position_mm: Sequence[float], sop_uid: str) -> Place:
    return shape, sop_uid if math.isnan(position_mm[0]) else tuple(position_mm)
