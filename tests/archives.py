"""Zip archives of a folder, as tools write them, and ways to forge them."""

import io
import struct
import zipfile
from pathlib import Path

CENTRAL = b"PK\1\2"
# Where numbers stand in an entry of the central directory (APPNOTE 4.3.12), and how
FIELDS = {"flags": (8, "<H"), "method": (10, "<H"), "crc": (16, "<L"), "n_packed": (20, "<L"), "n_bytes": (24, "<L")}
FIELDS["offset"] = (42, "<L")


class Unseekable(io.RawIOBase):
    """A pipe, in effect: sizes and checksums then follow the members."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        return self._file.write(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def zip_folder(folder: Path, path: Path, *, method: int = zipfile.ZIP_DEFLATED, streamed: bool = False) -> Path:
    """Write all that is in a folder, subfolders as entries of their own, to an archive."""
    with zipfile.ZipFile(Unseekable(path) if streamed else path, "w", method) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, str(file.relative_to(folder)))
    return path


def zip_with_backslashes(folder: Path, path: Path) -> Path:
    """Write all that is in a folder as .NET did before 4.6.1: folders in names end in backslashes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            info = zipfile.ZipInfo("x")
            info.filename = f"top/{file.relative_to(folder)}".replace("/", "\\") + "\\" * file.is_dir()
            archive.writestr(info, b"" if file.is_dir() else file.read_bytes())
    return path


def zip_files(path: Path, files: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write files of any name to an archive."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return path


def forge(path: Path, name: str, field: str, value: int) -> None:
    """Let the central directory say another number of a member."""
    content = bytearray(path.read_bytes())
    place = content.rfind(name.encode()) - 46
    assert content[place : place + 4] == CENTRAL
    offset, kind = FIELDS[field]
    struct.pack_into(kind, content, place + offset, value)
    path.write_bytes(content)


def entry(path: Path, name: str, field: str) -> int:
    """Return what the central directory says of a member."""
    content = path.read_bytes()
    place = content.rfind(name.encode()) - 46
    offset, kind = FIELDS[field]
    return int(struct.unpack_from(kind, content, place + offset)[0])
