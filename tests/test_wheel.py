"""The package as pip builds and installs it: what is in the wheel, and that it works without the checkout."""

import os
import shutil
import site
import subprocess
import sys
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import rsna_e2e
from rsna_e2e.loader.kernels import dali_plugin, torch_ops

ROOT = Path(__file__).parents[1]
SOURCE = ("csrc", "docs", "rsna_e2e", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
BUILD_SDIST = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")

# Stands for the compiler, which takes most of the time: as linker it copies the library of this name from the checkout.
COMPILER = f"""#!/bin/sh
while [ "$1" != -o ]; do shift; done
case $2 in
*.so) cp "$(find {ROOT / "rsna_e2e"} -name "${{2##*/}}")" "$2" ;;
*) : >"$2" ;;
esac
"""


TEMPLATES = (
    *("base", "boxes", "comparison", "inspection", "inspection_radiographs", "report"),
    *("statistics", "study", "subgroups", "suspects"),
)


@dataclass(frozen=True)
class Built:
    sdist: Path
    wheel: Path


@pytest.fixture(scope="module", params=["copied", pytest.param("compiled", marks=pytest.mark.slow)])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """An sdist, and the wheel that pip makes of it; its libraries are the checkout's, or compiled."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / "source" / name)
    environment = {**os.environ, "RSNA_WITH_CUDA": "0", "RSNA_WITH_DALI": str(int(dali_plugin.is_installed()))}
    if request.param == "copied":
        (folder / "compiler").write_text(COMPILER)
        (folder / "compiler").chmod(0o755)
        environment["CXX"] = str(folder / "compiler")
    run([sys.executable, "-c", BUILD_SDIST, str(folder)], cwd=folder / "source", environment=environment)
    (sdist,) = folder.glob("*.tar.gz")
    options = ["--no-deps", "--no-build-isolation", "--no-index", f"--wheel-dir={folder}"]
    run([*PIP, "wheel", *options, str(sdist)], cwd=folder, environment=environment)
    (wheel,) = folder.glob("*.whl")
    return Built(sdist, wheel)


def run(command: list[str], *, cwd: Path, environment: dict[str, str]) -> str:
    """What a command prints; what it complains of is the failure."""
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel, in which what it depends on can be imported but the checkout cannot."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = str(folder / "bin/python")
    options = ["--no-deps", "--no-index", "--no-compile"]
    run([*PIP, "--python", python, "install", *options, str(built.wheel)], cwd=folder, environment=dict(os.environ))
    (packages,) = folder.glob("lib/python3.*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    return folder


def run_installed(environment: Path, *command: str, cwd: Path) -> str:
    """What a program of the environment prints."""
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return run([str(environment / "bin" / command[0]), *command[1:]], cwd=cwd, environment=outside)


def test_the_sdist_holds_what_is_compiled_and_nothing_that_was(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*") if path.is_file()}
    assert {name for name in names if name.startswith("csrc/") and "." in name} == sources
    assert not [name for name in names if name.endswith(".so") or name.startswith("docs/")]


def test_the_wheel_holds_the_package_and_its_libraries(built: Built) -> None:
    everything = zipfile.ZipFile(built.wheel).namelist()
    names = {name for name in everything if name.startswith("rsna_e2e/")}
    about = f"rsna_e2e-{rsna_e2e.__version__}.dist-info"
    assert {name.split("/")[0] for name in everything} == {"rsna_e2e", about}  # no documents, no figures
    source = [path for path in (ROOT / "rsna_e2e").rglob("*.py")]
    assert {name for name in names if name.endswith(".py")} == {str(path.relative_to(ROOT)) for path in source}
    templates = "rsna_e2e/evaluation/report/templates"
    libraries = {"rsna_e2e/loader/kernels/_C.abi3.so", "rsna_e2e/dicom/_jpeg.abi3.so"}
    if dali_plugin.is_installed():
        libraries.add(f"rsna_e2e/loader/kernels/_dali-{dali_plugin.load().__version__}.so")
    assert {name for name in names if not name.endswith(".py")} == libraries | {
        "rsna_e2e/py.typed",
        *(f"{templates}/{name}.html.j2" for name in TEMPLATES),
        *(f"{templates}/{name}.css" for name in ("inspection", "report")),
        *(str(path.relative_to(ROOT)) for path in (ROOT / "rsna_e2e/service/web").iterdir()),
    }
    assert built.wheel.name.startswith(f"rsna_e2e-{rsna_e2e.__version__}-cp311-abi3-")


def test_the_program_runs_without_the_checkout(installed: Path, tmp_path: Path) -> None:
    assert run_installed(installed, "rsna-e2e", "--version", cwd=tmp_path) == f"rsna-e2e {rsna_e2e.__version__}\n"
    assert "Train a CNN and a recurrent head" in run_installed(installed, "rsna-e2e", "--help", cwd=tmp_path)
    run_installed(installed, "rsna-e2e", "synth", "raw", "--studies", "2", "--jobs", "1", cwd=tmp_path)
    n_files = len(list(tmp_path.glob("raw/**/*.dcm")))
    printed = run_installed(installed, "rsna-e2e", "prepare", "raw", "store", "--jobs", "1", cwd=tmp_path)
    assert f" n slices {n_files} " in " ".join(printed.split())


def test_the_operators_load_from_there(installed: Path, tmp_path: Path) -> None:
    script = (
        "import torch, rsna_e2e\n"
        "hu = torch.full((1, 2, 2), 60, dtype=torch.int16)\n"
        "print(rsna_e2e.__file__)\n"
        "print(rsna_e2e.transform_slices(hu, torch.eye(2, 3)[None], [(40, 80)], size=2).tolist())"
    )
    file, values = run_installed(installed, "python", "-c", script, cwd=tmp_path).splitlines()
    assert Path(file).is_relative_to(installed)
    assert values == "[[[[0.75, 0.75], [0.75, 0.75]]]]"  # (60 - 0) / 80
    assert Path(torch_ops.__file__).is_relative_to(ROOT), "the checkout's, in this process"
