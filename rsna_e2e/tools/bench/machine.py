"""The machine that a benchmark ran on, and pinning work to some of its cores."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from rsna_e2e import __version__
from rsna_e2e.core.machine import commit, cpu_name, library_versions, memory_gib
from rsna_e2e.core.process import available_cores
from rsna_e2e.loader.kernels import torch_ops

LIBRARIES = (
    "torch", "torchvision", "numpy", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "opencv-python-headless", "monai",
    "albumentations",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where and with what a benchmark ran.

    instruction_sets: those of our compiled CPU kernels that this CPU supports, the one in use first. load_average: over
    the last minute, just before the benchmark. commit: of a git checkout ("+" where files differ from
    it), else the package's version.
    """

    cpu: str
    cores: int
    instruction_sets: tuple[str, ...]
    gpu: str | None
    memory_gib: float
    load_average: float
    python: str
    versions: dict[str, str]
    commit: str

    @classmethod
    def here(cls) -> "Machine":
        """Describe this machine."""
        return cls(
            cpu=cpu_name(),
            cores=available_cores(),
            instruction_sets=torch_ops.cpu_instruction_sets(),
            gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            memory_gib=memory_gib(),
            load_average=round(os.getloadavg()[0], 2),
            python=platform.python_version(),
            versions=library_versions(LIBRARIES),
            commit=commit() or f"rsna_e2e {__version__}",
        )

    def __str__(self) -> str:
        libraries = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        return (
            f"{self.cpu}, {self.cores} cores ({self.instruction_sets[0]}), {self.memory_gib:.0f} GiB, "
            f"{self.gpu or 'no GPU'}; load {self.load_average}; commit {self.commit}\n"
            f"Python {self.python}, {libraries}"
        )


@contextmanager
def pinned(cores: int) -> Iterator[None]:
    """Restrict this thread, and threads it starts in the block, to `cores` of its cores; torch uses as many threads."""
    allowed, threads = os.sched_getaffinity(0), torch.get_num_threads()
    try:
        os.sched_setaffinity(0, sorted(allowed)[-cores:])
        torch.set_num_threads(cores)
        yield
    finally:
        os.sched_setaffinity(0, allowed)
        torch.set_num_threads(threads)
