"""Builds the extension rsna_e2e/_C.abi3.so: a C++ compiler is required, a CUDA compiler is used where there is one.

RSNA_WITH_CUDA=auto|0|1 decides about the CUDA half (auto: if a compiler is found; a visible GPU plays no part).
A CUDA compiler is looked for in CUDA_HOME, then in PyPI's nvidia-cuda-nvcc, then on the PATH.
CXX names the C++ compiler.
Everything else about the package is in pyproject.toml.
"""

import importlib.util
import os
import platform
import re
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
# --fmad=false: no contraction, as on the CPU. Of the architectures, those that the compiler knows are built.
NVCC_FLAGS = ["-std=c++17", "-O3", "--fmad=false", "-Werror", "all-warnings"]
NVCC_HOST_FLAGS = ["-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]
PYPI_COMPILER = ("nvidia-cuda-nvcc", "nvidia-cuda-crt", "nvidia-nvvm")
CUDA_ARCHITECTURES = ("70", "75", "80", "90", "100")
TORCH_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # torch 2.11: nothing newer slips in


def say(message: str) -> None:
    """Print a decision of this build."""
    print(f"rsna_e2e: {message}", flush=True)


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
    """Path of the C++ compiler: CXX if it is set."""
    chosen = os.environ.get("CXX")
    for name in (chosen,) if chosen else ("g++", "c++", "clang++"):
        path = shutil.which(name)
        if path is not None:
            return path
    if chosen:
        stop(f"CXX names {chosen!r}, which is no command. Set it to a C++ compiler, or unset it")
    stop("no C++ compiler found. Install one (Debian: apt install g++; Fedora: dnf install gcc-c++) or set CXX")


def find_torch() -> Path:
    """Folder of the installed torch."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        stop("torch is not installed where the extension is built. Install it first: pip install 'torch>=2.11'")
    return Path(spec.origin).parent


@dataclass(frozen=True)
class CudaToolkit:
    """A CUDA compiler and the runtime library that belongs to it."""

    nvcc: Path
    runtime: Path


def find_cuda(torch_dir: Path) -> CudaToolkit | None:
    """The CUDA toolkit to build with, or None. Prints why."""
    choice = os.environ.get("RSNA_WITH_CUDA", "auto")
    if choice not in ("auto", "0", "1"):
        stop(f"RSNA_WITH_CUDA is {choice!r}; it must be auto, 0 or 1")
    if choice == "0":
        say("CUDA half: no, RSNA_WITH_CUDA=0")
        return None
    toolkit, reason = search_cuda(torch_dir)
    if toolkit is None and choice == "1":
        stop(f"RSNA_WITH_CUDA=1, but {reason}")
    say(f"CUDA half: no, {reason}" if toolkit is None else f"CUDA half: yes, with {toolkit.nvcc}")
    return toolkit


def search_cuda(torch_dir: Path) -> tuple[CudaToolkit | None, str]:
    """The first toolkit of torch's CUDA version, or None and the reason."""
    version = re.search(r"^cuda\b.*?(\d+)\.(\d+)", (torch_dir / "version.py").read_text(), re.MULTILINE)
    if version is None:
        return None, "this torch is built without CUDA"
    major, minor = version.groups()
    on_path = shutil.which("nvcc")
    homes = [
        *([Path(os.environ["CUDA_HOME"])] if os.environ.get("CUDA_HOME") else []),
        torch_dir.parent / "nvidia" / f"cu{major}",
        *([Path(on_path).resolve().parents[1]] if on_path else []),
    ]
    for home in homes:
        runtimes = [path for name in ("lib64", "lib") for path in sorted((home / name).glob(f"libcudart.so.{major}*"))]
        if (home / "bin/nvcc").exists() and runtimes:
            return CudaToolkit(home / "bin/nvcc", runtimes[0]), ""
    packages = " ".join(f"'{name}=={major}.{minor}.*'" for name in PYPI_COMPILER)
    return (
        None,
        f"no compiler for CUDA {major} in {', '.join(map(str, homes))}. Set CUDA_HOME, or: pip install {packages}",
    )


def cuda_compilation(toolkit: CudaToolkit, cxx: str) -> Compilation:
    """What nvcc has to do: code for each architecture, and PTX of the last for those to come."""
    listed = subprocess.run(
        [toolkit.nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True
    ).stdout.split()
    known = [architecture for architecture in CUDA_ARCHITECTURES if f"sm_{architecture}" in listed]
    targets = [f"-gencode=arch=compute_{one},code=sm_{one}" for one in known]
    targets.append(f"-gencode=arch=compute_{known[-1]},code=compute_{known[-1]}")
    say(f"CUDA architectures: {' '.join(known)}")
    host_flags = [f"-Xcompiler={','.join(NVCC_HOST_FLAGS)}", f"-ccbin={cxx}"]
    command = [str(toolkit.nvcc), *NVCC_FLAGS, *host_flags, *targets, "--threads=2"]
    return Compilation(command, CSRC / "cuda/ct_slices.cu", "cuda.o")


class BuildExtension(build_ext):
    """Compiles each source with its own flags, several at a time, and links them to one library."""

    def build_extension(self, ext: Extension) -> None:
        torch_dir, cxx = find_torch(), find_cxx()
        say(f"C++ compiler {cxx}; torch {torch_dir}; CPU half for {platform.machine()}")
        toolkit = find_cuda(torch_dir)
        compilations = host_compilations(cxx, torch_dir, with_cuda=toolkit is not None)
        libraries = [f"-L{torch_dir / 'lib'}", "-ltorch_cpu"]
        if toolkit is not None:
            compilations.insert(0, cuda_compilation(toolkit, cxx))
            libraries += ["-ltorch_cuda", str(toolkit.runtime)]
        build_dir = Path(self.build_temp)
        build_dir.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(lambda item: compile_one(item, build_dir), compilations))
        library = Path(self.get_ext_fullpath(ext.name))
        library.parent.mkdir(parents=True, exist_ok=True)
        run([cxx, "-shared", *map(str, objects), *libraries, "-o", str(library)])
        say(f"built {library}")


def host_compilations(cxx: str, torch_dir: Path, *, with_cuda: bool) -> list[Compilation]:
    """What the C++ compiler has to do."""
    host = [cxx, *HOST_FLAGS]
    kernel, kernel_source = [*host, *KERNEL_FLAGS], CSRC / "cpu/ct_slices.cpp"
    variants = X86_64_VARIANTS if platform.machine() in ("x86_64", "AMD64") else {}
    dispatch = [*host, "-DRSNA_X86_64_VARIANTS"] if variants else host
    binding = [*host, TORCH_ABI, "-isystem", str(torch_dir / "include")]
    if with_cuda:
        binding += ["-DRSNA_WITH_CUDA", "-DUSE_CUDA"]  # the second makes torch's header declare its CUDA functions
    return [
        Compilation(binding, CSRC / "bindings/torch_ops.cpp", "torch_ops.o"),
        *(
            Compilation([*kernel, *flags, f"-DRSNA_CPU_KERNEL=transform_rows_{name}"], kernel_source, f"cpu_{name}.o")
            for name, flags in {"baseline": [], **variants}.items()
        ),
        Compilation(dispatch, CSRC / "cpu/dispatch.cpp", "dispatch.o"),
        Compilation(host, CSRC / "cpu/content.cpp", "content.o"),
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
        hint = "it needs g++ 11 or newer; RSNA_WITH_CUDA=0 leaves CUDA out"
        stop(f"this command failed, its messages are above ({hint}): {' '.join(command)}")


setup(
    ext_modules=[Extension("rsna_e2e._C", sources=[], py_limited_api=True)],
    cmdclass={"build_ext": BuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
