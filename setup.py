"""Builds three libraries: rsna_e2e/loader/kernels/_C.abi3.so for torch, beside it _dali-VERSION.so for the installed
DALI of that version, and rsna_e2e/dicom/_jpeg.abi3.so, which is linked to neither torch nor DALI.

A C++ compiler is required; CXX names it. RSNA_WITH_CUDA=auto|0|1 decides about the CUDA half of the first two (auto: if
a CUDA compiler is found; a visible GPU plays no part). It is looked for in CUDA_HOME, then in PyPI's nvidia-cuda-nvcc,
then on the PATH. RSNA_WITH_DALI=auto|0|1 decides about DALI's plugin (auto: if DALI and the headers of CUDA are found).
Everything else about the package is in pyproject.toml.
"""

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CSRC, KERNELS = Path("csrc"), Path("rsna_e2e/loader/kernels")
TORCH_LIBRARY, DALI_LIBRARY = "rsna_e2e.loader.kernels._C", "rsna_e2e.loader.kernels._dali"
JPEG_LIBRARY = "rsna_e2e.dicom._jpeg"
PLUGINS = "_dali-*.so"  # one for each version of DALI
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
PYPI_HEADERS = ("nvidia-cuda-runtime", "nvidia-cuda-cccl")  # what it includes; the first is the library too
OLDEST_PYPI_CUDA = 13  # nvcc itself is in no wheel for an earlier one
CUDA_ARCHITECTURES = ("70", "75", "80", "90", "100")
# g++ 12 takes the inlined destructors of DALI's SmallVector for a mistake.
DALI_FLAGS = ["-Wno-free-nonheap-object"]
CUDA_HEADERS = ("cuda_runtime.h", "cuda_fp16.h", "crt/host_config.h", "nv/target")  # DALI's own headers ask for them
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

    def __str__(self) -> str:
        return str(self.nvcc)


@dataclass(frozen=True)
class Dali:
    """An installed DALI and what its sysconfig says of it."""

    version: str
    compile_flags: list[str]
    link_flags: list[str]

    def __str__(self) -> str:
        return f"DALI {self.version}"


Found = TypeVar("Found", CudaToolkit, Dali)


def decide(what: str, variable: str, search: Callable[[], Found | str]) -> Found | None:
    """What `search` finds, unless `variable` says 0. Prints the decision and the reason that `search` gives for it."""
    choice = os.environ.get(variable, "auto")
    if choice not in ("auto", "0", "1"):
        stop(f"{variable} is {choice!r}; it must be auto, 0 or 1")
    found = f"{variable}=0" if choice == "0" else search()
    if not isinstance(found, str):
        say(f"{what}: yes, with {found}")
        return found
    if choice == "1":
        stop(f"{variable}=1, but {found}")
    say(f"{what}: no, {found}")
    return None


def cuda_homes(torch_dir: Path) -> tuple[str, str, list[Path]]:
    """Major and minor version of torch's CUDA (empty: none), and where a toolkit of that version may be."""
    version = re.search(r"^cuda\b.*?(\d+)\.(\d+)", (torch_dir / "version.py").read_text(), re.MULTILINE)
    major, minor = version.groups() if version else ("", "")
    on_path = shutil.which("nvcc")
    homes = [
        *([Path(os.environ["CUDA_HOME"])] if os.environ.get("CUDA_HOME") else []),
        *(folder / f"cu{major}" for folder in nvidia_folders(torch_dir) if major and folder.is_dir()),
        *([Path(on_path).resolve().parents[1]] if on_path else []),
    ]
    return major, minor, homes


def nvidia_folders(torch_dir: Path) -> list[Path]:
    """Where packages of PyPI put parts of CUDA: beside torch, and in a .venv over the system's torch."""
    return list(dict.fromkeys(Path(folder) / "nvidia" for folder in (torch_dir.parent, *filter(None, sys.path))))


def compilers_to_install(torch_dir: Path) -> list[str]:
    """Requirements of a CUDA compiler for this torch, if it is wanted, there is none, and PyPI has one."""
    major, minor, _ = cuda_homes(torch_dir)
    is_wanted = os.environ.get("RSNA_WITH_CUDA", "auto") != "0" and isinstance(search_cuda(torch_dir), str)
    if not is_wanted or not major or int(major) < OLDEST_PYPI_CUDA:
        return []
    return [
        *(f"{name}=={major}.{minor}.*" for name in (*PYPI_COMPILER, PYPI_HEADERS[0])),
        f"{PYPI_HEADERS[1]}=={major}.*",
    ]


def search_cuda(torch_dir: Path) -> CudaToolkit | str:
    """The first toolkit of torch's CUDA version, or the reason why there is none."""
    major, minor, homes = cuda_homes(torch_dir)
    if not major:
        return "this torch is built without CUDA"
    for home in homes:
        runtimes = [path for name in ("lib64", "lib") for path in sorted((home / name).glob(f"libcudart.so.{major}*"))]
        if (home / "bin/nvcc").exists() and runtimes:
            return CudaToolkit(home / "bin/nvcc", runtimes[0])
    packages = " ".join(f"'{name}=={major}.{minor}.*'" for name in PYPI_COMPILER)
    return f"no compiler for CUDA {major} in {', '.join(map(str, homes))}. Set CUDA_HOME, or: pip install {packages}"


def search_dali(torch_dir: Path) -> Dali | str:
    """The installed DALI, or the reason why no plugin can be built for it."""
    try:
        from nvidia import dali
        from nvidia.dali import sysconfig
    except ImportError as error:
        return f"it cannot be imported ({error}). To install it: pip install nvidia-dali-cuda130"
    folders = [home / "include" for home in cuda_homes(torch_dir)[2]]
    for folder in folders:
        if all((folder / name).exists() for name in CUDA_HEADERS):
            # As system headers: warnings are about our code, not theirs.
            flags = [re.sub("^-I", "-isystem", flag) for flag in (*sysconfig.get_compile_flags(), f"-I{folder}")]
            return Dali(dali.__version__, flags, sysconfig.get_link_flags())
    return f"no CUDA headers in {', '.join(map(str, folders))}. Set CUDA_HOME, or: pip install nvidia-cuda-crt"


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
    """Compiles each source with its own flags, several at a time, and links them to the libraries."""

    dali: Dali | None = None

    def build_extensions(self) -> None:
        remove_earlier_plugins(Path(self.get_ext_fullpath(TORCH_LIBRARY)).parent)
        torch_dir, cxx = find_torch(), find_cxx()
        say(f"C++ compiler {cxx}; torch {torch_dir}; CPU half for {platform.machine()}")
        toolkit = decide("CUDA half", "RSNA_WITH_CUDA", lambda: search_cuda(torch_dir))
        self.dali = decide("DALI plugin", "RSNA_WITH_DALI", lambda: search_dali(torch_dir))
        kernels = kernel_compilations(cxx)
        if toolkit is not None:
            kernels.insert(0, cuda_compilation(toolkit, cxx))
        torch_face = torch_bindings(cxx, torch_dir, toolkit)
        dali_face = dali_bindings(cxx, self.dali, toolkit) if self.dali is not None else []
        jpeg = Compilation([cxx, *HOST_FLAGS], CSRC / "jpeg/scan.cpp", "jpeg_scan.o")
        build_dir = Path(self.build_temp)
        build_dir.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(
                pool.map(lambda item: compile_one(item, build_dir), [*kernels, *torch_face, *dali_face, jpeg])
            )
        n_first = len(kernels) + len(torch_face)
        link = [cxx, "-shared", *map(str, objects[: len(kernels)])]
        runtime = [str(toolkit.runtime)] if toolkit else []
        torch_libraries = [f"-L{torch_dir / 'lib'}", "-ltorch_cpu", *(["-ltorch_cuda"] if toolkit else [])]
        torch_objects, dali_objects = objects[len(kernels) : n_first], objects[n_first:-1]
        self.link([*link, *map(str, torch_objects), *torch_libraries, *runtime], TORCH_LIBRARY)
        if self.dali is not None:
            self.link([*link, *map(str, dali_objects), *self.dali.link_flags, *runtime], DALI_LIBRARY)
        self.link([cxx, "-shared", str(objects[-1])], JPEG_LIBRARY)

    def link(self, command: list[str], name: str) -> None:
        """Make the library of the extension `name`."""
        library = Path(self.get_ext_fullpath(name))
        library.parent.mkdir(parents=True, exist_ok=True)
        run([*command, "-o", str(library)])
        say(f"built {library}")

    def get_ext_filename(self, fullname: str) -> str:
        """DALI's plugin bears the version of DALI that it is for, so that one for another version is recognised."""
        *packages, name = fullname.split(".")
        if name != DALI_LIBRARY.split(".")[-1]:
            return super().get_ext_filename(fullname)
        return str(Path(*packages, f"{name}-{self.dali.version if self.dali else 'none'}.so"))

    def copy_extensions_to_source(self) -> None:
        """Put the libraries beside the Python files. Plugins that this build did not make stay as they are."""
        super().copy_extensions_to_source()
        own = self.get_ext_filename(DALI_LIBRARY)
        for plugin in sorted(KERNELS.glob(PLUGINS)):
            if plugin != Path(own):
                say(f"left as it is: {plugin}, which this build did not make")


def remove_earlier_plugins(folder: Path) -> None:
    """Empty the folder that a wheel takes everything from. What lies in the source tree may come from elsewhere."""
    if folder.resolve() == KERNELS.resolve():
        return
    for plugin in folder.glob(PLUGINS):
        plugin.unlink()


def kernel_compilations(cxx: str) -> list[Compilation]:
    """What all bindings share."""
    host = [cxx, *HOST_FLAGS]
    kernel, kernel_source = [*host, *KERNEL_FLAGS], CSRC / "cpu/ct_slices.cpp"
    variants = X86_64_VARIANTS if platform.machine() in ("x86_64", "AMD64") else {}
    dispatch = [*host, "-DRSNA_X86_64_VARIANTS"] if variants else host
    return [
        *(
            Compilation([*kernel, *flags, f"-DRSNA_CPU_KERNEL=transform_rows_{name}"], kernel_source, f"cpu_{name}.o")
            for name, flags in {"baseline": [], **variants}.items()
        ),
        Compilation(dispatch, CSRC / "cpu/dispatch.cpp", "dispatch.o"),
        Compilation(host, CSRC / "cpu/content.cpp", "content.o"),
        Compilation(host, CSRC / "ct_params.cpp", "ct_params.o"),
    ]


def torch_bindings(cxx: str, torch_dir: Path, toolkit: CudaToolkit | None) -> list[Compilation]:
    """torch's operators, and the memory of their results."""
    host = [cxx, *HOST_FLAGS]
    flags = [TORCH_ABI, "-isystem", str(torch_dir / "include")]
    if toolkit is not None:  # USE_CUDA makes torch's header declare its CUDA functions
        flags += ["-DRSNA_WITH_CUDA", "-DUSE_CUDA", "-isystem", str(toolkit.nvcc.parents[1] / "include")]
    return [
        Compilation([*host, *flags], CSRC / "bindings/torch_ops.cpp", "torch_ops.o"),
        Compilation(host, CSRC / "bindings/result_memory.cpp", "result_memory.o"),
    ]


def dali_bindings(cxx: str, dali: Dali, toolkit: CudaToolkit | None) -> list[Compilation]:
    """DALI's operators."""
    cuda = ["-DRSNA_WITH_CUDA"] if toolkit else []
    command = [cxx, *HOST_FLAGS, *DALI_FLAGS, *dali.compile_flags, *cuda]
    return [Compilation(command, CSRC / f"bindings/{name}.cc", f"{name}.o") for name in ("dali_ops", "dali_content")]


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


if __name__ == "__main__":
    setup(
        ext_modules=[
            Extension(TORCH_LIBRARY, sources=[], py_limited_api=True),
            Extension(DALI_LIBRARY, sources=[], optional=True),
            Extension(JPEG_LIBRARY, sources=[], py_limited_api=True),
        ],
        cmdclass={"build_ext": BuildExtension},
        options={"bdist_wheel": {"py_limited_api": "cp311"}},
    )
