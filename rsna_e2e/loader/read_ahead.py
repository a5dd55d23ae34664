"""Reading ahead: threads read the HU of coming batches, or presented radiographs, into buffers that are reused."""

# N slices (packed)

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from rsna_e2e.config import LoaderConfig
from rsna_e2e.core.records import Int16Array, Int16Image
from rsna_e2e.loader.batch_plan import BatchPlan
from rsna_e2e.loader.present import read_shown
from rsna_e2e.store import Store

_MOST_QUEUED = 8  # buffers that a GPU still reads; the next taker waits for the first of them

Item = TypeVar("Item")
Result = TypeVar("Result")


class BufferPool:
    """Flat int16 buffers, shared by threads and reused: fresh pages cost more than the copy into them.

    Pinned memory goes to a GPU without a further copy.
    """

    def __init__(self, *, is_pinned: bool) -> None:
        self._is_pinned = is_pinned
        self._free: list[tuple[torch.Tensor, torch.cuda.Event | None]] = []
        self._lock = threading.Lock()

    def take(self, n_values: int) -> torch.Tensor:
        """Return a buffer of at least `n_values`. One that is too small is replaced by a new one."""
        while True:
            with self._lock:
                ready = [i for i, (_, event) in enumerate(self._free) if event is None or _is_done(event)]
                fitting = [i for i in ready if len(self._free[i][0]) >= n_values]
                if ready:
                    buffer, _ = self._free.pop(fitting[0] if fitting else ready[0])
                    if fitting:
                        return buffer
                first = self._free[0][1] if not ready and len(self._free) >= _MOST_QUEUED else None
            if first is None:
                return torch.empty(n_values, dtype=torch.int16, pin_memory=self._is_pinned)
            first.synchronize()  # or memory would grow as far as the GPU lags behind

    def give_back(self, buffer: torch.Tensor, device: torch.device) -> None:
        """Free this buffer for reuse once the work queued so far on `device`'s current stream is done."""
        event = None
        if device.type == "cuda":
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(device))
        with self._lock:
            self._free.append((buffer, event))


def _is_done(event: torch.cuda.Event) -> bool:
    return bool(event.query())  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class ReadBatch:
    """A plan and its HU, one slice after another: `values` is the beginning of `buffer`.

    lowest_hu [n]: int32, for 8-bit images, the HU of each slice from which grey levels count. After JPEG it is None,
    and `values` are grey levels: one image [C, H, W] after another.
    """

    plan: BatchPlan
    values: Int16Array
    buffer: torch.Tensor
    lowest_hu: torch.Tensor | None = None

    @property
    def slices(self) -> list[Int16Image]:
        """Each slice [H, W]."""
        parts = np.split(self.values, self.plan.offsets[1:])
        return [part.reshape(shape) for part, shape in zip(parts, self.plan.shapes, strict=True)]


def read_batch(store: Store, plan: BatchPlan, buffers: BufferPool) -> ReadBatch:
    """Read the slices of `plan`, radiographs presented with its jitters. Raises StoreError when a checksum does not
    match."""
    buffer = buffers.take(plan.n_values)
    values: Int16Array = buffer.numpy()[: plan.n_values]
    read_shown(store, plan.rows.tolist(), values, plan.jitters)
    return ReadBatch(plan, values, buffer)


def work_ahead(work: Callable[[Item], Result], items: Iterable[Item], config: LoaderConfig) -> Iterator[Result]:
    """Yield work(item) in the order of `items`, made by threads up to `prefetch_batches` items ahead.

    The first error of any thread ends the iteration at once, ahead of the results before it.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(config.threads, thread_name_prefix="loader") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > config.prefetch_batches:
                    yield _first_or_error(waiting)
            while waiting:
                yield _first_or_error(waiting)
        finally:
            for future in waiting:
                future.cancel()


def _first_or_error(waiting: deque[Future[Result]]) -> Result:
    for future in waiting:
        if future.done():
            future.result()  # raises what its thread raised
    return waiting.popleft().result()
