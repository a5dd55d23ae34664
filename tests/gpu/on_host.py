"""Compiles csrc for the host: the CUDA kernels on an emulated runtime, under a sanitizer or with a fault planted."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
FLAGS = ("-std=c++20", "-fPIC", "-ffp-contract=off", "-fno-strict-aliasing", "-Wno-unknown-pragmas")
SCHEDULER = "tests/gpu/emulated/scheduler.cpp"


def compile_all(
    folder: Path, *sources: str | tuple[str, ...], root: Path = ROOT, flags: Sequence[str] = ("-O2",)
) -> list[Path]:
    """Compile sources of the tree `root`, each with flags of its own after it; returns the object files.

    The scheduler of emulated threads is compiled without `flags`: no sanitizer may watch it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    places = [f"-I{root}", f"-I{root / 'tests/gpu'}", f"-I{root / 'tests/gpu/emulated'}"]

    def compile_one(numbered: tuple[int, str | tuple[str, ...]]) -> Path:
        number, source = numbered
        name, *own_flags = (source,) if isinstance(source, str) else source
        output = folder / f"{number}_{Path(name).stem}.o"
        chosen = ["-O2"] if name == SCHEDULER else [*flags, *own_flags]
        subprocess.run(["g++", *FLAGS, *places, *chosen, "-c", root / name, "-o", output], check=True)
        return output

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_one, enumerate(sources)))


def link(output: Path, objects: Sequence[Path], *flags: str) -> Path:
    """Link a program, or with -shared a library."""
    subprocess.run(["g++", *flags, *objects, "-o", output], check=True)
    return output


class Fault(NamedTuple):
    """The nth `good` of a file becomes `bad`."""

    name: str
    good: str
    bad: str
    nth: int = 0


def with_faults(folder: Path, *faults: Fault) -> Path:
    """A copy of csrc and of these tests with faults planted."""
    for part in ("csrc", "tests/gpu"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name, good, bad, nth in faults:
        parts = (folder / name).read_text().split(good)
        assert len(parts) > nth + 1, f"{name} has no {good!r} number {nth}"
        before, after = good.join(parts[: nth + 1]), good.join(parts[nth + 1 :])
        (folder / name).write_text(f"{before}{bad}{after}")
    return folder


def lacks_sanitizer(name: str) -> bool:
    """Whether g++ comes without libasan or libtsan."""
    if shutil.which("g++") is None:
        return True
    found = subprocess.run(["g++", f"-print-file-name=lib{name}.so"], capture_output=True, text=True, check=True)
    return not Path(found.stdout.strip()).is_absolute()


def output_of(program: Path, *arguments: str) -> str:
    """What a program prints."""
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=True).stdout
