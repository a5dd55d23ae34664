"""setup.py: what it decides, what it says, and that what it builds can be loaded."""

import ctypes
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rsna_e2e.loader.kernels import dali_plugin

ROOT = Path(__file__).parents[1]
KERNELS = "rsna_e2e/loader/kernels"
PACKAGES = [f"{folder}/__init__.py" for folder in ("rsna_e2e/dicom", "rsna_e2e/loader", KERNELS)]


def build(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Build the extension into `folder`."""
    command = [sys.executable, "setup.py", "build_ext", f"--build-lib={folder}/lib", f"--build-temp={folder}/temp"]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RSNA_WITH_CUDA": "yes"}, "rsna_e2e: RSNA_WITH_CUDA is 'yes'; it must be auto, 0 or 1"),
        ({"RSNA_WITH_DALI": "2"}, "rsna_e2e: RSNA_WITH_DALI is '2'; it must be auto, 0 or 1"),
        ({"CXX": "no-such-compiler"}, "rsna_e2e: CXX names 'no-such-compiler', which is no command"),
        ({"PATH": "", "CXX": ""}, "rsna_e2e: no C++ compiler found. Install one (Debian: apt install g++"),
    ],
    ids=["unknown_choice", "unknown_dali_choice", "unknown_compiler", "no_compiler"],
)
def test_one_line_says_what_is_missing(tmp_path: Path, environment: dict[str, str], message: str) -> None:
    result = build(tmp_path, **environment)
    assert result.returncode == 1
    assert last_line(result.stderr).startswith(message)
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "lib").exists()


def test_without_dali_the_reason_is_given(tmp_path: Path) -> None:
    (tmp_path / "nvidia").mkdir()
    (tmp_path / "nvidia/__init__.py").touch()
    result = build(tmp_path, RSNA_WITH_DALI="1", PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    assert last_line(result.stderr).startswith("rsna_e2e: RSNA_WITH_DALI=1, but it cannot be imported (cannot import")
    assert last_line(result.stderr).endswith("To install it: pip install nvidia-dali-cuda130")


# Stands for the compiler and the linker where only what becomes of files matters: writes "built" to what -o names.
COMPILER = """#!/bin/sh
while [ "$1" != -o ]; do shift; done
echo built >"$2"
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of what is built, in which a plugin for some version of DALI lies that was brought there."""
    folder = tmp_path / "source"
    shutil.copytree(ROOT / "csrc", folder / "csrc")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "rsna_e2e/__init__.py", *PACKAGES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "compiler").write_text(COMPILER)
    (folder / "compiler").chmod(0o755)
    (folder / KERNELS / "_dali-1.0.0.so").write_text("brought")
    return folder


def build_there(source: Path, *arguments: str, **choices: str) -> tuple[str, dict[str, str]]:
    """What a build with COMPILER prints, and each library in the package afterwards with its text."""
    command = [sys.executable, "setup.py", "build_ext", *arguments]
    environment = {**os.environ, "CXX": str(source / "compiler"), "RSNA_WITH_CUDA": "0", **choices}
    done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, {path.name: path.read_text().strip() for path in (source / "rsna_e2e").rglob("*.so")}


@pytest.mark.parametrize("way", ["--inplace", "--build-lib=."])
def test_a_build_without_dali_leaves_plugins_that_were_brought(source: Path, way: str) -> None:
    printed, libraries = build_there(source, way, RSNA_WITH_DALI="0")
    assert libraries == {"_dali-1.0.0.so": "brought", "_C.abi3.so": "built", "_jpeg.abi3.so": "built"}
    if way == "--inplace":
        assert f"rsna_e2e: left as it is: {KERNELS}/_dali-1.0.0.so, which this build did not make" in printed


@pytest.mark.needs_dali
def test_a_build_with_dali_replaces_the_plugin_for_that_version_alone(source: Path) -> None:
    own = f"_dali-{dali_plugin.load().__version__}.so"
    (source / KERNELS / own).write_text("brought")
    printed, libraries = build_there(source, "--inplace", RSNA_WITH_DALI="1")
    assert libraries == {"_dali-1.0.0.so": "brought", own: "built", "_C.abi3.so": "built", "_jpeg.abi3.so": "built"}
    assert own + ", which" not in printed


def test_a_wheel_takes_no_plugin_of_an_earlier_build(source: Path) -> None:
    earlier = source / "out" / KERNELS / "_dali-1.0.0.so"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("of other sources")
    build_there(source, "--build-lib=out", RSNA_WITH_DALI="0")
    assert sorted(path.name for path in (source / "out").rglob("*.so")) == ["_C.abi3.so", "_jpeg.abi3.so"]


@pytest.mark.skipif(shutil.which("g++") is None or platform.machine() != "x86_64", reason="no g++ for x86-64")
def test_cpu_half_alone_builds_loads_and_says_so(tmp_path: Path) -> None:
    result = build(tmp_path, RSNA_WITH_CUDA="0", RSNA_WITH_DALI="0")
    assert result.returncode == 0, result.stderr
    assert "rsna_e2e: CUDA half: no, RSNA_WITH_CUDA=0" in result.stdout
    assert "rsna_e2e: DALI plugin: no, RSNA_WITH_DALI=0" in result.stdout
    assert not list(tmp_path.glob("lib/rsna_e2e/loader/kernels/_dali*"))
    assert ctypes.CDLL(str(tmp_path / "lib/rsna_e2e/dicom/_jpeg.abi3.so")).rsna_check_jpeg_scan
    library = tmp_path / "lib/rsna_e2e/loader/kernels/_C.abi3.so"
    script = (
        f"import torch; torch.ops.load_library({str(library)!r}); "
        "print(torch.ops.rsna_e2e.is_cuda_built(), torch.ops.rsna_e2e.cpu_instruction_sets())"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    is_cuda_built, *instruction_sets = loaded.stdout.split()
    assert is_cuda_built == "False"
    assert instruction_sets[-1] == "baseline"
    # A function shared between objects could be kept in its AVX-512 form and called on any CPU.
    for name in ("cpu_v3.o", "cpu_v4.o"):
        symbols = subprocess.run(
            ["nm", str(tmp_path / "temp" / name)], capture_output=True, text=True, check=True
        ).stdout
        assert " W " not in symbols, name


def test_a_compiler_beside_the_systems_torch_is_found(tmp_path: Path) -> None:
    """The system's `nvidia` is a package with __init__.py, which hides the .venv's from imports."""
    system, own = tmp_path / "system", tmp_path / "venv"
    for path in (
        system / "torch/version.py",
        system / "nvidia/__init__.py",
        system / "nvidia/cu13/lib/libcudart.so.13",
        own / "nvidia/cu13/bin/nvcc",
        own / "nvidia/cu13/lib/libcudart.so.13",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (system / "torch/version.py").write_text("cuda: Optional[str] = '13.0'\n")

    def search(*folders: Path) -> str:
        script = (
            f"import sys, setup; from pathlib import Path; sys.path[:] = {list(map(str, folders))}; "
            f"torch_dir = Path({str(system / 'torch')!r}); "
            "print(setup.search_cuda(torch_dir), *setup.compilers_to_install(torch_dir))"
        )
        command = [sys.executable, "-c", script]
        clean = {"PATH": "", "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, env=clean, capture_output=True, text=True, check=True).stdout.strip()

    assert search(own, system) == str(own / "nvidia/cu13/bin/nvcc")
    wanted = "nvidia-cuda-nvcc==13.0.* nvidia-cuda-crt==13.0.* nvidia-nvvm==13.0.* nvidia-cuda-runtime==13.0.*"
    assert search(system).endswith(f"{wanted} nvidia-cuda-cccl==13.*")


@pytest.mark.slow
@pytest.mark.needs_dali
def test_dali_plugin_is_built_for_the_installed_version(tmp_path: Path) -> None:
    result = build(tmp_path, RSNA_WITH_CUDA="0", RSNA_WITH_DALI="1")
    assert result.returncode == 0, result.stderr
    version = dali_plugin.load().__version__
    assert f"rsna_e2e: DALI plugin: yes, with DALI {version}" in result.stdout
    plugin = tmp_path / f"lib/rsna_e2e/loader/kernels/_dali-{version}.so"
    script = (
        f"from nvidia import dali; dali.plugin_manager.load_library({str(plugin)!r}); "
        "print(dali.fn.rsna.transform_slices.__module__)"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "nvidia.dali.fn.rsna"
    # What the plugin shares with the extension must link with either of libstdc++'s strings.
    for name in ("ct_params.o", "dispatch.o", "content.o"):
        symbols = subprocess.run(
            ["nm", str(tmp_path / "temp" / name)], capture_output=True, text=True, check=True
        ).stdout
        own = [line for line in symbols.splitlines() if "4rsna" in line and " T " in line]
        assert own, name
        assert not [line for line in own if "cxx11" in line], name
