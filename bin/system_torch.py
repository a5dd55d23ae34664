"""What bin/setup.sh --system-torch keeps of the system and what it installs beside that. Prints pip requirements.

kept LOCK     run by the system's Python: one line, what stays as it is
rest LOCK     the same: the locked packages without those that torch, torchvision, DALI and CUDA consist of
devices LOCK  run by the .venv's Python when the rest is in: DALI and a CUDA compiler, if there are none that fit torch

Decisions go to stderr. Exit code 4: the system has no torch that this project runs on.
"""

import importlib.metadata
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
OLDEST = (2, 11)  # setup.py, TORCH_ABI
KEPT = re.compile("torch|torchvision|triton|pytorch-triton|apex|nvidia-dali-cuda[0-9]+")
# What comes with torch, DALI or the CUDA toolkit. The compiler for the oldest GPUs lies in a folder of its own.
OF_DEVICES = re.compile("torch|torchvision|triton|cuda-.*|nvidia-(?!cuda-nvrtc-cu12).*")
OF_DALI = re.compile("nvidia-(dali|libnvcomp|nvimgcodec|nvjpeg|nvjpeg2k|nvtiff)(-.*)?")


def say(message: str) -> None:
    """Print a decision."""
    print(f"setup: {message}", file=sys.stderr)


def stop(message: str) -> NoReturn:
    """End with one line: something is missing."""
    say(message)
    sys.exit(4)


def locked(lock: Path) -> Iterator[tuple[str, str]]:
    """Name and requirement of every package in a lock."""
    for line in lock.read_text().splitlines():
        name, separator, _ = line.partition("==")
        if separator:
            yield name, line


def kept() -> dict[str, str]:
    """Names and versions of what stays. The first of two of one name is the one that Python imports."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = re.sub("[-_.]+", "-", distribution.metadata["Name"] or "").lower()
        if KEPT.fullmatch(name):
            found.setdefault(name, distribution.version)
    return found


def rest(lock: Path) -> list[str]:
    """Requirements of everything but devices. Stops where the system's torch cannot be used."""
    found = kept()
    if "torch" not in found:
        stop(f"--system-torch, but {sys.executable} has no torch. Leave the option away to install the locked one")
    if tuple(int(part) for part in found["torch"].split(".")[:2]) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        stop(
            f"--system-torch, but the system's torch is {found['torch']}: the extension uses the stable interface that "
            f"torch has since {oldest}. Take a newer base, or leave the option away to install the locked torch"
        )
    if "torchvision" not in found:
        stop(f"--system-torch, but the system has no torchvision for its torch {found['torch']}. Install it there")
    say(f"kept as the system has them: {', '.join(f'{name} {version}' for name, version in sorted(found.items()))}")
    return [line for name, line in locked(lock) if not OF_DEVICES.fullmatch(name)]


def devices(lock: Path) -> list[str]:
    """Requirements of DALI and a CUDA compiler where there are none."""
    sys.path.insert(0, str(ROOT))
    import setup

    torch_dir = setup.find_torch()
    wanted = setup.compilers_to_install(torch_dir)
    has_dali = importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.dali") is not None
    if not has_dali and os.environ.get("RSNA_WITH_DALI", "auto") != "0":
        stack = lock.with_name("volta.txt") if setup.cuda_homes(torch_dir)[0] == "12" else lock
        wanted += [line for name, line in locked(stack) if OF_DALI.fullmatch(name)]
    say(f"from PyPI for the system's torch: {' '.join(wanted) or 'nothing'}")
    return wanted


if __name__ == "__main__":
    what, lock = sys.argv[1], Path(sys.argv[2])
    if what == "kept":
        print(*(f"{name}={version}" for name, version in sorted(kept().items())))
    else:
        sys.stdout.writelines(f"{line}\n" for line in {"rest": rest, "devices": devices}[what](lock))
