"""Mending a store from the raw files: damaged slices are read again and written where they lay, and nothing else.

What makes a slice the right one is the checksum of its HU. So it does not matter how often this is killed and begun
again, whether files were renamed since, or whether the store's identifiers are hashed.
"""

# M headers

import os
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from rsna_e2e.errors import BadInputError
from rsna_e2e.files import lock_folder
from rsna_e2e.prepare.jobs import ReadHeaders, available_cores
from rsna_e2e.prepare.mend import MendShard, ShardSlice, WhyNot
from rsna_e2e.prepare.pool import Pool
from rsna_e2e.prepare.tables import HeaderOf, Table, read_part, table_to_headers, to_numpy
from rsna_e2e.records import Progress, RawFile, no_progress, printable
from rsna_e2e.sources import Source, open_source
from rsna_e2e.store import Damage, StoreError, StoreFiles, Verification, verify_shard, verify_store
from rsna_e2e.store.layout import PREPARE_AGAIN, SHARDS

HEADERS_PER_JOB = 256

Place = tuple[int, int, float, float, float]  # rows, columns, ImagePositionPatient in mm


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairReport:
    """What was mended. left: what could not be, and why."""

    store: Path
    n_mended_slices: int
    n_mended_shards: int
    left: tuple[Damage, ...]
    elapsed_s: float


def repair(store: Path, raw: Path, *, n_jobs: int | None = None, progress: Progress = no_progress) -> RepairReport:
    """Verify a store and mend what is damaged from the files that it was prepared from.

    raw: as for `prepare`. Slices that are whole keep their bytes, and the store its data hash. Raises StoreError when
    a table of the store is damaged, or another process is mending it, BadInputError when there is no `raw` or the store
    cannot be written to, OutOfResourcesError when the disk is full.
    """
    started_s = time.perf_counter()
    source = open_source(raw)
    n_jobs = n_jobs or available_cores()
    with _alone_in(store) as notes:
        found = verify_store(store, n_threads=n_jobs, progress=progress)
        _check_tables(found)
        files = StoreFiles.open(store)
        wanted = [damage.row for damage in found.damages if damage.row is not None]
        with Pool(n_jobs) as pool:
            headers = _find_headers(source, pool, notes, files, wanted, progress) if wanted else {}
            jobs = _jobs(source, files, found, headers)
            why_not: WhyNot = {}
            for done, (_, not_mended) in enumerate(pool.run(jobs), start=1):
                why_not |= not_mended
                progress(done, len(jobs), f"mending shards, {len(why_not)} slices cannot be mended")
        left = [damage for damage in found.damages if not _is_in_shard(damage, files)]
        for name, rows in files.rows_by_shard():
            if files.shard(name) in {job.path for job in jobs}:
                left += [_explained(damage, why_not) for damage in verify_shard(files, name, rows)]
    return RepairReport(
        store=store,
        n_mended_slices=len(wanted) - sum(damage.row is not None for damage in left),
        n_mended_shards=len(jobs) - len({damage.file for damage in left if _is_in_shard(damage, files)}),
        left=tuple(left),
        elapsed_s=time.perf_counter() - started_s,
    )


@contextmanager
def _alone_in(store: Path) -> Iterator[Path]:
    """Keep other processes from mending `store`; yield a folder for notes, which goes again."""
    if not store.is_dir():
        raise StoreError(f"{store}: no such folder. Give the store to mend")
    try:
        lock = lock_folder(store)
    except BlockingIOError:
        raise StoreError(f"{store}: another process is mending it. Wait for it") from None
    notes = store.resolve().with_name(f"{store.resolve().name}.repair")
    try:
        shutil.rmtree(notes, ignore_errors=True)  # of a repair that was killed, like the files below
        notes.mkdir()
        for leftover in (store / SHARDS).glob("*.tmp-*"):
            leftover.unlink()
        yield notes
    except PermissionError as error:
        raise BadInputError(f"{error.filename}: cannot be written. Mending a store needs to write there") from error
    finally:
        shutil.rmtree(notes, ignore_errors=True)
        os.close(lock)


def _check_tables(found: Verification) -> None:
    for damage in found.damages:
        if "/" not in damage.file and not damage.is_foreign:
            raise StoreError(
                f"{found.store / damage.file}: damaged ({damage.what}), and not made of slices. {PREPARE_AGAIN}"
            )


def _is_in_shard(damage: Damage, files: StoreFiles) -> bool:
    return damage.file.removeprefix(f"{SHARDS}/") in files.manifest["shards"]


def _explained(damage: Damage, why_not: WhyNot) -> Damage:
    return replace(damage, what=why_not[damage.row]) if damage.row in why_not else damage


def _jobs(
    source: Source, files: StoreFiles, found: Verification, headers: Mapping[int, Sequence[HeaderOf]]
) -> list[MendShard]:
    """Return what is to be done to each damaged shard. headers: of the files that may hold a slice, by its row."""
    damages: dict[str, list[Damage]] = defaultdict(list)
    for damage in found.damages:
        damages[damage.file.removeprefix(f"{SHARDS}/")].append(damage)
    jobs = []
    for name, rows in files.rows_by_shard():
        if name in damages:
            damaged = {damage.row for damage in damages[name]}
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
            jobs.append(
                MendShard(
                    source=source,
                    path=files.shard(name),
                    slices=slices,
                    is_whole_file=None in damaged,
                    n_bytes=files.manifest["shards"][name],
                    compression=files.compression,
                )
            )
    return jobs


def _find_headers(
    source: Source, pool: Pool, notes: Path, files: StoreFiles, rows: Sequence[int], progress: Progress
) -> dict[int, list[HeaderOf]]:
    """Return the headers of the raw files that show the place of each slice.

    Files that are called as the slices were are read first; all others only for slices whose place none of those shows,
    which need not be the one with the right pixels.
    """
    raw_files, _ = source.find()
    image_ids = {files.index["image_id"][row] for row in rows}
    image_ids |= {image_id.rpartition("_")[0] for image_id in image_ids}  # of frames: their file is called so
    is_likely = [printable(PurePath(raw_file.name).stem) in image_ids for raw_file in raw_files]
    found: dict[int, list[HeaderOf]] = {}
    for turn in (True, False):
        of_turn = [raw_file for raw_file, likely in zip(raw_files, is_likely, strict=True) if likely is turn]
        missing = [row for row in rows if row not in found]
        for table in _read_headers(source, of_turn if missing else [], pool, notes, progress):
            for row, headers in _matching(table, files, missing).items():
                found.setdefault(row, []).extend(headers)
    return found


def _read_headers(
    source: Source, raw_files: Sequence[RawFile], pool: Pool, notes: Path, progress: Progress
) -> Iterator[Table]:
    jobs = [
        ReadHeaders(source, raw_files[i : i + HEADERS_PER_JOB], notes / f"{i:09d}.parquet")
        for i in range(0, len(raw_files), HEADERS_PER_JOB)
    ]
    for done, (number, _) in enumerate(pool.run(jobs), start=1):
        yield read_part(jobs[number].part)[0]
        jobs[number].part.unlink()
        progress(min(done * HEADERS_PER_JOB, len(raw_files)), len(raw_files), "looking for the damaged slices")


def _matching(table: Table, files: StoreFiles, rows: Sequence[int]) -> dict[int, list[HeaderOf]]:
    """Return, for each slice, which of the headers have its size and position; its own SOP instance first."""
    shapes_M = zip(*(to_numpy(table, name).tolist() for name in ("rows", "columns")), strict=True)
    positions_M = to_numpy(table, "image_position_mm").tolist()
    at: dict[Place, list[int]] = defaultdict(list)
    for i, (shape, position) in enumerate(zip(shapes_M, positions_M, strict=True)):
        at[(*shape, *position)].append(i)
    found = {}
    for row in rows:
        position = [float(files.index[f"ipp_{axis}_mm"][row]) for axis in "xyz"]
        hits = at.get((*files.shape(row), *position), [])
        if hits:
            headers = table_to_headers(table.take(hits))
            sop_uid = files.index["sop_uid"][row]
            found[row] = sorted(headers, key=lambda of: of.header.record.sop_uid != sop_uid)
    return found
