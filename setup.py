"""Builds the extension rsna_e2e/_C.abi3.so: a C++ compiler is required, a CUDA compiler is used where there is one.

RSNA_WITH_CUDA=auto|0|1 decides about the CUDA half (auto: if a compiler is found; a visible GPU plays no part).
A CUDA compiler is looked for in CUDA_HOME, then in PyPI's nvidia-cuda-nvcc, then on the PATH.
CXX names the C++ compiler.
Everything else about the package is in pyproject.toml.
"""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CSRC = Path("csrc")
HOST_FLAGS = ["-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off"]
# Allowed in the kernels because the bindings let only finite numbers in; none of these reorders arithmetic.
KERNEL_FLAGS = ["-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-ffinite-math-only"]
# One build of the CPU kernel per instruction set; the best that the CPU has is chosen at run time. The generic tuning
# would avoid gather instructions, which make up a third of the speed.
X86_64_VARIANTS = {
    "v3": ["-march=x86-64-v3", "-mtune=haswell"],
    "v4": ["-march=x86-64-v4", "-mtune=skylake-avx512", "-mprefer-vector-width=512"],
}
TORCH_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # torch 2.11: nothing newer slips in


def stop(message: str) -> NoReturn:
    """End the build with one line instead of a traceback."""
    sys.exit(f"rsna_e2e: {message}")


@dataclass(frozen=True)
class Compilation:
    """One source file to one object file."""

    command: list[str]
    source: Path
    object_name: str


def find_cxx() -> str:
    """Path of the C++ compiler."""
    for name in filter(None, (os.environ.get("CXX"), "g++", "c++", "clang++")):
        path = shutil.which(name)
        if path is not None:
            return path
    stop("no C++ compiler found. Install one (Debian: apt install g++; Fedora: dnf install gcc-c++) or set CXX.")


def find_torch() -> Path:
    """Folder of the installed torch."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        stop("torch is not installed where the extension is built. Install it first: pip install 'torch>=2.11'")
    return Path(spec.origin).parent


class BuildExtension(build_ext):
    """Compiles each source with its own flags, several at a time, and links them to one library."""

    def build_extension(self, ext: Extension) -> None:
        torch_dir, cxx = find_torch(), find_cxx()
        compilations = host_compilations(cxx, torch_dir)
        print(f"rsna_e2e: C++ compiler {cxx}; torch {torch_dir}; CPU half: {platform.machine()}")
        build_dir = Path(self.build_temp)
        build_dir.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(lambda item: compile_one(item, build_dir), compilations))
        library = Path(self.get_ext_fullpath(ext.name))
        library.parent.mkdir(parents=True, exist_ok=True)
        run([cxx, "-shared", *map(str, objects), f"-L{torch_dir / 'lib'}", "-ltorch_cpu", "-o", str(library)])
        print(f"rsna_e2e: built {library}")


def host_compilations(cxx: str, torch_dir: Path) -> list[Compilation]:
    """What the C++ compiler has to do."""
    host = [cxx, *HOST_FLAGS]
    kernel, kernel_source = [*host, *KERNEL_FLAGS], CSRC / "cpu/ct_slices.cpp"
    variants = X86_64_VARIANTS if platform.machine() in ("x86_64", "AMD64") else {}
    dispatch = [*host, "-DRSNA_X86_64_VARIANTS"] if variants else host
    binding = [*host, TORCH_ABI, "-isystem", str(torch_dir / "include")]
    return [
        Compilation(binding, CSRC / "bindings/torch_ops.cpp", "torch_ops.o"),
        *(
            Compilation([*kernel, *flags, f"-DRSNA_CPU_KERNEL=transform_rows_{name}"], kernel_source, f"cpu_{name}.o")
            for name, flags in {"baseline": [], **variants}.items()
        ),
        Compilation(dispatch, CSRC / "cpu/dispatch.cpp", "dispatch.o"),
        Compilation(host, CSRC / "ct_params.cpp", "ct_params.o"),
    ]


def compile_one(item: Compilation, build_dir: Path) -> Path:
    """Run one compilation and return the object file."""
    output = build_dir / item.object_name
    run([*item.command, "-c", str(item.source), "-o", str(output)])
    return output


def run(command: Sequence[str]) -> None:
    """Run a compiler; its own messages go to the terminal."""
    if subprocess.run(command).returncode != 0:
        stop(f"this command failed, see the messages above: {' '.join(command)}")


setup(
    ext_modules=[Extension("rsna_e2e._C", sources=[], py_limited_api=True)],
    cmdclass={"build_ext": BuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
