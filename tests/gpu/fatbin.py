"""Reads libraries: their sections, what they need of the system, and the device code of each architecture in them.

ELF-64: System V ABI, "Object Files". Device code lies in the section .nv_fatbin, as one fatbin after another: a header
(magic u32, version u16, header size u16, payload size u64), then entries (kind u16, version u16, header size u32,
payload size u64, and at byte 28 the architecture u32), each followed by its payload. NVIDIA documents none of it: this
is how libraries of CUDA 12 and 13 are, and what is not so is left as it is.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAGIC = 0xBA55ED50
HEADER, ENTRY = struct.Struct("<IHHQ"), struct.Struct("<HHIQ")
ARCHITECTURE_AT = 28
MACHINE_CODE = 2  # kind; 1 is PTX
ALIGNMENT = 8
SECTION = ".nv_fatbin"


@dataclass(frozen=True)
class Entry:
    """Device code for one architecture (90: sm_90). start, stop: of its payload in the library."""

    kind: int
    architecture: int
    start: int
    stop: int


def sections(data: bytes) -> dict[str, slice]:
    """Where each section of an ELF-64 library lies. Raises ValueError when it is none."""
    if data[:5] != b"\x7fELF\x02":
        raise ValueError("not a 64-bit ELF library")
    (table,) = struct.unpack_from("<Q", data, 0x28)
    size, n, names_index = struct.unpack_from("<HHH", data, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", data, table + k * size) for k in range(n)]
    names = headers[names_index][4]
    return {
        data[names + name : data.index(b"\0", names + name)].decode(): slice(offset, offset + length)
        for name, _, _, _, offset, length in headers
    }


def entries(data: bytes | bytearray) -> Iterator[Entry]:
    """The device code in a library."""
    where = sections(bytes(data)).get(SECTION)
    position, end = (where.start, where.stop) if where else (0, 0)
    while position + HEADER.size <= end:
        magic, _, header, size = HEADER.unpack_from(data, position)
        if magic != MAGIC:
            position += ALIGNMENT
            continue
        entry = position + header
        position = entry + size
        while entry + ARCHITECTURE_AT + 4 <= position:
            kind, _, head, length = ENTRY.unpack_from(data, entry)
            (architecture,) = struct.unpack_from("<I", data, entry + ARCHITECTURE_AT)
            yield Entry(kind, architecture, entry + head, entry + head + length)
            entry += head + length


def zero_other_architectures(library: Path, *, keep: int | None) -> None:
    """Overwrite device code that is not for `keep` (None: all of it) by zeros, which take no room once compressed.

    Nothing is moved: host code refers to fatbins by their place.
    """
    data = bytearray(library.read_bytes())
    for entry in list(entries(data)):
        if entry.architecture != keep:
            data[entry.start : entry.stop] = bytes(entry.stop - entry.start)
    library.write_bytes(data)


def machine_code(library: Path) -> set[int]:
    """Architectures for which there is machine code that is not all zeros."""
    data = library.read_bytes()
    return {e.architecture for e in entries(data) if e.kind == MACHINE_CODE and any(data[e.start : e.stop])}


def newest_glibc(library: Path) -> tuple[int, int]:
    """The newest version of the C library that is asked for; (0, 0) for none."""
    found = re.findall(rb"GLIBC_(\d+)\.(\d+)", _dynamic_names(library))
    return max(((int(major), int(minor)) for major, minor in found), default=(0, 0))


def needs(library: Path, name: str) -> bool:
    """Whether a library is linked to the library `name`."""
    return name.encode() in _dynamic_names(library).split(b"\0")


def _dynamic_names(library: Path) -> bytes:
    data = library.read_bytes()
    return data[sections(data)[".dynstr"]]
