"""What is asked of a GPU beside computing, and what a CPU answers in a rehearsal: events, waiting, memory.

Every function that measures takes one of the two, so that a rehearsal runs the lines that a GPU will run.
"""

import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch

from rsna_e2e.core.machine import cpu_name, memory_gib
from rsna_e2e.core.process import Memory, reset_peak

WAIT_CYCLES = 50_000_000  # some 30 ms, in which the host queues work up
MIB = 2**20


class Event(Protocol):
    """A point in the device's queue."""

    def record(self) -> None: ...

    def elapsed_time(self, end: Any) -> float:
        """Milliseconds to a later one."""


class Device(Protocol):
    """A GPU, or the CPU in its place. kind: cuda or cpu, as torch calls it."""

    kind: str

    @property
    def name(self) -> str: ...

    def event(self) -> Event: ...

    def hold(self) -> None:
        """Let the queue wait, so that what is queued next comes all at once."""

    def synchronise(self) -> None: ...

    def side_stream(self) -> AbstractContextManager[Any]:
        """A queue of its own for what is computed within."""

    def pinned(self, tensor: torch.Tensor) -> torch.Tensor: ...

    def reset_peak(self) -> None: ...

    def peak_mib(self) -> float:
        """The most memory of tensors since `reset_peak`; on a CPU, of the process."""

    def total_mib(self) -> float:
        """All the memory that the device has."""

    def used_mib(self) -> float:
        """Memory that is taken from the device by anyone: torch's, DALI's and the driver's; on a CPU, the process's."""


class Gpu:
    """The GPU that torch takes by default."""

    kind = "cuda"

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name()

    def event(self) -> Event:
        return torch.cuda.Event(enable_timing=True)

    def hold(self) -> None:
        torch.cuda._sleep(WAIT_CYCLES)

    def synchronise(self) -> None:
        torch.cuda.synchronize()

    def side_stream(self) -> AbstractContextManager[Any]:
        return torch.cuda.stream(torch.cuda.Stream())

    def pinned(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.pin_memory()

    def reset_peak(self) -> None:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    def peak_mib(self) -> float:
        return torch.cuda.max_memory_allocated() / MIB

    def total_mib(self) -> float:
        return torch.cuda.mem_get_info()[1] / MIB

    def used_mib(self) -> float:
        free, total = torch.cuda.mem_get_info()
        return (total - free) / MIB


class HostEvent:
    """A CPU has no queue: a point in it is now."""

    def record(self) -> None:
        self.at_s = time.perf_counter()

    def elapsed_time(self, end: "HostEvent") -> float:
        return 1e3 * (end.at_s - self.at_s)


class Cpu:
    """The CPU, in the place of a GPU."""

    kind = "cpu"

    @property
    def name(self) -> str:
        return f"REHEARSAL on {cpu_name()}"

    def event(self) -> Event:
        return HostEvent()

    def hold(self) -> None:
        pass

    def synchronise(self) -> None:
        pass

    def side_stream(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def pinned(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.clone()

    def reset_peak(self) -> None:
        reset_peak()

    def peak_mib(self) -> float:
        return Memory.read().peak_mib

    def total_mib(self) -> float:
        return 1024 * memory_gib()

    def used_mib(self) -> float:
        return Memory.read().now_mib


def device_of(kind: str) -> Device:
    """The device that torch calls `kind`."""
    return Gpu() if kind == "cuda" else Cpu()
