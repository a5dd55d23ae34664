"""The cores and the resident memory of this process, and what the C library does with freed memory."""

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # mallopt(3), <malloc.h>
_LARGEST_THRESHOLD = 32 * 2**20  # glibc's limit: larger blocks always come fresh from the system
_NEVER_TRIM = 2**31 - 1
_SMALL = 64 * 2**10  # bytes; what is larger than this is most of what there is
_RESET_PEAK = "5"  # proc(5), /proc/pid/clear_refs


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Resident now, and at most since the last `reset_peak`, MiB."""

    now_mib: float
    peak_mib: float

    @classmethod
    def read(cls) -> "Memory":
        """Read both."""
        fields = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
        now_mib, peak_mib = (int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
        return cls(now_mib=now_mib, peak_mib=peak_mib)


def reset_peak() -> bool:
    """Count the peak from now on. Some containers forbid it: then it stays that of the whole process, and False."""
    try:
        _CLEAR.write_text(_RESET_PEAK)
    except OSError:
        return False
    return True


def keep_freed_memory() -> bool:
    """Let glibc hand out freed memory again instead of returning it to the system; False with another C library.

    A new image of 3 MB otherwise costs 700 page faults in every thread but the first: in a virtual machine as long as
    the fused operator takes to fill it. Our operators and DALI keep the memory of their results without it.
    """
    return _set_thresholds(mmap=_LARGEST_THRESHOLD, trim=_NEVER_TRIM)


def return_freed_memory() -> bool:
    """Let glibc return what is freed to the system at once, so that the peak is of what is in use; False with another.

    Left alone, it keeps freed blocks by a rule that depends on all that came before, and the peak grows with its holes.
    """
    return _set_thresholds(mmap=_SMALL, trim=_SMALL)


def _set_thresholds(*, mmap: int, trim: int) -> bool:
    """Tell glibc from how many bytes on a block comes from the system, and free memory goes back to it."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_MMAP_THRESHOLD, mmap) and mallopt(_M_TRIM_THRESHOLD, trim))


def in_fresh_process(call: Callable[..., float], *arguments: object, **options: object) -> float:
    """Call a function of a module in a new process, and return its result."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(call, *arguments, **options).result()
