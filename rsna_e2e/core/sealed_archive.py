"""Archives that are sealed: zip files of stored members, the same bytes for the same content, closed by a checksum.

The comment at the end of the file is `sha256:` and the SHA-256 of all bytes before its digits, so that a change of any
byte is found before one is used. Source: PKWARE APPNOTE 6.3.10, 4.3.16, for where the comment stands.
"""

import hashlib
import os
import shutil
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.files import atomic_writer, full_disk_named, make_folder

_SEAL = b"sha256:"
_N_DIGITS = 64
_OPEN = _SEAL + b"0" * _N_DIGITS
_ALWAYS = (1980, 1, 1, 0, 0, 0)  # the earliest time that a member can have (4.4.6), so that no clock is in the file
_MODE = 0o100644 << 16  # of a regular file, where Unix has it (4.4.15)
_BLOCK = 2**20


def write_sealed(path: Path, members: Mapping[str, Path | bytes]) -> str:
    """Write files, or bytes, under these names, in the order of the names, whole or not at all.

    Returns the digits of the seal. Raises what `atomic_writer` raises.
    """
    with atomic_writer(path) as file:
        with zipfile.ZipFile(file, "w") as archive:
            archive.comment = _OPEN
            for name, content in sorted(members.items()):
                member = zipfile.ZipInfo(name, _ALWAYS)
                member.create_system, member.external_attr = 3, _MODE  # 3: Unix (4.4.2)
                if isinstance(content, bytes):
                    archive.writestr(member, content)
                    continue
                member.file_size = content.stat().st_size  # decides on its form before the content is there
                with content.open("rb") as source, archive.open(member, "w") as target:
                    shutil.copyfileobj(source, target, _BLOCK)
        file.flush()
        with Path(file.name).open("rb") as written:
            digits, _ = _digests(written)
        file.seek(-_N_DIGITS, os.SEEK_END)
        file.write(digits.encode())
    return digits


def read_sealed(path: Path, folder: Path, *, is_known: Callable[[str], bool]) -> str:
    """Unpack a sealed archive into `folder` once its seal was compared, and return the digits of that.

    is_known: whether a name is one that such an archive has; it must refuse those that lead out of a folder. Raises
    BadInputError for what is not such an archive, was changed, or is not stored member by member; DiskFullError.
    """
    try:
        with path.open("rb") as file:
            digits = _check_seal(path, file)
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                n_bytes = sum(member.file_size for member in members)
                is_overlapping = n_bytes > file.seek(0, os.SEEK_END)  # so that no archive unpacks to more than itself
                if is_overlapping or len({member.filename for member in members}) < len(members):
                    raise _strange(path)
                for member in members:
                    if not is_known(member.filename) or not _is_stored(member):
                        raise _strange(path)
                    _unpack(archive, member, folder / member.filename)
    except (zipfile.BadZipFile, struct.error, EOFError, ValueError, NotImplementedError, RuntimeError):
        raise _strange(path) from None
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror}. Give a file that can be") from error
    return digits


def _check_seal(path: Path, file: BinaryIO) -> str:
    """Return the digits of a file's seal. Raises BadInputError where it has none, or they are of other bytes."""
    found, end = _digests(file)
    if not end.startswith(_SEAL):
        raise BadInputError(f"{path}: not a sealed file. Give one that rsna-e2e export wrote")
    if end != _SEAL + found.encode():
        raise BadInputError(f"{path}: damaged or changed, its sha256 is not the one at its end. Get it again")
    return found


def _digests(file: BinaryIO) -> tuple[str, bytes]:
    """Return the SHA-256 of all of a file but the digits at its end, and what is written at its end."""
    hashed = hashlib.sha256()
    left = file.seek(0, os.SEEK_END) - _N_DIGITS
    file.seek(0)
    end = b""
    while left > 0 and (block := file.read(min(_BLOCK, left))):
        hashed.update(block)
        left -= len(block)
        end = (end + block)[-len(_SEAL) :]
    return hashed.hexdigest(), end + file.read(_N_DIGITS)


def _is_stored(member: zipfile.ZipInfo) -> bool:
    is_plain = member.compress_type == zipfile.ZIP_STORED and member.file_size == member.compress_size
    return is_plain and not member.flag_bits & ~0x800  # 0x800: the name is UTF-8


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, out: Path) -> None:
    make_folder(out.parent)
    with archive.open(member) as source, full_disk_named(out), out.open("xb") as target:
        shutil.copyfileobj(source, target, _BLOCK)


def _strange(path: Path) -> BadInputError:
    return BadInputError(f"{path}: sealed, but not by this program. Give a file that rsna-e2e export wrote")
