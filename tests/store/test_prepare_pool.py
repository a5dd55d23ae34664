"""Workers that die, hang or want too much: one item is lost, everything else is done."""

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from rsna_e2e.core.errors import OutOfResourcesError
from rsna_e2e.core.reasons import Reason
from rsna_e2e.store.prepare import pool as pools
from rsna_e2e.store.prepare.pool import Begin, Lost, Pool
from rsna_e2e.store.prepare.ray_pool import RayPool


@dataclass(frozen=True)
class Count:
    """Job: count items, and do something at one of them."""

    n: int
    at: int
    deed: Callable[[], None]

    def __call__(self, begin: Begin, lost: Lost) -> tuple[int, dict[int, Reason]]:
        done = 0
        for item in range(self.n):
            begin(item)
            if item in lost:
                continue
            if item == self.at:
                self.deed()
            done += 1
        return done, dict(lost)


def nothing() -> None:
    """Do nothing."""


def die() -> None:
    os.kill(os.getpid(), signal.SIGABRT)


def hang() -> None:
    time.sleep(60)


def want_memory() -> None:
    bytearray(pools.WORKER_MEMORY_BYTES + (1 << 20))


@dataclass(frozen=True)
class DieOnce:
    mark: Path

    def __call__(self) -> None:
        if not self.mark.exists():
            self.mark.touch()
            die()


@dataclass(frozen=True)
class DieOutside:
    """Job: die when no item is in work."""

    def __call__(self, begin: Begin, lost: Lost) -> None:
        die()


def results(jobs: list[Count], *, n_workers: int) -> list[tuple[int, dict[int, Reason]]]:
    with Pool(n_workers) as pool:
        found = dict(pool.run(jobs))
    return [found[number] for number in range(len(jobs))]


@pytest.mark.parametrize("n_workers", [1, 2])
def test_an_item_that_ends_its_process_is_lost_and_nothing_else(n_workers: int) -> None:
    jobs = [Count(5, at=at, deed=die if at == 3 else nothing) for at in range(5)]
    expected = [(5, {})] * 3 + [(4, {3: Reason.DECODER_CRASHED})] + [(5, {})]
    assert results(jobs, n_workers=n_workers) == expected


def test_a_process_that_ended_once_is_no_reason_to_lose_an_item(tmp_path: Path) -> None:
    assert results([Count(3, at=1, deed=DieOnce(tmp_path / "died"))], n_workers=1) == [(3, {})]
    assert (tmp_path / "died").exists()


def test_an_item_that_takes_too_long_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "ITEM_LIMIT_S", 0.5)
    began_s = time.perf_counter()
    assert results([Count(3, at=1, deed=hang), Count(3, at=0, deed=nothing)], n_workers=1) == [
        (2, {1: Reason.TIMEOUT}),
        (3, {}),
    ]
    assert time.perf_counter() - began_s < 10


def test_memory_is_limited() -> None:
    with Pool(1) as pool, pytest.raises(MemoryError):
        list(pool.run([Count(1, at=0, deed=want_memory)]))


class RayError(Exception):
    """Ray's: of whatever goes wrong in a cluster."""


class RayTaskError(RayError):
    """Ray's: what a job raised is its cause."""

    def __init__(self, cause: Exception | None) -> None:
        super().__init__()
        self.cause = cause


class OutOfMemoryError(RayError):
    """Ray's: it killed a worker to save its machine."""


@dataclass(frozen=True)
class ClusterThatFails:
    """As much of Ray as a pool asks for; every job ends in an error."""

    error: RayError
    exceptions: ClassVar = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 1.0}

    def remote(self, **_: object) -> Callable[[object], object]:
        return lambda function: SimpleNamespace(remote=lambda job: job)

    def wait(self, jobs: list[object]) -> tuple[list[object], list[object]]:
        return jobs[:1], jobs[1:]

    def get(self, job: object) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "raised", "says"),
    [
        (OutOfMemoryError(), OutOfResourcesError, r"a machine of the cluster was lost \(OutOfMemoryError\). Run again"),
        (RayTaskError(ValueError("of the job")), ValueError, "of the job"),
    ],
    ids=["a machine is lost", "a job fails"],
)
def test_what_goes_wrong_in_a_cluster_is_told(
    monkeypatch: pytest.MonkeyPatch, error: RayError, raised: type[Exception], says: str
) -> None:
    monkeypatch.setitem(sys.modules, "ray", ClusterThatFails(error))
    with RayPool() as pool, pytest.raises(raised, match=says):
        list(pool.run([Count(1, at=0, deed=nothing)]))


def test_processes_that_end_outside_of_items_are_an_error() -> None:
    with Pool(1) as pool, pytest.raises(OutOfResourcesError, match="Run again with fewer jobs"):
        list(pool.run([DieOutside()]))


def test_a_pool_runs_one_list_of_jobs_after_another_and_none_at_all() -> None:
    with Pool(2) as pool:
        assert list(pool.run([])) == []
        for _ in range(2):
            assert sorted(pool.run([Count(2, at=0, deed=nothing)] * 3)) == [(i, (2, {})) for i in range(3)]


def test_a_worker_killed_while_idle_is_replaced() -> None:
    with Pool(1) as pool:
        results = pool.run([Count(1, at=0, deed=nothing), Count(2, at=0, deed=nothing)])
        assert next(results) == (0, (1, {}))
        (worker,) = pool._workers
        os.kill(worker.process.pid or 0, signal.SIGKILL)
        worker.process.join()
        assert list(results) == [(1, (2, {}))]
