"""What worker processes do: read headers, and write whole shards. Records come back, pixels never do."""

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from rsna_e2e.dicom import printable, read_header, read_hounsfield
from rsna_e2e.errors import OutOfResourcesError
from rsna_e2e.prepare.plan import HeaderOf, PlannedSlice, ShardPlan
from rsna_e2e.records import Int16Image, Refusal, SliceRecord
from rsna_e2e.reference import content_box
from rsna_e2e.store import StoredPixels, write_shard

NO_CONTENT = (0, 0, 0, 0)

Windows = tuple[tuple[float, float], ...]
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class StoredSlice:
    """A slice as it lies in the store; content is x0, y0, x1, y1 in px, the last two exclusive."""

    record: SliceRecord
    series_key: str
    position_mm: float
    content: tuple[int, int, int, int]
    shard: str
    pixels: StoredPixels


@contextmanager
def worker_pool(n_jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Run `n_jobs` worker processes that leave Ctrl-C to this one; what they have begun is finished on the way out."""
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    pool = ProcessPoolExecutor(n_jobs, mp_context=context, initializer=_ignore_interrupts)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def run_jobs(pool: ProcessPoolExecutor, jobs: Sequence[Callable[[], _Result]]) -> Iterator[tuple[int, _Result]]:
    """Yield (number of the job, its result) as jobs end. Raises OutOfResourcesError when a worker dies."""
    try:
        numbers = {pool.submit(job): number for number, job in enumerate(jobs)}
        for future in as_completed(numbers):
            yield numbers[future], future.result()
    except BrokenProcessPool:
        raise OutOfResourcesError(
            "a worker process was killed, most likely for lack of memory. Run again with fewer jobs"
        ) from None


@dataclass(frozen=True, slots=True)
class ReadHeaders:
    """Job: read the headers of files given relative to `raw`."""

    raw: Path
    names: Sequence[str]

    def __call__(self) -> tuple[list[HeaderOf], list[Refusal]]:
        headers: list[HeaderOf] = []
        refusals: list[Refusal] = []
        for name in self.names:
            result = read_header(self.raw / name)
            if isinstance(result, Refusal):
                refusals.append(replace(result, path=printable(name)))
            else:
                headers.append(HeaderOf(name, result))
        return headers, refusals


@dataclass(frozen=True, slots=True)
class WriteShard:
    """Job: decode the slices of one shard and write it into `folder`."""

    raw: Path
    folder: Path
    plan: ShardPlan
    windows_hu: Windows

    def __call__(self) -> tuple[list[StoredSlice], list[Refusal]]:
        taken: list[tuple[PlannedSlice, SliceRecord, tuple[int, int, int, int]]] = []
        refusals: list[Refusal] = []
        records = (planned.header.record for planned in self.plan.slices)
        capacity = Counter((record.rows, record.columns) for record in records)
        pixels = write_shard(self.folder / self.plan.name, self._decode(taken, refusals), capacity=capacity)
        stored = [
            StoredSlice(record, planned.series_key, planned.position_mm, content, self.plan.name, place)
            for (planned, record, content), place in zip(taken, pixels, strict=True)
        ]
        return stored, refusals

    def _decode(
        self,
        taken: list[tuple[PlannedSlice, SliceRecord, tuple[int, int, int, int]]],
        refusals: list[Refusal],
    ) -> Iterator[Int16Image]:
        for planned in self.plan.slices:
            result = read_hounsfield(self.raw / planned.name, planned.header)
            if isinstance(result, Refusal):
                refusals.append(replace(result, path=printable(planned.name)))
                continue
            record, hu = result
            taken.append((planned, record, content_box(hu, self.windows_hu) or NO_CONTENT))
            yield hu


def available_cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0))


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
