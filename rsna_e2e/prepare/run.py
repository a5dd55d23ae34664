"""The whole of prepare, from the raw folder to the finished store."""

# N slices, L labels

import errno
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rsna_e2e.errors import BadInputError, OutOfResourcesError, UsageError
from rsna_e2e.prepare.index import index_columns, join_labels
from rsna_e2e.prepare.inputs import Inputs, read_inputs
from rsna_e2e.prepare.jobs import DigestSlices, ReadHeaders, WriteShard, available_cores
from rsna_e2e.prepare.plan import Plan, plan_series, plan_shards
from rsna_e2e.prepare.pool import Pool
from rsna_e2e.prepare.ray_pool import RayPool
from rsna_e2e.prepare.report import PartReport, PrepareReport, make_report
from rsna_e2e.prepare.tables import HeaderOf, Table, concatenate, read_part, to_numpy
from rsna_e2e.records import Progress, Refusal, no_progress
from rsna_e2e.sources import Source
from rsna_e2e.store import StoreWriter
from rsna_e2e.tasks import Task

AnyPool = Pool | RayPool

# Slices of a shard take about this much: enough to write at the disk's speed, little enough to keep all workers busy
# to the end and to lose little when one dies.
SHARD_BYTES = 128 * 1024 * 1024

HEADERS_PER_JOB = 256
PAGE_BYTES = 4096  # slices in a shard begin on a page
TABLE_BYTES = 1024 * 1024  # room for the tables, generously


@dataclass(frozen=True, slots=True)
class Part:
    """What one of `n` machines does: every n-th shard, from the `number`-th on (1 to n)."""

    number: int
    n: int

    def folder(self, store: Path) -> Path:
        """Where it is put."""
        return store.with_name(f"{store.name}.part-{self.number}-of-{self.n}")


def prepare(
    raw: Path,
    store: Path,
    *,
    task: Task,
    labels: Path | None = None,
    n_folds: int = 5,
    seed: int = 0,
    n_jobs: int | None = None,
    on_ray: bool = False,
    parts: Sequence[Path] = (),
    progress: Progress = no_progress,
) -> PrepareReport:
    """Make a study store of the DICOM files in `raw`; files that cannot be taken are recorded with their reason.

    labels: the label file, by default the one file `*train*.csv` or `*train*.csv.gz` in `raw`, if there is one.
    seed: decides the folds among equals. n_jobs: worker processes, by default one for each core; on_ray: on the cores
    of a Ray cluster, whose machines see the same files, instead. parts: what `prepare_part` left; shards that none of
    them holds are made. The store appears whole or not at all; interrupted and called again, this goes on with what was
    done. Raises BadInputError when there is nothing to take, StoreError when `store` exists, and OutOfResourcesError
    when the disk is too small.
    """
    started_s = time.perf_counter()
    if n_folds < 1:
        raise UsageError(f"folds {n_folds}: must be at least 1")
    pool_of_workers = _pool(n_jobs, on_ray=on_ray)
    inputs = read_inputs(raw, store, labels, task, rules=(HEADERS_PER_JOB, SHARD_BYTES))
    with StoreWriter(store, inputs=inputs.digest) as writer, pool_of_workers as pool:
        writer.adopt(parts)
        planned = _plan(inputs, pool, writer, progress)
        with _enough_space(store, planned, range(len(planned.shards))):
            stored, broken = _write_shards(inputs, planned, pool, writer, range(len(planned.shards)), progress)
            refusals = sorted([*planned.refusals, *broken], key=lambda refusal: (refusal.path, refusal.reason))
            if not len(stored):
                raise BadInputError(_nothing_taken(raw, refusals))
            columns = {name: to_numpy(stored, name) for name in stored.column_names}
            labels_NL = join_labels(columns["image_id"].tolist(), inputs.labels)
            index = index_columns(columns, labels_NL, n_folds=n_folds, seed=seed)
            data_hash = writer.commit(task, index=index, labels=labels_NL, refusals=refusals)
    elapsed_s = time.perf_counter() - started_s
    return make_report(store, data_hash, index, labels_NL, inputs.labels, refusals, task, elapsed_s=elapsed_s)


def prepare_part(
    raw: Path,
    store: Path,
    part: Part,
    *,
    task: Task,
    labels: Path | None = None,
    n_jobs: int | None = None,
    on_ray: bool = False,
    progress: Progress = no_progress,
) -> PartReport:
    """Do one machine's part of `prepare`, for which it reads all headers; `prepare` with all parts makes the store.

    All machines see the same files, with the same modification times. Raises what `prepare` raises.
    """
    started_s = time.perf_counter()
    if not 1 <= part.number <= part.n:
        raise UsageError(f"part {part.number} of {part.n}: the first number goes from 1 to the second")
    inputs = read_inputs(raw, store, labels, task, rules=(HEADERS_PER_JOB, SHARD_BYTES))
    with (
        StoreWriter(store, inputs=inputs.digest, folder=part.folder(store)) as writer,
        _pool(n_jobs, on_ray=on_ray) as pool,
    ):
        planned = _plan(inputs, pool, writer, progress)
        numbers = range(part.number - 1, len(planned.shards), part.n)
        with _enough_space(store, planned, numbers):
            stored, _ = _write_shards(inputs, planned, pool, writer, numbers, progress)
        writer.keep()
    return PartReport(
        part=part.folder(store),
        n_shards=len(numbers),
        n_slices=len(stored),
        elapsed_s=time.perf_counter() - started_s,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Planned:
    """Headers, which of them are taken where, and what is not; shards: (begin, end) in the plan."""

    headers: Table
    plan: Plan
    shards: Sequence[tuple[int, int]]
    refusals: Sequence[Refusal]


def _pool(n_jobs: int | None, *, on_ray: bool) -> AnyPool:
    if n_jobs is not None and (n_jobs < 1 or on_ray):
        raise UsageError(f"jobs {n_jobs}: must be at least 1, and is for Ray to choose on a cluster")
    return RayPool() if on_ray else Pool(n_jobs or available_cores())


def _plan(inputs: Inputs, pool: AnyPool, writer: StoreWriter, progress: Progress) -> _Planned:
    headers, refused = _read_headers(inputs, pool, writer.notes_folder, progress)
    digests = partial(_digests, pool, inputs.source)
    plan, misplaced = plan_series(headers, inputs.labels.image_ids, digests=digests)
    shards = plan_shards(headers, plan, shard_bytes=SHARD_BYTES)
    return _Planned(headers=headers, plan=plan, shards=shards, refusals=[*inputs.not_found, *refused, *misplaced])


def _read_headers(inputs: Inputs, pool: AnyPool, notes: Path, progress: Progress) -> tuple[Table, list[Refusal]]:
    """Return the headers of files in their order, and the refusals; what is in `notes` already is not read again."""
    files = inputs.files
    jobs = [
        ReadHeaders(
            inputs.source, files[i : i + HEADERS_PER_JOB], notes / f"headers-{i // HEADERS_PER_JOB:05d}.parquet"
        )
        for i in range(0, len(files), HEADERS_PER_JOB)
    ]
    missing = [job for job in jobs if not job.part.exists()]
    done = len(files) - sum(len(job.files) for job in missing)
    n_refused = len(inputs.not_found)
    for number, n_refused_here in pool.run(missing):
        done += len(missing[number].files)
        n_refused += n_refused_here
        progress(done, len(files), f"headers, {n_refused} refused")
    parts = [read_part(job.part) for job in jobs]
    return concatenate([table for table, _ in parts]), [refusal for _, refused in parts for refusal in refused]


def _digests(pool: AnyPool, source: Source, headers: Sequence[HeaderOf]) -> list[str | None]:
    jobs = [DigestSlices(source, headers[i : i + HEADERS_PER_JOB]) for i in range(0, len(headers), HEADERS_PER_JOB)]
    results = dict(pool.run(jobs))
    return [digest for number in range(len(jobs)) for digest in results[number]]


def _write_shards(
    inputs: Inputs,
    planned: _Planned,
    pool: AnyPool,
    writer: StoreWriter,
    numbers: Sequence[int],
    progress: Progress,
) -> tuple[Table, list[Refusal]]:
    """Return what is stored in these shards, in order, and the refusals; those that are there stay as they are."""
    n_slices = [end - begin for begin, end in planned.shards]
    parts = {number: writer.notes_folder / f"shard-{number:05d}.parquet" for number in numbers}
    missing = [number for number, part in parts.items() if not part.exists()]
    total = sum(n_slices[number] for number in numbers)
    done = total - sum(n_slices[number] for number in missing)
    n_refused = len(planned.refusals)

    def jobs() -> Iterator[WriteShard]:
        for number in missing:
            places = slice(*planned.shards[number])
            taken = planned.headers.take(planned.plan.rows[places])
            taken = taken.append_column("series_key", [planned.plan.series_keys[places].tolist()])
            taken = taken.append_column("position_mm", [planned.plan.position_mm[places]])
            shard = writer.shards_folder / f"{number:05d}.h5"
            yield WriteShard(inputs.source, taken, shard, parts[number], inputs.task.windows_hu)

    for job, n_refused_here in pool.run(jobs()):
        done += n_slices[missing[job]]
        n_refused += n_refused_here
        progress(done, total, f"pixels, {n_refused} refused")
    read = [read_part(part) for part in parts.values()]
    stored = concatenate([table for table, _ in read if len(table)])
    return stored, [refusal for _, refused in read for refusal in refused]


def _nothing_taken(raw: Path, refusals: Sequence[Refusal]) -> str:
    counts = Counter(str(refusal.reason) for refusal in refusals)
    why = ", ".join(f"{n} {reason}" for reason, n in counts.most_common()) or "it holds no files"
    return f"{raw}: no CT slice in DICOM form found there: {why}. Give the folder that holds the DICOM files"


@contextmanager
def _enough_space(store: Path, planned: _Planned, numbers: Sequence[int]) -> Iterator[None]:
    """Refuse to begin what cannot be finished, and say the same if somebody else fills the disk meanwhile."""
    area_M = to_numpy(planned.headers, "rows") * to_numpy(planned.headers, "columns")
    pages_N = -(-2 * area_M[planned.plan.rows] // PAGE_BYTES)
    needed = sum(int(pages_N[slice(*planned.shards[number])].sum()) for number in numbers) * PAGE_BYTES + TABLE_BYTES
    advice = f"the disk is too small: the store needs {needed:,} bytes. Free some space or choose another disk"
    present = sum(path.stat().st_size for path in store.parent.glob(f"{store.name}.part*/store/shards/*.h5"))
    if shutil.disk_usage(store.parent).free + present < needed:
        raise OutOfResourcesError(f"{store}: {advice}")
    try:
        yield
    except OutOfResourcesError as error:
        if isinstance(error.__cause__, OSError):
            raise OutOfResourcesError(f"{store}: {advice}") from error
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfResourcesError(f"{store}: {advice}") from error
        raise
