"""Stand-ins for what is carried to a machine with a GPU: libraries with device code, an installed DALI, wheels; and a
checkout as it arrives there."""

import os
import shutil
import struct
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path

import fatbin
from packing import ROOT

PAYLOAD = 64
ENTRY_HEADER = 40  # bytes that the entries here have before their payload; the architecture is among them


def entry(kind: int, architecture: int, *, fill: int) -> bytes:
    """Device code of one architecture: PAYLOAD times `fill`."""
    head = bytearray(ENTRY_HEADER)
    fatbin.ENTRY.pack_into(head, 0, kind, 0x101, ENTRY_HEADER, PAYLOAD)
    struct.pack_into("<I", head, fatbin.ARCHITECTURE_AT, architecture)
    return bytes(head) + bytes([fill]) * PAYLOAD


def fatbin_of(*entries: bytes) -> bytes:
    """A fatbin of these entries."""
    payload = b"".join(entries)
    return fatbin.HEADER.pack(fatbin.MAGIC, 1, fatbin.HEADER.size, len(payload)) + payload


def make_library(path: Path, device_code: bytes, *, flags: Sequence[str] = ()) -> Path:
    """A library that can be loaded, with this device code and a function that returns 7."""
    numbers = ",".join(map(str, device_code))
    text = f"""
    extern "C" __attribute__((section(".nv_fatbin"), used, aligned(8))) const unsigned char code[] = {{{numbers}}};
    extern "C" int seven() {{ return 7; }}
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [
        os.environ.get("CXX", "g++"),
        "-shared",
        "-fPIC",
        "-g",
        "-x",
        "c++",
        "-",
        "-x",
        "none",
        *flags,
        "-o",
        path,
    ]
    subprocess.run(command, input=text, text=True, check=True)
    return path


def make_site(site: Path, device_code: bytes) -> Path:
    """A folder as if DALI were installed there; without a module that Python would take for DALI's."""
    dali = site / "nvidia/dali"
    make_library(dali / "libdali_operators.so", device_code)
    make_library(dali / ".libs/libcvcuda.so.0", device_code)
    for name in ("backend_impl.cpython-312-x86_64-linux-gnu.so", "backend_impl.cpython-310-x86_64-linux-gnu.so"):
        shutil.copy(dali / "libdali_operators.so", dali / name)
    for name in ("carried.txt", "include/header.h", "test/test.py", "__pycache__/a.pyc"):
        (dali / name).parent.mkdir(exist_ok=True)
        (dali / name).write_text("x")
    return site


def make_wheels(requirements: Sequence[str], folder: Path, python: str) -> None:
    """In the place of a download: a wheel for each, with a module that says for which Python."""
    folder.mkdir(parents=True)
    for requirement in requirements:
        name, _, version = requirement.partition("==")
        with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"carried_{name.replace('-', '_')}.py", f"PYTHON = {python!r}\n")


def copy_checkout(folder: Path) -> Path:
    """A checkout as it arrives: what git knows or does not ignore, and nothing that was built."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder
