"""The whole of prepare, from the raw folder to the finished store."""

# N slices, L labels

import errno
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from rsna_e2e.errors import BadInputError, OutOfResourcesError, UsageError
from rsna_e2e.labels import LabelTable, read_labels
from rsna_e2e.prepare.plan import HeaderOf, ShardPlan, plan_series, plan_shards, refuse_ambiguous_ids
from rsna_e2e.prepare.table import index_columns, join_labels
from rsna_e2e.prepare.walk import find_files
from rsna_e2e.prepare.workers import ReadHeaders, StoredSlice, WriteShard, available_cores, run_jobs, worker_pool
from rsna_e2e.records import Float32Array, Progress, Refusal, no_progress
from rsna_e2e.slice_order import OrderCheck, check_order
from rsna_e2e.store import StoreWriter
from rsna_e2e.tasks import Task

# Slices of a shard take about this much: enough to write at the disk's speed, little enough to keep all workers busy
# to the end and to lose little when one dies.
SHARD_BYTES = 128 * 1024 * 1024

HEADERS_PER_JOB = 256
PAGE_BYTES = 4096  # slices in a shard begin on a page
TABLE_BYTES = 1024 * 1024  # room for the tables, generously


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareReport:
    """What was taken and what was not.

    n_unlabelled: slices in the store without a label. n_labels_without_image: labelled images that are not in the
    store. n_rounded, n_saturated: pixels whose HU are not exactly slope * stored + intercept. slice_order: whether the
    labels speak for the order of the slices.
    """

    store: Path
    data_hash: str
    n_patients: int
    n_series: int
    n_slices: int
    n_unlabelled: int
    n_labels_without_image: int
    n_repeated_label_rows: int
    n_rounded: int
    n_saturated: int
    slice_order: OrderCheck
    repairs: dict[str, int]
    refusals: dict[str, int]
    elapsed_s: float

    @property
    def slices_per_s(self) -> float:
        """Slices stored per second, over the whole run."""
        return self.n_slices / self.elapsed_s


def prepare(
    raw: Path,
    store: Path,
    *,
    task: Task,
    labels: Path | None = None,
    n_folds: int = 5,
    seed: int = 0,
    n_jobs: int | None = None,
    progress: Progress = no_progress,
) -> PrepareReport:
    """Make a study store of the DICOM files below `raw`; files that cannot be taken are recorded with their reason.

    labels: the label file, by default the one file `*train*.csv` or `*train*.csv.gz` in `raw`, if there is one.
    seed: decides the folds among equals. n_jobs: worker processes, by default one for each core. The store appears
    whole or not at all. Raises BadInputError when there is nothing to take, StoreError when `store` exists, and
    OutOfResourcesError when the disk is too small.
    """
    started_s = time.perf_counter()
    if n_folds < 1 or (n_jobs is not None and n_jobs < 1):
        raise UsageError(f"folds {n_folds}, jobs {n_jobs}: both must be at least 1")
    if store.resolve().is_relative_to(raw.resolve()):
        raise UsageError(f"{store}: the store must not lie inside the raw folder {raw}. Choose another place")
    names, refusals = find_files(raw)
    table = _read_label_table(raw, labels, task)
    with StoreWriter(store) as writer, worker_pool(n_jobs or available_cores()) as pool:
        headers = _read_headers(pool, raw, names, refusals, progress)
        if headers and labels is not None and {h.header.record.image_id for h in headers}.isdisjoint(table.image_ids):
            raise BadInputError(f"{labels}: names none of the images in {raw}. Check that it belongs to them")
        plans = _plan(headers, table, refusals)
        with _enough_space(store, plans):
            stored = _write_shards(pool, raw, writer, plans, refusals, task, progress)
            if not stored:
                raise BadInputError(_nothing_taken(raw, refusals))
            labels_NL = join_labels(stored, table)
            index = index_columns(stored, labels_NL, n_folds=n_folds, seed=seed)
            refusals.sort(key=lambda refusal: (refusal.path, refusal.reason))
            data_hash = writer.commit(task, index=index, labels=labels_NL, refusals=refusals)
    elapsed_s = time.perf_counter() - started_s
    order = check_order(labels_NL[:, task.any_index], _series_lengths(stored))
    return _report(store, data_hash, stored, labels_NL, table, refusals, order, elapsed_s=elapsed_s)


def _plan(headers: Sequence[HeaderOf], table: LabelTable, refusals: list[Refusal]) -> list[ShardPlan]:
    unambiguous, ambiguous = refuse_ambiguous_ids(headers, table.image_ids)
    series, misplaced = plan_series(unambiguous)
    refusals += ambiguous + misplaced
    return plan_shards(series, shard_bytes=SHARD_BYTES)


def _report(
    store: Path,
    data_hash: str,
    stored: Sequence[StoredSlice],
    labels_NL: Float32Array,
    table: LabelTable,
    refusals: Sequence[Refusal],
    order: OrderCheck,
    *,
    elapsed_s: float,
) -> PrepareReport:
    image_ids = {s.record.image_id for s in stored}
    return PrepareReport(
        store=store,
        data_hash=data_hash,
        n_patients=len({s.record.patient_id for s in stored}),
        n_series=len({s.series_key for s in stored}),
        n_slices=len(stored),
        n_unlabelled=int(np.isnan(labels_NL).all(axis=1).sum()),
        n_labels_without_image=sum(image_id not in image_ids for image_id in table.image_ids),
        n_repeated_label_rows=table.n_repeated_rows,
        n_rounded=sum(s.record.n_rounded for s in stored),
        n_saturated=sum(s.record.n_saturated for s in stored),
        slice_order=order,
        repairs=dict(Counter(s.record.repair for s in stored if s.record.repair)),
        refusals=dict(Counter(str(refusal.reason) for refusal in refusals).most_common()),
        elapsed_s=elapsed_s,
    )


def _series_lengths(stored: Sequence[StoredSlice]) -> list[int]:
    return [len(list(slices)) for _, slices in groupby(stored, key=lambda s: s.series_key)]


def find_labels(raw: Path) -> Path | None:
    """Return the file `*train*.csv` or `*train*.csv.gz` in `raw`, if there is one. Raises BadInputError for several."""
    found = sorted([*raw.glob("*train*.csv"), *raw.glob("*train*.csv.gz")])
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise BadInputError(f"{raw}: several files could hold the labels ({names}). Name one with --labels")
    return found[0] if found else None


def _read_label_table(raw: Path, labels: Path | None, task: Task) -> LabelTable:
    labels = labels or find_labels(raw)
    if labels is None:
        return LabelTable(image_ids=[], values=np.empty((0, len(task.label_names))), n_repeated_rows=0)
    return read_labels(labels, task)


def _read_headers(
    pool: ProcessPoolExecutor, raw: Path, names: Sequence[str], refusals: list[Refusal], progress: Progress
) -> list[HeaderOf]:
    jobs = [ReadHeaders(raw, names[i : i + HEADERS_PER_JOB]) for i in range(0, len(names), HEADERS_PER_JOB)]
    results: list[list[HeaderOf]] = [[] for _ in jobs]
    done = 0
    for number, (headers, refused) in run_jobs(pool, jobs):
        results[number] = headers
        refusals += refused
        done += len(jobs[number].names)
        progress(done, len(names), f"headers, {len(refusals)} refused")
    return [header for headers in results for header in headers]


def _write_shards(
    pool: ProcessPoolExecutor,
    raw: Path,
    writer: StoreWriter,
    plans: Sequence[ShardPlan],
    refusals: list[Refusal],
    task: Task,
    progress: Progress,
) -> list[StoredSlice]:
    jobs = [WriteShard(raw, writer.shards_folder, plan, task.windows_hu) for plan in plans]
    results: list[list[StoredSlice]] = [[] for _ in jobs]
    total = sum(len(plan.slices) for plan in plans)
    done = 0
    for number, (stored, refused) in run_jobs(pool, jobs):
        results[number] = stored
        refusals += refused
        done += len(plans[number].slices)
        progress(done, total, f"pixels, {len(refusals)} refused")
    return [s for stored in results for s in stored]


def _nothing_taken(raw: Path, refusals: Sequence[Refusal]) -> str:
    counts = Counter(str(refusal.reason) for refusal in refusals)
    why = ", ".join(f"{n} {reason}" for reason, n in counts.most_common()) or "it holds no files"
    return f"{raw}: no CT slice in DICOM form found there: {why}. Give the folder that holds the DICOM files"


@contextmanager
def _enough_space(store: Path, plans: Sequence[ShardPlan]) -> Iterator[None]:
    """Refuse to begin what cannot be finished, and say the same if somebody else fills the disk meanwhile."""
    pages = sum(-(-planned.n_bytes // PAGE_BYTES) for plan in plans for planned in plan.slices)
    needed = pages * PAGE_BYTES + TABLE_BYTES
    advice = f"the disk is too small: the store needs {needed:,} bytes. Free some space or choose another disk"
    if shutil.disk_usage(store.parent).free < needed:
        raise OutOfResourcesError(f"{store}: {advice}")
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfResourcesError(f"{store}: {advice}") from error
        raise
