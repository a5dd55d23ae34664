"""CSV files, bare, gzip or zip; their content decides which, not their name."""

import codecs
import csv
import gzip
import hashlib
import io
import lzma
import os
import stat
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any, BinaryIO

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.limits import HARMLESS_BYTES, MAX_MEMBER_BYTES, MAX_RATIO

# Kaggle's client delivers NAME.csv as NAME.csv.zip
SUFFIXES = (".csv", ".csv.gz", ".csv.zip")

_MOST_LAYERS = 4  # of packing, each in the one before
_HEADER_BYTES = 1 << 16  # of a table's first line are looked at
_PIPE_BYTES = 1 << 16
_CHUNK_BYTES = 1 << 20
WAIT_FOR_WRITER_S = 2.0  # a shell may start it later than this program
_ENCRYPTED = 0x1  # APPNOTE 4.4.4
_TOO_FAR = "it inflates further than any table"
# What gzip, zipfile and what they unpack with raise of a damaged file, but for OSError
_DAMAGED = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError)


@dataclass(frozen=True, slots=True)
class TableFile:
    """A table in a file, such as in an archive. name: shown in messages. bytes_of: opens the file as it is, as often as
    asked; the stream is seekable. columns: names of its columns by what they hold, where its header does not say so.
    also: a further table of the same rows.
    """

    name: str
    bytes_of: Callable[[], AbstractContextManager[BinaryIO]]
    columns: Mapping[str, str] = field(default_factory=dict)
    also: "TableFile | None" = None

    def __str__(self) -> str:
        return self.name

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open the table's text, out of the gzip or zip file that it may be packed in. Raises OSError."""
        try:
            with ExitStack() as opened:
                bare: Any = opened.enter_context(self.bytes_of())
                stream = bare
                for _ in range(_MOST_LAYERS):
                    head = stream.read(4)
                    stream.seek(0)
                    if head.startswith(b"\x1f\x8b"):  # RFC 1952
                        stream = opened.enter_context(gzip.open(stream))
                    elif head in (b"PK\3\4", b"PK\5\6"):  # APPNOTE 4.3.7, and 4.3.16 where it is empty
                        stream = opened.enter_context(_only_table(stream))
                yield bare if stream is bare else io.BufferedReader(_Bounded(stream))
        except _DAMAGED as error:
            raise OSError(str(error)) from error

    def sha256(self) -> str:
        """Return the SHA-256 of the file's bytes, in hexadecimal. Raises OSError when it cannot be read."""
        stream: Any
        with self.bytes_of() as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def check_utf8(self) -> None:
        """Raises BadInputError for a table that is not UTF-8, with its line; OSError when it cannot be read."""
        decoder, line = codecs.getincrementaldecoder("utf-8")(), 1
        with self.open() as stream:
            chunk = stream.read(_CHUNK_BYTES)
            if chunk.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in chunk[:2]:
                raise BadInputError(f"{self}: is UTF-16, not UTF-8: save it as CSV UTF-8")
            while True:
                try:
                    line += decoder.decode(chunk, final=not chunk).count("\n")
                except UnicodeDecodeError as error:  # its object begins with what was left of the chunk before
                    line += error.object[: error.start].count(b"\n")
                    raise BadInputError(f"{self}: is not UTF-8 (line {line}): save it as CSV UTF-8") from None
                if not chunk:
                    return
                chunk = stream.read(_CHUNK_BYTES)

    def header(self, delimiter: str = ",") -> list[str]:
        """Return the names of the columns, which the first line that is not empty has, if any. Raises OSError."""
        with self.open() as stream:
            text = stream.read(_HEADER_BYTES).decode("utf-8-sig", "replace")
        try:
            return next(filter(None, csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)), [])
        except csv.Error:
            return []

    def line_of(self, row: int, delimiter: str = ",") -> int:
        """Return the line, counted from 1, on which data row `row` ends; empty lines hold no row."""
        with self.open() as stream:
            lines = csv.reader(io.TextIOWrapper(stream, "utf-8", "replace", newline=""), delimiter=delimiter)
            filled = (lines.line_num for words in lines if words)
            try:
                return next(islice(filled, row + 1, None), row + 2)
            except csv.Error:  # a field of more than it takes
                return row + 2


def table_at(path: Path, columns: Mapping[str, str] | None = None) -> TableFile:
    """Return the table at `path`, which need not be there yet. A pipe is read at once, as it can be only once.

    columns: see `TableFile`. Raises BadInputError for a pipe without a writer, and for a device.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        mode = 0  # to be said when it is opened
    if stat.S_ISFIFO(mode):
        content = _read_pipe(path)
        return TableFile(str(path), lambda: io.BytesIO(content), columns or {})
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) or stat.S_ISSOCK(mode):
        raise BadInputError(f"{path}: a device. Give a regular file")
    return TableFile(str(path), lambda: path.open("rb"), columns or {})


@contextmanager
def rows_of(file: TableFile, *, expected: str) -> Iterator["csv.DictReader[str]"]:
    """Read the rows of a table by the names of its columns; a cell that a row lacks is empty.

    expected: says how the table should be, in the BadInputError of one that is not there or cannot be read.
    """
    try:
        file.check_utf8()
        with file.open() as stream:
            yield csv.DictReader(io.TextIOWrapper(stream, "utf-8-sig", newline=""), restval="")
    except FileNotFoundError:
        raise BadInputError(f"{file}: no such file. Check the path") from None
    except (OSError, csv.Error) as error:
        raise BadInputError(f"{file}: not a readable CSV file: {error}. {expected}") from None


def is_table(name: str) -> bool:
    """Whether a file name ends like that of a CSV table."""
    return name.lower().endswith(SUFFIXES)


class _Bounded(io.RawIOBase):
    """An unpacked stream that ends in an error beyond the size of any table."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._left = stream, MAX_MEMBER_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Raises OSError beyond the limit."""
        content = self._stream.read(len(buffer))
        buffer[: len(content)] = content
        self._left -= len(content)
        if self._left < 0:
            raise OSError(_TOO_FAR)
        return len(content)


def _only_table(stream: IO[bytes]) -> IO[bytes]:
    """Open the one table that a zip archive holds, beside the notes that macOS adds. Raises BadZipFile otherwise."""
    try:
        archive = zipfile.ZipFile(stream)
    except UnicodeDecodeError as error:
        raise zipfile.BadZipFile(str(error)) from error
    if "xl/workbook.xml" in archive.namelist():  # ECMA-376 part 1, annex: as Excel names it
        raise zipfile.BadZipFile("an Excel workbook. Save its sheet as CSV")
    names = [info for info in archive.infolist() if not info.filename.endswith("/")]
    files = [info for info in names if not info.filename.startswith("__MACOSX/")]
    tables = [info for info in files if is_table(info.filename)] or files
    if len(tables) != 1:
        raise zipfile.BadZipFile(f"an archive of {len(tables)} files, expected one table")
    (info,) = tables
    if info.flag_bits & _ENCRYPTED:
        raise zipfile.BadZipFile("encrypted in its archive")
    if info.file_size > min(MAX_MEMBER_BYTES, max(MAX_RATIO * info.compress_size, HARMLESS_BYTES)):
        raise zipfile.BadZipFile(_TOO_FAR)
    try:
        return archive.open(info)
    except UnicodeDecodeError as error:  # of its own name, which stands there once more
        raise zipfile.BadZipFile(str(error)) from error


def _read_pipe(path: Path) -> bytes:
    """Read all that comes out of a pipe. Raises BadInputError when it has no writer."""
    give_up_s = time.monotonic() + WAIT_FOR_WRITER_S
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as pipe:
        while (begin := pipe.read(_PIPE_BYTES)) == b"":  # None once there is a writer that has not written yet
            if time.monotonic() > give_up_s:
                raise BadInputError(f"{path}: a pipe without a writer. Give a file")
            time.sleep(0.01)
        os.set_blocking(pipe.fileno(), True)
        return (begin or b"") + pipe.readall()
