"""The parts of a check of a GPU, the most valuable first, with the most time that each may take.

The two commands together fit a quarter of an hour with such a machine, its start and what is carried there included.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runner import Part


@dataclass(frozen=True)
class Planned:
    """A part of part.py, with its limit, s. prepares: others need what it leaves, so it is done in every command."""

    name: str
    limit_s: float
    prepares: bool = False


# Limits are those of a GPU. A part that looks for faults comes before one that times, and small before large.
COMMANDS: dict[int, tuple[Planned, ...]] = {
    1: (
        Planned("unpack", 30, prepares=True),
        Planned("extension", 140, prepares=True),  # 120 of them where it must be built
        Planned("parity", 75),
        Planned("kernel", 60),
        Planned("step", 75),
        Planned("more_steps", 75),
        Planned("counters", 60),
    ),
    2: (
        Planned("unpack", 60, prepares=True),
        Planned("dali", 45),
        Planned("lifetimes", 45),
        Planned("loader", 45),
        Planned("store", 60, prepares=True),
        Planned("end_to_end_dali", 90),
        Planned("end_to_end_torch", 90),
        Planned("memory", 30),
        Planned("compiled_step", 110),
    ),
}
ON_REQUEST = Planned("sanitizers", 480)
BUDGET_S = {1: 360.0, 2: 420.0}  # of 900, less some two minutes in which the machine starts and files travel
PATIENCE = 5  # times as long may a rehearsal take: a CPU is shared with others
# What only a GPU shows. A rehearsal writes down each thing that stood in for another; there may be no more than these.
NOT_REHEARSED = (
    "CUDA events, streams and counters of memory",
    "Nsight Compute",
    "compute-sanitizer",
    "tests of DALI's operators on a device",
    "tests of the loader on a device",
    "tests of the operators on a device",
)


def parts_of(
    planned: Sequence[Planned], *, journal: Path, scratch: Path, pack: Path | None, is_rehearsal: bool
) -> list[Part]:
    """The commands of these parts; without what was carried there is nothing to unpack."""
    how = ["--journal", str(journal), "--scratch", str(scratch)]
    how += ["--pack", str(pack)] if pack else []
    how += ["--device", "cpu", "--scale", "tiny"] if is_rehearsal else []
    program = str(Path(__file__).with_name("part.py"))
    patience = PATIENCE if is_rehearsal else 1
    return [
        Part(one.name, (sys.executable, program, one.name, *how), patience * one.limit_s, prepares=one.prepares)
        for one in planned
        if pack or one.name != "unpack"
    ]
