"""Runs the same jobs on a Ray cluster, whose machines see the same files under the same paths."""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, TypeVar

from rsna_e2e.core.errors import MissingCapabilityError, OutOfResourcesError
from rsna_e2e.store.prepare.pool import Job, Pool

_Result = TypeVar("_Result")

AHEAD = 2  # jobs for each of the cluster's cores, so that none waits for the next


class RayPool:
    """Context like `Pool`, for a cluster: the one that RAY_ADDRESS names, or this machine by itself.

    Every job runs in a process of its own with the limits of `Pool`. Raises MissingCapabilityError without Ray.
    """

    def __init__(self) -> None:
        try:
            import ray
        except ImportError:
            raise MissingCapabilityError("Ray is missing; install it with: pip install 'rsna_e2e[cluster]'") from None
        self._ray = ray
        self._owns_it = not ray.is_initialized()

    def __enter__(self) -> "RayPool":
        if self._owns_it:
            self._ray.init(log_to_driver=False, include_dashboard=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._owns_it:
            self._ray.shutdown()

    def run(self, jobs: Sequence[Job[_Result]]) -> Iterator[tuple[int, _Result]]:
        """Yield (number of the job, its result) as jobs end. Raises what a job raises, and OutOfResourcesError."""
        run_alone: Any = self._ray.remote(num_cpus=1)(_run_alone)
        room = AHEAD * int(self._ray.cluster_resources()["CPU"])
        waiting: dict[Any, int] = {}
        for number, job in enumerate(jobs):
            waiting[run_alone.remote(job)] = number
            if len(waiting) >= room:
                yield self._next(waiting)
        while waiting:
            yield self._next(waiting)

    def _next(self, waiting: dict[Any, int]) -> tuple[int, Any]:
        (ready,), _ = self._ray.wait(list(waiting))
        try:
            return waiting.pop(ready), self._ray.get(ready)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self._ray.exceptions.RayError as error:  # all others are of machines and their processes
            raise OutOfResourcesError(
                f"a machine of the cluster was lost ({type(error).__name__}). Run again"
            ) from None


def _run_alone(job: Job[Any]) -> Any:
    with Pool(1) as pool:
        ((_, result),) = pool.run([job])
    return result
