"""A zip archive read in place: its central directory once, then members at their offsets. Nothing is unpacked.

Names of members are labels here and never paths; "/" sets folders in them apart, also where the program that wrote the
archive used backslashes, against 4.4.17.1. Nothing that an archive says of a member is trusted: a member is inflated up
to its stated size, and the result must have the stated CRC-32. Python's zipfile is not used, because it takes 740 bytes
of memory for each member where this takes 360, and decodes names, which may be any bytes.
Source: PKWARE APPNOTE 6.3.10, whose sections are named below.
"""

import io
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.limits import HARMLESS_BYTES, MAX_MEMBER_BYTES, MAX_RATIO
from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import RawFile
from rsna_e2e.dicom.elements import RefusedError

MAX_MEMBERS = 2_000_000  # the competition's archive has under a million; each takes 400 bytes of memory

STORED, DEFLATED = 0, 8  # APPNOTE 4.4.5
_ENCRYPTED = 0x2041  # bits 0, 6 and 13 of the flags (4.4.4): encrypted, strongly so, or in its header
_UNIX = 3  # made by (4.4.2): then the upper half of the external attributes is st_mode

_LOCAL = struct.Struct("<4sHHHHHLLLHH")  # 4.3.7
_CENTRAL = struct.Struct("<4sHHHHHHLLLHHHHHLL")  # 4.3.12
_END = struct.Struct("<4sHHHHLLH")  # 4.3.16
_END_64 = struct.Struct("<4sQHHLLQQQQ")  # 4.3.14
_LOCATOR_64 = struct.Struct("<4sLQL")  # 4.3.15
_MAX_COMMENT = 0xFFFF
_IN_EXTRA = 0xFFFFFFFF  # the number stands in the Zip64 extra field (4.5.3)

_HEAD_BYTES = 4096  # what is read first of a member: all the headers of most CT slices
_CHUNK_BYTES = 256 * 1024


class Member(NamedTuple):
    """An entry of the central directory; mode: st_mode where it was made on Unix, else 0."""

    name: str
    flags: int
    method: int
    crc: int
    n_packed: int
    n_bytes: int
    offset: int
    mode: int

    @property
    def end(self) -> int:
        """The least offset at which it can end, after header, name and data."""
        return self.offset + _LOCAL.size + len(os.fsencode(self.name)) + self.n_packed


def read_directory(path: Path) -> Iterator[Member]:
    """Yield the members of an archive, folders left out, in the order of its directory.

    Raises BadInputError when it is not an archive, is cut short or split into several files, or contradicts itself.
    """
    with path.open("rb", buffering=1 << 20) as file:
        n_members, n_directory, start = _find_directory(path, file)
        file.seek(start)
        left, separator = n_directory, b""
        for _ in range(n_members):
            fixed = file.read(_CENTRAL.size)
            if len(fixed) < _CENTRAL.size or left < _CENTRAL.size or fixed[:4] != b"PK\1\2":
                raise _damaged(path)
            _, made_by, _, flags, method, _, _, crc, *sizes, n_name, n_extra, n_comment, _, _, mode, offset = (
                _CENTRAL.unpack(fixed)
            )
            rest = file.read(n_name + n_extra + n_comment)
            left -= len(fixed) + len(rest)
            if left < 0 or len(rest) < n_name + n_extra + n_comment:
                raise _damaged(path)
            if not separator:  # the first name that has one tells: one program wrote them all
                separator = next((one for one in (b"/", b"\\") if one in rest[:n_name]), b"")
            name = rest[:n_name].replace(separator or b"/", b"/")
            if name.endswith(b"/"):
                continue
            numbers = [sizes[1], sizes[0], offset]
            if _IN_EXTRA in numbers and not _take_from_extra(numbers, rest[n_name : n_name + n_extra]):
                raise _damaged(path)
            mode = mode >> 16 if made_by >> 8 == _UNIX else 0
            n_bytes, n_packed, offset = numbers
            yield Member(os.fsdecode(name), flags, method, crc, n_packed, n_bytes, offset, mode)
        if left:
            raise _damaged(path)


def why_refused(member: Member, *, n_archive: int) -> tuple[Reason, str] | None:
    """Return why a member must not be read, by its entry in the directory; n_archive: bytes of the archive."""
    if member.mode and stat.S_IFMT(member.mode) not in (0, stat.S_IFREG):
        return Reason.NOT_REGULAR_FILE, "a link or a device in an archive"
    if member.flags & _ENCRYPTED:
        return Reason.ENCRYPTED_MEMBER, "encrypted in its archive"
    if member.method not in (STORED, DEFLATED):
        return Reason.UNSUPPORTED_COMPRESSION, f"compression method {member.method}; 0 and 8 are read"
    if member.n_bytes > MAX_MEMBER_BYTES:
        return Reason.INFLATES_TOO_FAR, f"{member.n_bytes} bytes; at most {MAX_MEMBER_BYTES} are read"
    if member.n_bytes > max(MAX_RATIO * member.n_packed, HARMLESS_BYTES):
        return Reason.INFLATES_TOO_FAR, f"more than {MAX_RATIO} times its size in the archive"
    if member.method == STORED and member.n_packed != member.n_bytes:
        return Reason.DAMAGED_MEMBER, "stored without compression, but its two sizes differ"
    if member.end > n_archive:
        return Reason.DAMAGED_MEMBER, "the archive ends inside it"
    return None


def open_member(path: Path, raw_file: RawFile, *, head: bool) -> BinaryIO:
    """Open a member whose CRC-32 is `raw_file.stamp`; the stream is seekable and buffered.

    It is read and checked whole first, unless only its `head` is wanted, which is read as far as needed. Raises
    RefusedError when it is damaged, here or while it is read; OSError.
    """
    content = _Content(path.open("rb", buffering=0), raw_file)
    try:
        if not head:
            content.grow(raw_file.n_bytes)
    except BaseException:
        content.close()
        raise
    return io.BufferedReader(content)


class _Content(io.RawIOBase):
    """The content of a member as a stream; it is held in memory as far as it was read."""

    def __init__(self, file: Any, raw_file: RawFile) -> None:
        self._file, self._raw_file = file, raw_file
        self._held = bytearray()
        self._position = 0
        self._source = raw_file.offset  # in the archive, of what is read next
        self._inflater: Any = None

    def grow(self, n_bytes: int) -> None:
        """Read up to the first `n_bytes`, or to the end."""
        wanted = min(n_bytes, self._raw_file.n_bytes)
        while len(self._held) < wanted:
            n_read = self._source - self._raw_file.offset
            size = min(max(2 * n_read, _HEAD_BYTES), _CHUNK_BYTES)  # little more than a head takes, and few pieces
            packed = os.pread(self._file.fileno(), size, self._source)
            if not packed:
                raise RefusedError(Reason.DAMAGED_MEMBER, "the archive ends inside it")
            self._source += len(packed)
            self._take(packed if n_read else self._after_header(packed))
            if len(self._held) == self._raw_file.n_bytes and zlib.crc32(self._held) != self._raw_file.stamp:
                raise RefusedError(Reason.DAMAGED_MEMBER, "its content has another CRC-32 than the archive says")

    def _after_header(self, packed: bytes) -> bytes:
        """Check the local header that `packed` begins with, and return what comes after it."""
        name = os.fsencode(self._raw_file.name)
        if len(packed) < _LOCAL.size:
            raise RefusedError(Reason.DAMAGED_MEMBER, "the archive ends inside it")
        signature, _, _, method, *_, n_name, n_extra = _LOCAL.unpack(packed[: _LOCAL.size])
        start = _LOCAL.size + n_name + n_extra
        if start > len(packed):
            packed = os.pread(self._file.fileno(), start, self._raw_file.offset)
            self._source = self._raw_file.offset + len(packed)
        own_name = packed[_LOCAL.size : _LOCAL.size + n_name]
        if signature != b"PK\3\4" or own_name.replace(b"\\", b"/") != name.replace(b"\\", b"/"):
            raise RefusedError(Reason.DAMAGED_MEMBER, "it is not where the directory of the archive says")
        if method == DEFLATED:
            self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        return packed[start:]

    def _take(self, packed: bytes) -> None:
        left = self._raw_file.n_bytes - len(self._held)
        if self._inflater is None:
            self._held += packed[:left]
            return
        try:
            self._held += self._inflater.decompress(packed, left)
        except zlib.error:
            raise RefusedError(Reason.DAMAGED_MEMBER, "its compressed data is damaged") from None
        if self._inflater.eof and len(self._held) < self._raw_file.n_bytes:
            raise RefusedError(Reason.DAMAGED_MEMBER, "it inflates to fewer bytes than the archive says")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._raw_file.n_bytes}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        self.grow(self._position + len(buffer))
        part = memoryview(self._held)[self._position : self._position + len(buffer)]
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)

    def close(self) -> None:
        self._file.close()
        super().close()


def _find_directory(path: Path, file: BinaryIO) -> tuple[int, int, int]:
    """Return how many members the directory has, its size in bytes, and where it begins."""
    if file.read(4) not in (b"PK\3\4", b"PK\5\6"):  # the second begins an empty archive
        raise BadInputError(f"{path}: not a folder, and no zip archive. Give the folder or archive of DICOM files")
    n_file = file.seek(0, io.SEEK_END)
    n_tail = min(n_file, _MAX_COMMENT + _END.size)
    file.seek(n_file - n_tail)
    tail = file.read(n_tail)
    place = tail.rfind(b"PK\5\6")
    if place < 0 or len(tail) - place < _END.size:
        raise _damaged(path)
    _, disk, first_disk, n_here, n_members, n_directory, start, _ = _END.unpack_from(tail, place)
    end = n_file - n_tail + place
    file.seek(max(end - _LOCATOR_64.size, 0))
    signature, _, offset, _ = _LOCATOR_64.unpack(file.read(_LOCATOR_64.size))
    if signature == b"PK\6\7":
        file.seek(min(offset, n_file))
        fixed = file.read(_END_64.size)
        if len(fixed) < _END_64.size or fixed[:4] != b"PK\6\6":
            raise _damaged(path)
        *_, disk, first_disk, n_here, n_members, n_directory, start = _END_64.unpack(fixed)
        end = offset
    if disk or first_disk or n_here != n_members:
        raise BadInputError(f"{path}: one file of a split archive. Join them first: zip -s 0 FILE --out WHOLE")
    if start + n_directory != end or n_members > MAX_MEMBERS:
        raise _damaged(path)
    return n_members, n_directory, start


def _take_from_extra(numbers: list[int], extra: bytes) -> bool:
    """Replace size, packed size and offset by those of the Zip64 extra field (4.5.3). False when it lacks them."""
    place = 0
    while place + 4 <= len(extra):
        kind, n_bytes = struct.unpack_from("<HH", extra, place)
        place += 4
        if kind == 1:
            missing = [i for i, number in enumerate(numbers) if number == _IN_EXTRA]
            if n_bytes < 8 * len(missing) or place + n_bytes > len(extra):
                return False
            for i, value in zip(missing, struct.unpack_from(f"<{len(missing)}Q", extra, place), strict=True):
                numbers[i] = value
            return True
        place += n_bytes
    return False


def _damaged(path: Path) -> BadInputError:
    return BadInputError(f"{path}: the archive is cut short or damaged (its directory). Copy or download it again")
