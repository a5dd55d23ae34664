"""Packs what a machine with a GPU lacks, where nothing can be installed from a network: made here, carried there.

For each of the two commands of a check a folder of its own, 1 and 2, with: lib/ (the built libraries), wheels/ (small
packages for the other Python), half of DALI, and manifest.json; as much as may travel at a time beside the checkout. Of
DALI's libraries the device code of one architecture is kept, without symbols, and of its modules those of one Python.
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fatbin

ROOT = Path(__file__).parents[2]
MIB = 2**20
OLDEST_GLIBC = (2, 34)  # of the machines in mind: Debian 12, Ubuntu 22.04, RHEL 9 and newer
CUDA_RUNTIME = "libcudart.so.13"
LOCK = ROOT / "requirements/cu13.txt"
# What an image with torch, torchvision, timm, h5py, pyarrow and the usual scientific packages may well lack.
WHEELS = ("pydantic", "pydantic_core", "annotated-types", "typing_extensions", "typing-inspection", "pydicom")
DALI_WHEELS = ("astunparse", "gast", "makefun", "optree", "nvtx", "libcst")  # what importing it asks for
NOT_NEEDED = ("__pycache__", "include", "test")  # of DALI's folder
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
EVERY_ARCHITECTURE = "cvcuda"  # a library of DALI with device code that nothing here calls


@dataclass(frozen=True)
class Packing:
    """For which Python (312: 3.12) and GPU (90: sm_90) is packed, and how many MiB travel at a time."""

    python: str = "312"
    architecture: int = 90
    transfer_mib: int = 64


class PackError(Exception):
    """What cannot be packed, and why."""


def pack(
    folder: Path,
    packing: Packing,
    *,
    site: Path | None = None,
    libraries: Sequence[Path] = (),
    fetch: Callable[[Sequence[str], Path, str], None] | None = None,
    commit: str = "unknown",
    say: Callable[[str], None] = lambda message: None,
) -> None:
    """Make `folder` anew. Raises PackError when something is missing, unfit or too large.

    site: where DALI is installed. libraries: those built here. fetch: gets wheels of requirements into a folder.
    """
    site = site or find_dali()
    libraries = libraries or built_libraries()
    check_libraries(libraries, packing.architecture)
    shutil.rmtree(folder, ignore_errors=True)
    for number, names in ((1, WHEELS), (2, (*WHEELS, *DALI_WHEELS))):
        part = folder / str(number)
        (part / "lib").mkdir(parents=True)
        for library in libraries:
            shutil.copy2(library, part / "lib")
        (fetch or fetch_wheels)(locked(names), part / "wheels", packing.python)
    archive = pack_dali(site, folder, packing)
    dali = hashlib.sha256(archive.read_bytes()).hexdigest()
    manifest = {"commit": commit, "sources": sources_sha256(), "python": packing.python, "dali": dali, "n_pieces": 2}
    size = archive.stat().st_size
    half = -(-size // 2)
    with archive.open("rb") as whole:
        for number in (1, 2):
            (folder / str(number) / f"dali.{number}").write_bytes(whole.read(half))
            (folder / str(number) / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    archive.unlink()
    say(f"DALI: {size / MIB:.1f} MiB in two pieces")
    check_sizes(folder, packing, say)


def find_dali() -> Path:
    """The folder in which nvidia/dali lies."""
    try:
        spec = find_spec("nvidia.dali")
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        raise PackError("NVIDIA DALI is not installed where this is packed. Run bin/setup.sh")
    return Path(spec.origin).parents[2]


def library_folder(name: str) -> Path:
    """Where a library of that name belongs, from the root of a checkout."""
    return Path("rsna_e2e/dicom" if name.startswith("_jpeg") else "rsna_e2e/loader/kernels")


def built_libraries() -> list[Path]:
    """The extension, the check of JPEG scans and DALI's plugin, all of which must be there."""
    own = [ROOT / library_folder(name) / name for name in ("_C.abi3.so", "_jpeg.abi3.so")]
    found = [*own, *sorted((ROOT / library_folder("_dali")).glob("_dali-*.so"))]
    absent = [path.name for path in found if not path.is_file()]
    if absent or len(found) < 3:
        raise PackError(f"not built: {', '.join(absent) or 'the plugin for DALI'}. Run bin/setup.sh")
    return found


def check_libraries(libraries: Iterable[Path], architecture: int) -> None:
    """Raise PackError unless each can be loaded by a system of OLDEST_GLIBC, and those with device code have ours."""
    for library in libraries:
        glibc = fatbin.newest_glibc(library)
        if glibc > OLDEST_GLIBC:
            raise PackError(f"{library.name} asks for glibc {glibc}, the oldest in mind is {OLDEST_GLIBC}")
        if library.name.startswith("_jpeg"):
            continue
        if not fatbin.needs(library, CUDA_RUNTIME):
            raise PackError(f"{library.name} is not linked to {CUDA_RUNTIME}. Build it with RSNA_WITH_CUDA=1")
        found = sorted(fatbin.machine_code(library))
        if architecture not in found:
            raise PackError(f"{library.name} has machine code for {found}, none for sm_{architecture}")


def locked(names: Iterable[str], lock: Path = LOCK) -> list[str]:
    """name==version of each, as the lock has it."""
    versions = {
        _plain(name): version
        for name, found, version in (line.strip().partition("==") for line in lock.read_text().splitlines())
        if found
    }
    absent = [name for name in names if _plain(name) not in versions]
    if absent:
        raise PackError(f"{lock.name} does not name {', '.join(absent)}")
    return [f"{name}=={versions[_plain(name)]}" for name in names]


def _plain(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


def fetch_wheels(requirements: Sequence[str], folder: Path, python: str) -> None:
    """Download wheels for another Python on Linux; none may need an installer."""
    command = [
        *(sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet", "--no-deps"),
        *("--only-binary=:all:", "--implementation", "cp", "--python-version", python),
        *(f"--abi={abi}" for abi in (f"cp{python}", "abi3", "none")),
        *(f"--platform={platform}" for platform in PLATFORMS),
        *("--dest", str(folder), *requirements),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise PackError(f"wheels could not be downloaded: {done.stderr.strip()[-500:]}")


def pack_dali(site: Path, folder: Path, packing: Packing) -> Path:
    """Return an archive, dali.tar.xz, of what of an installed DALI is needed there."""
    tree = folder / "tree"
    shutil.copytree(site / "nvidia/dali", tree / "nvidia/dali", ignore=shutil.ignore_patterns(*NOT_NEEDED))
    for module in tree.rglob("*.cpython-*"):
        if f".cpython-{packing.python}-" not in module.name:
            module.unlink()
    for library in sorted(tree.rglob("*.so*")):
        if library.is_file() and not library.is_symlink():
            keep = None if EVERY_ARCHITECTURE in library.name else packing.architecture
            fatbin.zero_other_architectures(library, keep=keep)
            subprocess.run(["strip", "--strip-unneeded", library], check=True, capture_output=True)
    archive = folder / "dali.tar.xz"
    subprocess.run(["tar", "-C", tree, "-I", "xz -6 -T0", "-cf", archive, "."], check=True)
    shutil.rmtree(tree)
    return archive


def check_sizes(folder: Path, packing: Packing, say: Callable[[str], None]) -> None:
    """Say what travels with each command; raise PackError when it is too much."""
    checkout = checkout_bytes()
    for part in sorted(folder.iterdir()):
        size = sum(path.stat().st_size for path in part.rglob("*") if path.is_file())
        names = ", ".join(sorted(path.name for path in (part / "wheels").iterdir()))
        say(f"{part}: {size / MIB:.1f} MiB, and the checkout {checkout / MIB:.1f} MiB. Packages: {names}")
        if size + checkout > packing.transfer_mib * MIB:
            raise PackError(f"{(size + checkout) / MIB:.1f} MiB would travel with {part}; {packing.transfer_mib} may")


def checkout_bytes() -> int:
    """Bytes of the files that git knows or does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return sum((ROOT / name).stat().st_size for name in names if name and (ROOT / name).is_file())


def sources_sha256() -> str:
    """Over all that libraries are built from: two checkouts with the same one build the same."""
    total = hashlib.sha256()
    for path in sorted([ROOT / "setup.py", *(p for p in (ROOT / "csrc").rglob("*") if p.is_file())]):
        total.update(f"{path.relative_to(ROOT)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a packed folder says of itself; empty where there is none."""
    path = folder / "manifest.json"
    return dict(json.loads(path.read_text())) if path.is_file() else {}
