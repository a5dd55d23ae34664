"""Prints what a check runs on, as JSON; or one line that says why there is nothing to check, with exit code 4.

A program of its own: who asks CUDA for anything holds memory of the GPU until it ends.
"""

import json
import os
import platform
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

from runner import MISSING


def missing_gpu() -> str | None:
    """Why there is nothing to check, or None."""
    if find_spec("torch") is None:
        return f"{sys.executable} has no torch. Set PYTHON to a Python that has"
    import torch

    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no NVIDIA GPU; nothing was built, tested or timed. Run nvidia-smi"
    return None


def facts(kind: str) -> dict[str, Any]:
    """Device, versions, cores."""
    import torch
    from devices import device_of

    return {
        "device": device_of(kind).name,
        "n_devices": torch.cuda.device_count() if kind == "cuda" else 0,
        "device_mib": round(device_of(kind).total_mib()),
        "driver": _driver() if kind == "cuda" else "none",
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version(),
        "python": platform.python_version(),
        "glibc": platform.libc_ver()[1],
        "cores": os.cpu_count(),
    }


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


if __name__ == "__main__":
    wanted = sys.argv[1]
    problem = missing_gpu() if wanted == "cuda" else None
    sys.stdout.write((problem or json.dumps(facts(wanted))) + "\n")
    sys.exit(MISSING if problem else 0)
