"""Unpacks what packing.py made, on the machine that it was carried to. Needs Python alone."""

import io
import shutil
import tarfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from packing import ROOT, library_folder, read_manifest, sources_sha256

# Of the package that DALI shares with others there, some of which may make it an ordinary one: all parts are found.
NVIDIA = '__path__ = __import__("pkgutil").extend_path(__path__, __name__)\n'
OTHER_SOURCES = "not taken: built from other sources than this checkout's. Pack again: bin/check_gpu.sh --pack"


@dataclass(frozen=True)
class Unpacked:
    """How many libraries and packages went to their places, whether DALI is there, and what is not."""

    n_libraries: int
    n_packages: int
    has_dali: bool
    detail: str
    elapsed_s: float


def unpack(pack: Path, scratch: Path) -> Unpacked:
    """Libraries into the package, unless they are of other sources; packages into scratch/site; pieces of DALI into
    scratch/pieces until all are there, and then into scratch/site too."""
    began_s = time.monotonic()
    manifest, site = read_manifest(pack), scratch / "site"
    pieces = scratch / "pieces" / manifest["dali"][:12]
    is_ours = manifest["sources"] == sources_sha256()
    libraries = sorted((pack / "lib").iterdir()) if is_ours else []
    for library in libraries:
        _replace(library, ROOT / library_folder(library.name) / library.name)
    wheels = sorted((pack / "wheels").glob("*.whl"))
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    pieces.mkdir(parents=True, exist_ok=True)
    for piece in pack.glob("dali.*"):
        shutil.copy2(piece, pieces)
    found = sorted(pieces.iterdir())
    has_dali = len(found) == manifest["n_pieces"]
    if has_dali:
        _unpack_dali(found, site)
    detail = [] if is_ours else [f"libraries {OTHER_SOURCES}"]
    if not has_dali:
        detail.append(f"{len(found)} of {manifest['n_pieces']} pieces of DALI are here: the other folder has the rest")
    return Unpacked(len(libraries), len(wheels), has_dali, "; ".join(detail), time.monotonic() - began_s)


def _replace(source: Path, target: Path) -> None:
    """Put a library in the place of another, which may be in use."""
    copy = target.with_suffix(".new")
    shutil.copy2(source, copy)
    copy.replace(target)


def _unpack_dali(pieces: Sequence[Path], site: Path) -> None:
    with tarfile.open(fileobj=io.BufferedReader(_Joined(pieces)), mode="r|xz") as archive:
        archive.extractall(site, filter="tar")
    (site / "nvidia/__init__.py").write_text(NVIDIA)


class _Joined(io.RawIOBase):
    """Files read one after the other, as one."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = [path.open("rb") for path in paths]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while self._files:
            n = self._files[0].readinto(buffer)
            if n:
                return n
            self._files.pop(0).close()
        return 0
