"""Resident memory of this process, as Linux tells it."""

from dataclasses import dataclass
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5), /proc/pid/clear_refs


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
