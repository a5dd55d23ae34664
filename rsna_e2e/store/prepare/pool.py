"""Worker processes that may die: a file that ends its worker or takes too long is refused, and nothing else is lost."""

import gc
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from rsna_e2e.core.errors import OutOfResourcesError
from rsna_e2e.core.reasons import Reason

ITEM_LIMIT_S = 20.0  # for one file; the largest takes a second
WORKER_MEMORY_BYTES = 2 << 30  # for one worker, beyond what it begins with
DEATHS_OF_AN_ITEM = 2  # the first may have another cause: the system, out of memory
DEATHS_OF_A_JOB = 3  # outside of any item

Lost = Mapping[int, Reason]  # items of a job to be refused unread, and why
Begin = Callable[[int], None]

_Result_co = TypeVar("_Result_co", covariant=True)
_Result = TypeVar("_Result")

# Modules that workers begin with: all that they need, and what each would import, for pyarrow and because
# multiprocessing runs the main module of the program again.
_PRELOADED = ["rsna_e2e.store.prepare.store_plan", "numpy.ma", "dateutil.relativedelta", "rsna_e2e.cli"]

NO_ITEM = -1  # to begin with when there is none


class Job(Protocol[_Result_co]):
    """Work on numbered items in a worker process; it calls `begin` with the number of each before touching it."""

    def __call__(self, begin: Begin, lost: Lost) -> _Result_co: ...


@dataclass(slots=True)
class _Task(Generic[_Result]):
    """A job on its way through the pool."""

    number: int
    job: Job[_Result]
    lost: dict[int, Reason] = field(default_factory=dict)
    deaths: Counter[int] = field(default_factory=Counter)


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    connection: Connection
    mark: Any  # shared with the process: the item it works on, and since when
    task: _Task[Any] | None = None


class Pool:
    """Context with up to `n_workers` processes while there is work; Ctrl-C is handled by this process alone.

    Each may take `memory_bytes`, and `ITEM_LIMIT_S` for an item. At its end work in progress is stopped.
    """

    def __init__(self, n_workers: int, *, memory_bytes: int | None = WORKER_MEMORY_BYTES) -> None:
        self._memory_bytes = memory_bytes
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOADED)
        self._n_workers = n_workers
        self._workers: list[_Worker] = []

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:  # all at once: the end of each takes some 50 ms
            worker.process.kill()
        while self._workers:
            _stop(self._workers.pop())

    def run(self, jobs: Sequence[Job[_Result]]) -> Iterator[tuple[int, _Result]]:
        """Yield (number of the job, its result) as jobs end. Workers that had a job each stay for the next run.

        Raises what a job raises, and OutOfResourcesError when workers die outside of any item.
        """
        n_wanted = min(self._n_workers, len(jobs))
        self._workers += [self._start() for _ in range(n_wanted - len(self._workers))]
        yield from self._run(deque(_Task(number, job) for number, job in enumerate(jobs)))
        if len(jobs) > self._n_workers:
            self.__exit__()  # what they hold is needed elsewhere

    def _run(self, tasks: deque[_Task[_Result]]) -> Iterator[tuple[int, _Result]]:
        while True:
            for place, worker in enumerate(self._workers):
                if worker.task is None and tasks:
                    self._workers[place] = self._give(worker, tasks.popleft())
            busy = [worker for worker in self._workers if worker.task is not None]
            if not busy:
                return
            ready = wait([worker.connection for worker in busy], timeout=ITEM_LIMIT_S / 4)
            for place, worker in enumerate(self._workers):
                if worker.task is None:
                    continue
                is_late = worker.mark[0] != NO_ITEM and time.monotonic() - worker.mark[1] > ITEM_LIMIT_S
                if worker.connection in ready:
                    task, worker.task = worker.task, None
                    try:
                        is_done, result = worker.connection.recv()
                    except (EOFError, OSError):
                        tasks.appendleft(task)
                        self._bury(worker, task, Reason.DECODER_CRASHED)
                        self._workers[place] = self._start()
                        continue
                    if not is_done:
                        raise result
                    yield task.number, result
                elif is_late:
                    tasks.appendleft(worker.task)
                    self._bury(worker, worker.task, Reason.TIMEOUT)
                    self._workers[place] = self._start()

    def _give(self, worker: _Worker, task: _Task[Any]) -> _Worker:
        """Give a worker a task; start another where this one died while idle."""
        try:
            worker.connection.send((task.job, task.lost))
        except OSError:
            _stop(worker)
            return self._give(self._start(), task)
        worker.task = task
        return worker

    def _bury(self, worker: _Worker, task: _Task[Any], reason: Reason) -> None:
        """Count the death of a worker against the item it worked on; `reason`: it died, or took too long."""
        item = int(worker.mark[0])
        _stop(worker)
        task.deaths[item] += 1
        if item == NO_ITEM:
            if task.deaths[item] >= DEATHS_OF_A_JOB:
                raise OutOfResourcesError(
                    "worker processes were killed, most likely for lack of memory. Run again with fewer jobs"
                )
        elif reason == Reason.TIMEOUT or task.deaths[item] >= DEATHS_OF_AN_ITEM:
            task.lost[item] = reason

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        mark = self._context.RawArray("d", [NO_ITEM, 0.0])
        process = self._context.Process(target=_work, args=(theirs, mark, self._memory_bytes), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours, mark)


def warm_up() -> None:
    """Start the process from which all workers of this one are made, which takes seconds, before there is work."""
    with Pool(1) as pool:
        list(pool.run([_nothing]))


def _nothing(begin: Begin, lost: Lost) -> None:
    """A job that is done at once."""


def _stop(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.connection.close()


def _work(connection: Connection, mark: Any, memory_bytes: int | None) -> None:
    """Main loop of a worker process, until its connection is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()  # what a worker begins with stays: to look through it would copy it
    if memory_bytes is not None:
        _limit_memory(memory_bytes)

    def begin(item: int) -> None:
        mark[:] = item, time.monotonic()

    while True:
        try:
            job, lost = connection.recv()
        except EOFError:
            return
        try:
            answer = True, job(begin, lost)
        except Exception as error:
            answer = False, error
        begin(NO_ITEM)
        try:
            connection.send(answer)
        except OSError:  # the main process is gone
            return


def _limit_memory(n_bytes: int) -> None:
    """Limit the address space of this process to so many bytes more than now."""
    if sys.platform != "linux":
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + n_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
