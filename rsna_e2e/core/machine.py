"""Describes code, libraries and hardware for the manifest of a run and the header of a benchmark; no path or host
name."""

import hashlib
import os
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from rsna_e2e import __version__
from rsna_e2e.core.files import sha256_of
from rsna_e2e.core.process import available_cores

_PACKAGE = Path(__file__).parents[1]
_GIT_TIMEOUT_S = 10.0

# What a trained weight may depend on
_LIBRARIES = ("torch", "torchvision", "timm", "numpy", "safetensors", "nvidia-dali-cuda130", "nvidia-dali-cuda120")


def describe_code() -> dict[str, Any]:
    """Return the package's version, git commit ("+" where files differ from it, None outside a checkout) and sha256."""
    return {"version": __version__, "commit": commit(), "sha256": code_sha256()}


def describe_environment(*, n_ranks: int) -> dict[str, Any]:
    """Return versions, processor, GPUs and how much of the machine is ours."""
    has_gpu = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "libraries": library_versions(_LIBRARIES) | {"torch": torch.__version__},  # it names its build
        "cuda": torch.version.cuda if has_gpu else None,
        "cudnn": cudnn_version() if has_gpu else None,
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if has_gpu else [],
        "cpu": cpu_name(),
        "cores": available_cores(),
        "memory_gib": memory_gib(),
        "n_ranks": n_ranks,
        "threads": torch.get_num_threads(),
    }


def commit() -> str | None:
    """Return the commit of the git checkout that the package lies in, with "+" where files differ from it."""
    root = _PACKAGE.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=7", "--exclude=*"]
    try:
        described = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_GIT_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


def code_sha256() -> str:
    """Return a sha256 over the package's Python files and compiled extensions, and their names."""
    total = hashlib.sha256()
    for path in sorted([*_PACKAGE.rglob("*.py"), *_PACKAGE.rglob("*.so")]):
        total.update(f"{path.relative_to(_PACKAGE).as_posix()} {sha256_of(path)}\n".encode())
    return total.hexdigest()


def library_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of those libraries that are installed."""
    return {name: found for name in names if (found := _version(name))}


def cpu_name() -> str:
    """Return the processor's name as the system knows it."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.is_file() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def memory_gib() -> float:
    """Return the machine's memory."""
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def cudnn_version() -> int | None:
    """Return the version of cuDNN that torch has, such as 91002 for 9.10.2."""
    found: int | None = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return found


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
