"""The whole of prepare, from the raw folder or archive to the finished store."""

# N slices, L labels

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rsna_e2e.core.errors import DiskFullError, UsageError
from rsna_e2e.core.files import full_disk_named
from rsna_e2e.core.process import available_cores
from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import Column, Progress, Refusal, no_progress
from rsna_e2e.store import Compression, StoreWriter
from rsna_e2e.store.prepare.index import index_columns, join_labels, with_pseudonyms
from rsna_e2e.store.prepare.inputs import Inputs, Labels, read_inputs, with_labels
from rsna_e2e.store.prepare.jobs import DigestCopies, ReadHeaders, ShardPlan, WriteShard
from rsna_e2e.store.prepare.pool import Pool
from rsna_e2e.store.prepare.ray_pool import RayPool
from rsna_e2e.store.prepare.report import NothingTakenError, Part, PartReport, PrepareReport, make_report
from rsna_e2e.store.prepare.store_plan import Copies, MakePlan, ShardPlans
from rsna_e2e.store.prepare.tables import read_notes, refusals_of, to_numpy
from rsna_e2e.store.pseudonyms import Pseudonyms
from rsna_e2e.store.tables import release_unused
from rsna_e2e.tasks.task import Task

AnyPool = Pool | RayPool

# Slices of a shard take about so much at most: enough to write at the disk's speed, little enough to keep all workers
# busy to the end and to lose little when one dies.
SHARD_BYTES = 128 * 1024 * 1024

HEADERS_PER_JOB = 256

# What a file is refused for that may be the doing of the machine or of this program
MAY_GO_WELL = (
    Reason.MISSING_DECODER,
    Reason.UNREADABLE_FILE,
    Reason.TIMEOUT,
    Reason.DECODER_CRASHED,
    Reason.INTERNAL_ERROR,
)
TABLE_BYTES = 1024 * 1024  # room for the tables, generously


def prepare(
    raw: Path,
    store: Path,
    *,
    task: Task,
    labels: Labels = None,
    n_folds: int = 5,
    seed: int = 0,
    n_jobs: int | None = None,
    on_ray: bool = False,
    parts: Sequence[Path] = (),
    compression: Compression = "none",
    requires_hu: bool = False,
    refuse_formulas: bool = False,
    pseudonyms: Pseudonyms | None = None,
    progress: Progress = no_progress,
) -> PrepareReport:
    """Make a study store of the DICOM files in `raw`; files that cannot be taken are recorded with their reason.

    raw: a folder or a zip archive. labels: the label file, or "none"; by default what `find_labels` finds, if anything.
    seed: decides the folds among equals. n_jobs: worker processes, by default one for each core; on_ray: on the cores
    of a Ray cluster, whose machines see the same files, instead. parts: what `prepare_part` left; shards that none of
    them holds are made. compression: of the pixels, which read back the same. requires_hu: refuse files that leave the
    unit unspecified. refuse_formulas: refuse files whose image ids a spreadsheet would run. pseudonyms: what the store
    has in place of identifiers and of the paths of refused files; folds, order, labels and pixels do not depend on
    them. The store appears whole or not at all; interrupted and called again, this goes on with what was done. Raises
    BadInputError when there is nothing to take, and leaves the table of refusals in `STORE.partial`; StoreError when
    `store` exists, and OutOfResourcesError when the disk is too small.
    """
    started_s = time.perf_counter()
    if n_folds < 1:
        raise UsageError(f"folds {n_folds}: must be at least 1")
    pool_of_workers = _pool(n_jobs, on_ray=on_ray)
    rules = (HEADERS_PER_JOB, SHARD_BYTES, requires_hu)
    inputs = read_inputs(
        raw, store, labels, task, compression=compression, rules=rules, refuse_formulas=refuse_formulas
    )
    with StoreWriter(store, inputs=inputs.digest) as writer, pool_of_workers as pool:
        writer.adopt(parts)
        headers = read_headers(inputs, pool, writer.notes_folder, progress, requires_hu=requires_hu)
        inputs = replace(inputs, files=())  # many of them need room
        shards, refused, told_by = _plan(inputs, headers, pool, writer, progress)
        with _enough_space(store, writer.shards_folder, shards, compression):
            _write_shards(inputs, shards, pool, len(refused), progress)
            stored, refusals = _collect(inputs, shards, refused)
            if not len(stored["image_id"]):
                refusals = refusals if pseudonyms is None else pseudonyms.of_refusals(refusals)
                table = writer.leave(refusals) if refusals else None
                raise NothingTakenError(raw, refusals, table=table)
            labels_NL = join_labels(stored, inputs.labels)
            index = index_columns(stored, labels_NL, n_folds=n_folds, seed=seed)
            tables = _named_or_not(index, refusals, pseudonyms)
            data_hash = writer.commit(task, labels=labels_NL, compression=compression, **tables)
    elapsed_s = time.perf_counter() - started_s
    return make_report(
        store,
        data_hash,
        index,
        labels_NL,
        inputs.labels,
        refusals,
        task,
        label_file=inputs.label_file,
        told_by=told_by,
        passed_over=inputs.passed_over,
        elapsed_s=elapsed_s,
    )


def prepare_part(
    raw: Path,
    store: Path,
    part: Part,
    *,
    task: Task,
    labels: Path | None = None,
    n_jobs: int | None = None,
    on_ray: bool = False,
    compression: Compression = "none",
    requires_hu: bool = False,
    refuse_formulas: bool = False,
    progress: Progress = no_progress,
) -> PartReport:
    """Do one machine's part of `prepare`, for which it reads all headers; `prepare` with all parts makes the store.

    All machines see the same files, with the same modification times. Raises what `prepare` raises.
    """
    started_s = time.perf_counter()
    if not 1 <= part.number <= part.n:
        raise UsageError(f"part {part.number} of {part.n}: the first number goes from 1 to the second")
    rules = (HEADERS_PER_JOB, SHARD_BYTES, requires_hu)
    inputs = read_inputs(
        raw, store, labels, task, compression=compression, rules=rules, refuse_formulas=refuse_formulas
    )
    with (
        StoreWriter(store, inputs=inputs.digest, folder=part.folder(store)) as writer,
        _pool(n_jobs, on_ray=on_ray) as pool,
    ):
        headers = read_headers(inputs, pool, writer.notes_folder, progress, requires_hu=requires_hu)
        inputs = replace(inputs, files=())
        every_shard, refused, _ = _plan(inputs, headers, pool, writer, progress)
        shards = every_shard[part.number - 1 :: part.n]
        with _enough_space(store, writer.shards_folder, shards, compression):
            _write_shards(inputs, shards, pool, len(refused), progress)
        writer.keep()
    return PartReport(
        part=part.folder(store),
        n_shards=len(shards),
        n_slices=sum(shard.n_slices for shard in shards),
        elapsed_s=time.perf_counter() - started_s,
    )


def _pool(n_jobs: int | None, *, on_ray: bool) -> AnyPool:
    if n_jobs is not None and (n_jobs < 1 or on_ray):
        raise UsageError(f"jobs {n_jobs}: must be at least 1, and is for Ray to choose on a cluster")
    return RayPool() if on_ray else Pool(n_jobs or available_cores())


def _plan(
    inputs: Inputs, headers: Sequence[Path], pool: AnyPool, writer: StoreWriter, progress: Progress
) -> tuple[Sequence[ShardPlan], list[Refusal], Mapping[str, int]]:
    """Decide what goes where, and count what divides series into volumes, in a process of its own: what that needs is
    free again afterwards."""
    job = MakePlan(
        headers=headers,
        labelled_ids=inputs.labels.image_ids,
        shard_bytes=SHARD_BYTES,
        compression=inputs.compression,
        notes=writer.notes_folder,
        shards=writer.shards_folder,
    )
    planned = _alone(job)
    if isinstance(planned, Copies):
        planned = _alone(replace(job, digests=_digest_copies(inputs, planned, pool, progress)))
        assert isinstance(planned, ShardPlans), "with the digests of all copies there is a plan"
    return planned.shards, [*inputs.not_found, *planned.refused], planned.told_by


def _alone(job: MakePlan) -> Copies | ShardPlans:
    with Pool(1, memory_bytes=None) as planner:
        ((_, planned),) = planner.run([job])
    return planned


def read_headers(
    inputs: Inputs, pool: AnyPool, notes: Path, progress: Progress, *, requires_hu: bool = False
) -> list[Path]:
    """Return the files that hold the headers, and the refusals; those that are there already are not read again."""
    parts = [inputs.files[i : i + HEADERS_PER_JOB] for i in range(0, len(inputs.files), HEADERS_PER_JOB)]
    jobs = [
        ReadHeaders(inputs.source, files, notes / f"headers-{number:05d}.arrow", requires_hu)
        for number, files in enumerate(parts)
    ]
    sizes = [len(job.files) for job in jobs]
    return _run_missing(jobs, sizes, pool, progress, what="headers", n_refused=len(inputs.not_found))


def _digest_copies(inputs: Inputs, copies: Copies, pool: AnyPool, progress: Progress) -> list[Path]:
    """Return the files that hold digests of slices which may be copies; those that are there are not made again."""
    jobs = [
        DigestCopies(inputs.source, path, path.with_name(path.name.replace("copies-", "digests-")))
        for path, _ in copies.files
    ]
    return _run_missing(jobs, [n for _, n in copies.files], pool, progress, what="copies compared", n_refused=0)


def _run_missing(
    jobs: Sequence[ReadHeaders | DigestCopies],
    sizes: Sequence[int],
    pool: AnyPool,
    progress: Progress,
    *,
    what: str,
    n_refused: int,
) -> list[Path]:
    """Run jobs of which no note is there that can be relied on, and return the notes of all."""
    missing = [(job, n) for job, n in zip(jobs, sizes, strict=True) if not _is_settled(job.note)]
    done = sum(sizes) - sum(n for _, n in missing)
    for number, n_refused_here in pool.run([job for job, _ in missing]):
        done += missing[number][1]
        n_refused += n_refused_here
        progress(done, sum(sizes), f"{what}, {n_refused} refused")
    return [job.note for job in jobs]


def _is_settled(part: Path) -> bool:
    """Whether a note is there, and refuses nothing that may go well another time or on another machine."""
    return part.exists() and not any(refusal.reason in MAY_GO_WELL for refusal in refusals_of(part))


def _write_shards(
    inputs: Inputs, shards: Sequence[ShardPlan], pool: AnyPool, n_refused: int, progress: Progress
) -> None:
    """Write shards; those that are there stay as they are."""
    missing = [shard for shard in shards if not shard.note.exists()]
    total = sum(shard.n_slices for shard in shards)
    done = total - sum(shard.n_slices for shard in missing)
    jobs = [WriteShard(inputs.source, shard, inputs.task.windows_hu, inputs.compression) for shard in missing]
    for number, n_refused_here in pool.run(jobs):
        done += missing[number].n_slices
        n_refused += n_refused_here
        progress(done, total, f"pixels, {n_refused} refused")


def _collect(
    inputs: Inputs, shards: Sequence[ShardPlan], refused: Sequence[Refusal]
) -> tuple[dict[str, Column], list[Refusal]]:
    """Return the columns of what was written, and all refusals."""
    stored, broken = read_notes([shard.note for shard in shards])
    refusals = with_labels(sorted([*refused, *broken], key=lambda refusal: (refusal.path, refusal.reason)), inputs)
    columns = {name: to_numpy(stored, name) for name in stored.column_names}
    del stored  # as `columns` now
    release_unused()
    return columns, refusals


def _named_or_not(
    index: dict[str, Column], refusals: Sequence[Refusal], pseudonyms: Pseudonyms | None
) -> dict[str, Any]:
    """Return what a store holds: as it is, or so that nobody is named in it."""
    if pseudonyms is None:
        return {"index": index, "refusals": refusals}
    return {
        "index": with_pseudonyms(index, pseudonyms),
        "refusals": pseudonyms.of_refusals(refusals),
        "key_check": pseudonyms.check,
    }


@contextmanager
def _enough_space(store: Path, place: Path, shards: Sequence[ShardPlan], compression: Compression) -> Iterator[None]:
    """Refuse to begin what cannot be finished, and say the same if somebody else fills the disk meanwhile.

    How much packed pixels take is not known before, so with them it is begun.
    """
    needed = sum(shard.n_bytes for shard in shards) + TABLE_BYTES
    at_most = "" if compression == "none" else " at most"
    advice = f"the disk is too small: the store needs {needed:,} bytes{at_most}. Free some space or choose another disk"
    present = sum(shard.n_bytes for shard in shards if shard.note.exists())
    if compression == "none" and shutil.disk_usage(place).free + present < needed:
        raise DiskFullError(f"{store}: {advice}")
    with full_disk_named(store, advice):
        yield
