"""Prepares a study store: reads headers, plans shards, writes them, and commits index, refusals and a label set.

A store appears whole or not at all. Called again after an interruption, this goes on with the notes and shards that
were finished, where files, options and versions are still the same; labels may be others.
"""

# N slices

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rsna_e2e.core.errors import UsageError
from rsna_e2e.core.process import available_cores
from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import N_FOLDS, Column, Progress, Refusal, no_progress
from rsna_e2e.dicom.image_ids import ImageIds
from rsna_e2e.dicom.sources.files import Source
from rsna_e2e.store import Compression, StoreWriter
from rsna_e2e.store.luts import check_room
from rsna_e2e.store.prepare.division import Division
from rsna_e2e.store.prepare.index import index_columns, with_pseudonyms
from rsna_e2e.store.prepare.inputs import Inputs, Labels, read_inputs
from rsna_e2e.store.prepare.jobs import DigestCopies, ReadHeaders, WriteShard
from rsna_e2e.store.prepare.match_labels import with_labels
from rsna_e2e.store.prepare.patients import with_patients_of_xrays
from rsna_e2e.store.prepare.pool import Pool
from rsna_e2e.store.prepare.ray_pool import RayPool
from rsna_e2e.store.prepare.reading import Reading, check_is_about
from rsna_e2e.store.prepare.report import NothingTakenError, Part, PartReport, Prepared, PrepareReport, make_report
from rsna_e2e.store.prepare.sets import divided, join, make_set
from rsna_e2e.store.prepare.space import enough_space
from rsna_e2e.store.prepare.store_plan import Copies, MakePlan, ShardPlans, make_plan
from rsna_e2e.store.prepare.tables import read_columns, read_note, read_notes, refusals_of, to_numpy
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


def prepare(
    raw: Path,
    store: Path,
    *,
    task: Task,
    labels: Labels = None,
    image_ids: ImageIds = "auto",
    n_folds: int = N_FOLDS,
    holdout: float | None = None,
    seed: int = 0,
    n_jobs: int | None = None,
    on_ray: bool = False,
    parts: Sequence[Path] = (),
    compression: Compression = "none",
    reading: Reading | None = None,
    pseudonyms: Pseudonyms | None = None,
    progress: Progress = no_progress,
) -> PrepareReport:
    """Make a study store of the DICOM files in `raw`; files that cannot be taken are recorded with their reason.

    n_folds, holdout, seed: see `Division`. n_jobs: worker processes, by default one for each core; on_ray: on a Ray
    cluster instead. parts: of `prepare_part`; what they lack is made. pseudonyms: in place of identifiers and refused
    paths. Others: see `read_inputs`. Raises what that and `match_labels` raise; NothingTakenError when no slice can be
    taken, whose refusals stay in `STORE.partial`; StoreError when `store` exists; OutOfResourcesError on a full disk.
    """
    started_s = time.perf_counter()
    division, workers = Division(n_folds=n_folds, holdout=holdout, seed=seed), _pool(n_jobs, on_ray=on_ray)
    inputs = read_inputs(raw, store, labels, image_ids, task, compression, reading)
    division.check(has_labels=bool(inputs.labels.files))
    with StoreWriter(store, inputs=_known_by(inputs)) as writer, workers as pool:
        writer.adopt(parts)
        inputs, plan = _read_and_plan(inputs, pool, writer, progress)
        _check_division(inputs, plan, division)
        with enough_space(store, writer.shards_folder, plan.shards, compression):
            _write_shards(inputs, plan, pool, progress)
            prepared = _commit(writer, inputs, plan, division, pseudonyms)
    return make_report(store, prepared, task=task, elapsed_s=time.perf_counter() - started_s)


def prepare_part(
    raw: Path,
    store: Path,
    part: Part,
    *,
    task: Task,
    labels: Labels = None,
    image_ids: ImageIds = "auto",
    n_jobs: int | None = None,
    on_ray: bool = False,
    compression: Compression = "none",
    reading: Reading | None = None,
    progress: Progress = no_progress,
) -> PartReport:
    """Do one machine's part of `prepare`, for which it reads all headers; `prepare` with all parts makes the store.

    All machines see the same files, with the same modification times. Raises what `prepare` raises.
    """
    started_s = time.perf_counter()
    if not 1 <= part.number <= part.n:
        raise UsageError(f"part {part.number} of {part.n}: the first number goes from 1 to the second")
    workers = _pool(n_jobs, on_ray=on_ray)
    inputs = read_inputs(raw, store, labels, image_ids, task, compression, reading)
    writer = StoreWriter(store, inputs=_known_by(inputs), folder=part.folder(store))
    with writer, workers as pool:
        inputs, plan = _read_and_plan(inputs, pool, writer, progress)
        plan = replace(plan, shards=plan.shards[part.number - 1 :: part.n])
        with enough_space(store, writer.shards_folder, plan.shards, compression):
            _write_shards(inputs, plan, pool, progress)
        writer.keep()
    return PartReport(
        part=part.folder(store),
        n_shards=len(plan.shards),
        n_slices=sum(shard.n_slices for shard in plan.shards),
        elapsed_s=time.perf_counter() - started_s,
    )


def _known_by(inputs: Inputs) -> str:
    """Return what an attempt is known by: its inputs, and how they are divided into jobs and shards."""
    return f"{inputs.digest} {HEADERS_PER_JOB} {SHARD_BYTES}"


def _pool(n_jobs: int | None, *, on_ray: bool) -> AnyPool:
    if n_jobs is not None and (n_jobs < 1 or on_ray):
        raise UsageError(f"jobs {n_jobs}: must be at least 1, and on a Ray cluster is chosen by Ray")
    return RayPool() if on_ray else Pool(n_jobs or available_cores())


def _read_and_plan(inputs: Inputs, pool: AnyPool, writer: StoreWriter, progress: Progress) -> tuple[Inputs, ShardPlans]:
    """Read all headers, and plan the shards; return the inputs without the list of files, which needs much room."""
    headers = read_headers(inputs, pool, writer.notes_folder, progress)
    inputs = replace(inputs, files=())
    plan = _plan(inputs, headers, pool, writer, progress)
    inputs.labels.taken(plan.match, inputs.task).check_copies(plan.further)
    if plan.match.table is not None:
        check_is_about(inputs.task, inputs.reading.values, inputs.source.path)
    check_room(inputs.source.path, plan.lut_bytes)
    return inputs, plan


def _plan(
    inputs: Inputs, headers: Sequence[Path], pool: AnyPool, writer: StoreWriter, progress: Progress
) -> ShardPlans:
    """Group slices into series and assign these to shards."""
    job = MakePlan(
        headers=headers,
        labels=inputs.label_ids,
        shard_bytes=SHARD_BYTES,
        compression=inputs.compression,
        notes=writer.notes_folder,
        shards=writer.shards_folder,
    )
    planned = make_plan(job)
    if isinstance(planned, Copies):
        planned = make_plan(replace(job, digests=_digest_copies(inputs, planned, pool, progress)))
        assert isinstance(planned, ShardPlans), "with the digests of all copies there is a plan"
    return replace(planned, refused=[*inputs.not_found, *planned.refused])


def read_headers(inputs: Inputs, pool: AnyPool, notes: Path, progress: Progress) -> list[Path]:
    """Read the headers of all files, and return the notes that hold them; notes of an earlier attempt are taken."""
    size = files_per_job(inputs.source)
    blocks = [inputs.files[i : i + size] for i in range(0, len(inputs.files), size)]
    jobs = [
        ReadHeaders(inputs.source, files, notes / f"headers-{number:05d}.arrow", inputs.reading)
        for number, files in enumerate(blocks)
    ]
    sizes = [len(job.files) for job in jobs]
    return _run_missing(jobs, sizes, pool, progress, what="headers", n_refused=len(inputs.not_found))


def files_per_job(source: Source) -> int:
    """Return how many files' headers are read in one job."""
    return 1 if source.has_shards else HEADERS_PER_JOB


def _digest_copies(inputs: Inputs, copies: Copies, pool: AnyPool, progress: Progress) -> list[Path]:
    """Digest slices that may be copies, and return the notes of it; notes of an earlier attempt are taken."""
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
    """Run the jobs whose note is missing, or may turn out better this time, and return the notes of all."""
    missing = [(job, n) for job, n in zip(jobs, sizes, strict=True) if not _is_settled(job.note)]
    done = sum(sizes) - sum(n for _, n in missing)
    for number, n_refused_here in pool.run([job for job, _ in missing]):
        done += missing[number][1]
        n_refused += n_refused_here
        progress(done, sum(sizes), f"{what}, {n_refused} refused")
    return [job.note for job in jobs]


def _is_settled(note: Path) -> bool:
    """Whether a note is there, and no file was refused for a reason that may not hold another time or elsewhere."""
    return note.exists() and not any(refusal.reason in MAY_GO_WELL for refusal in refusals_of(note))


def _check_division(inputs: Inputs, plan: ShardPlans, division: Division) -> None:
    """Raise UsageError where the planned slices cannot be divided, BadInputError where boxes are not inside of them,
    before their pixels are read. It is done once more with those that were stored."""
    if not plan.shards or not (division.holdout or inputs.task.boxes):  # nothing taken is another error
        return
    division.check(has_labels=plan.match.table is not None)
    notes = [shard.note if shard.note.exists() else shard.plan for shard in plan.shards]
    planned = read_columns(notes, ("image_id", "series_key", "patient_id", "study_uid", "rows", "columns"))
    table = inputs.labels.taken(plan.match, inputs.task).table
    divided(planned, join(planned, table, plan.further, inputs.task), division, {})


def _write_shards(inputs: Inputs, plan: ShardPlans, pool: AnyPool, progress: Progress) -> None:
    """Write the planned shards; those of an earlier attempt stay as they are."""
    missing = [shard for shard in plan.shards if not shard.note.exists()]
    n_refused = len(plan.refused)
    total = sum(shard.n_slices for shard in plan.shards)
    done = total - sum(shard.n_slices for shard in missing)
    jobs = [WriteShard(inputs.source, shard, inputs.compression, inputs.reading.values) for shard in missing]
    for number, n_refused_here in pool.run(jobs):
        done += missing[number].n_slices
        n_refused += n_refused_here
        progress(done, total, f"pixels, {n_refused} refused")


def _commit(
    writer: StoreWriter, inputs: Inputs, plan: ShardPlans, division: Division, pseudonyms: Pseudonyms | None
) -> Prepared:
    """Make the store of the shards that were written, and return what it holds, with identifiers."""
    stored, refusals = _collect(plan, inputs.source.path)
    key_check, hashed = "", refusals
    if pseudonyms is not None:
        key_check, hashed = pseudonyms.check, pseudonyms.of_refusals(refusals)
    if not len(stored["image_id"]):
        table = writer.leave(hashed) if hashed else None
        raise NothingTakenError(inputs.source.path, hashed, modality=inputs.reading.modality, table=table)
    index = index_columns(stored)
    found = inputs.labels.taken(plan.match, inputs.task)
    joined = join(index, found.table, plan.further, inputs.task)
    luts = None
    if inputs.reading.values == "grey":
        index = with_patients_of_xrays(index, found.patients, joined.rows)
        luts = (read_note(shard.luts)[0] for shard in plan.shards)
    hashed_index = index if pseudonyms is None else with_pseudonyms(index, pseudonyms)
    fold_N = divided(index, joined, division, {})
    labels = make_set(inputs.task, found, joined, fold_N, division, image_ids=hashed_index["image_id"], refusals=hashed)
    data_hash = writer.commit(
        index=hashed_index,
        labels=None if plan.match.table is None else labels,
        refusals=hashed,
        compression=inputs.compression,
        key_check=key_check,
        image_ids=plan.match.rule,
        luts=luts,
    )
    return Prepared(
        data_hash=data_hash, index=index, joined=joined, fold=fold_N, refusals=refusals, plan=plan, labels=found
    )


def _collect(plan: ShardPlans, raw: Path) -> tuple[dict[str, Column], list[Refusal]]:
    """Return the columns of the slices that were written, and all refusals."""
    stored, broken = read_notes([shard.note for shard in plan.shards])
    refused = sorted([*plan.refused, *broken], key=lambda refusal: (refusal.path, refusal.reason))
    columns = {name: to_numpy(stored, name) for name in stored.column_names}
    del stored  # as `columns` now
    release_unused()
    return columns, with_labels(refused, plan.match, raw)
