"""Unpacks what packing.py made, on the machine that it was carried to. Needs Python alone."""

import io
import shutil
import tarfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from packing import ROOT, read_manifest, sources_sha256

# Of the package that DALI shares with others there, some of which may make it an ordinary one: all parts are found.
NVIDIA = '__path__ = __import__("pkgutil").extend_path(__path__, __name__)\n'
OVERDUE = "is of other sources than this checkout: pack again (bin/check_gpu.sh --pack), or build here"


@dataclass(frozen=True)
class Unpacked:
    """How many packages were put into the site folder; whether DALI is there, and if not why. elapsed_s: for all."""

    n_packages: int
    has_dali: bool
    detail: str
    elapsed_s: float


def unpack(pack: Path, scratch: Path) -> Unpacked:
    """Libraries into the package; packages into scratch/site; pieces of DALI into scratch/pieces until all are there,
    and then into scratch/site too. Raises ValueError for libraries of other sources."""
    began_s = time.monotonic()
    manifest, site, pieces = read_manifest(pack), scratch / "site", scratch / "pieces"
    if manifest["sources"] != sources_sha256():
        raise ValueError(f"{pack} {OVERDUE}")
    for library in sorted((pack / "lib").iterdir()):
        shutil.copy2(library, ROOT / "rsna_e2e")
    wheels = sorted((pack / "wheels").glob("*.whl"))
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    pieces.mkdir(parents=True, exist_ok=True)
    for piece in pack.glob("dali.*"):
        shutil.copy2(piece, pieces)
    found = sorted(pieces.iterdir())
    if len(found) < manifest["n_pieces"]:
        detail = f"{len(found)} of {manifest['n_pieces']} pieces of DALI are here: carry the other folder first"
        return Unpacked(len(wheels), False, detail, time.monotonic() - began_s)
    with tarfile.open(fileobj=io.BufferedReader(_Joined(found)), mode="r|xz") as archive:
        archive.extractall(site, filter="tar")
    (site / "nvidia/__init__.py").write_text(NVIDIA)
    return Unpacked(len(wheels), True, "", time.monotonic() - began_s)


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
