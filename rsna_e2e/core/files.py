"""Files that are written whole or not at all, JSON and CSV, and helpers for paths and folders."""

import csv
import ctypes
import errno
import fcntl
import hashlib
import io
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from rsna_e2e.core.errors import BadInputError, DiskFullError, UsageError

FULL = "the disk is full. Free some space there and run again"
SEAL = "content_sha256"
_MOST_JSON_BYTES = 2**28
_SYNC_FILE_RANGE = getattr(ctypes.CDLL(None), "sync_file_range", None)
_SYNC_FILE_RANGE_WRITE = 2  # <linux/fs.h>
_ROWS_TOGETHER = 1 << 14


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that takes `path`'s place only when the block ends well.

    The bytes go to a temporary name in the same folder, are synced and renamed; on any error the temporary file is
    removed and a file already at `path` stays as it was. Raises DiskFullError, BadInputError when nothing can be
    written there.
    """
    _check_is_replaceable(path)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with full_disk_named(path):
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync(path.parent)
    except OSError as error:
        raise BadInputError(f"{path}: cannot be written: {error.strerror}. Choose another place") from error
    finally:
        if temporary.parent.is_dir():
            temporary.unlink(missing_ok=True)


def is_full(error: OSError) -> bool:
    """Whether the system had no room for what was written: on the disk, in a quota, or in a file of limited size."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def full_disk_named(path: Path, what: str = FULL) -> Iterator[None]:
    """Raise DiskFullError, which names `path` and says `what` is wrong and what to do, where the block runs out of
    room.

    It replaces a DiskFullError of the block: the caller knows better what to do.
    """
    try:
        yield
    except (OSError, DiskFullError) as error:
        if isinstance(error, OSError) and not is_full(error):
            raise
        raise DiskFullError(f"{path}: {what}") from error


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, whole or not at all; see `as_json`."""
    with atomic_writer(path) as file:
        file.write((as_json(value, indent=2) + "\n").encode())


def as_json(value: Any, *, indent: int | None = None, sort_keys: bool = False) -> str:
    """Return a value as JSON, the only way that this program writes any; a number that is not finite becomes null.

    Source: RFC 8259, section 6: infinities and NaN are no JSON, and readers of other languages refuse them.
    """
    return json.dumps(without_nan(value), indent=indent, sort_keys=sort_keys, allow_nan=False)


def without_nan(value: Any) -> Any:
    """Return plain data with None in the place of every number that is not finite."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: without_nan(item) for key, item in value.items()}
        case list() | tuple():
            return [without_nan(item) for item in value]
    return value


def csv_blocks(rows: Iterable[Sequence[object]]) -> Iterator[bytes]:
    """Yield rows as CSV, in blocks of many: quoted where they must be, lines that end in LF, in UTF-8."""
    rows = iter(rows)
    while block := list(islice(rows, _ROWS_TOGETHER)):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(block)
        yield text.getvalue().encode()


def read_json(path: Path) -> Any:
    """Return the content of a JSON file that may be damaged or hostile.

    Raises ValueError when it is not JSON, or too large or nested too deeply to be one of this program's; OSError when
    it cannot be read or is not a regular file (reading a pipe would block).
    """
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
    if path.stat().st_size > _MOST_JSON_BYTES:
        raise ValueError("too large")
    try:
        return json.loads(path.read_bytes())
    except RecursionError:
        raise ValueError("nested too deep") from None


def sealed(content: Mapping[str, Any], *, key: str = SEAL) -> dict[str, Any]:
    """Return what is to be written as JSON, with a sha256 of everything else in it under `key`."""
    rest = {name: value for name, value in content.items() if name != key}
    text = as_json(rest, sort_keys=True)
    return {**rest, key: hashlib.sha256(text.encode()).hexdigest()}


def unsealed(content: Any, *, key: str = SEAL) -> dict[str, Any]:
    """Return what `sealed` was given. Raises ValueError when it was changed since, or never sealed."""
    try:
        is_whole = isinstance(content, dict) and sealed(content, key=key) == content
    except RecursionError:
        is_whole = False
    if not is_whole:
        raise ValueError("changed since it was written")
    return {name: value for name, value in content.items() if name != key}


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal. Raises OSError when it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def prepare_file(path: Path, *, example: str) -> None:
    """Make the folder of a file that is to be written, before the work for it is done.

    Raises UsageError, with an example of a name, when `path` is a folder; BadInputError when it cannot be made.
    """
    if path.is_dir() or not path.name:
        raise UsageError(f"{path}: not the name of a file. Give one, such as {example}")
    _check_is_replaceable(path)
    make_folder(path.parent)


def real_path(path: Path) -> Path:
    """Return where a path leads, links followed; a link that leads round in a ring stays as it is."""
    return Path(os.path.realpath(path))


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a path leads to a folder or into it."""
    return real_path(path).is_relative_to(real_path(folder))


def _check_is_replaceable(path: Path) -> None:
    """Refuse a device or pipe, which writing would replace by a file: `--out /dev/null` would destroy it."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise BadInputError(f"{path}: a device or pipe, which a file would replace. Choose another name")


def entries(folder: Path) -> list[Path]:
    """Return the entries of a folder, sorted, without `lost+found` of a file system's root. Source: mke2fs(8)."""
    return sorted(path for path in folder.iterdir() if path.name != "lost+found")


def remove_folder(folder: Path) -> None:
    """Remove a folder as far as possible; of a link or mount point, only the content."""
    with suppress(OSError):
        for path in entries(folder):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() and not path.is_symlink() else path.unlink()
        folder.rmdir()


def make_folder(path: Path) -> None:
    """Make a folder with its parents, if it is not there.

    Raises DiskFullError, BadInputError when it cannot be made.
    """
    try:
        with full_disk_named(path):
            real_path(path).mkdir(parents=True, exist_ok=True)  # also where a link leads nowhere as yet
    except OSError as error:
        raise BadInputError(f"{path}: cannot be made: {error.strerror}. Choose another folder") from error


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def begin_sync(descriptor: int) -> None:
    """Start writing new data of a file to the disk without waiting, so that `sync` waits less.

    Source: sync_file_range(2), a call that only Linux has. Elsewhere, and on file systems without it, nothing happens.
    """
    if _SYNC_FILE_RANGE is not None:
        begin, to_the_end = ctypes.c_int64(0), ctypes.c_int64(0)
        _SYNC_FILE_RANGE(descriptor, begin, to_the_end, _SYNC_FILE_RANGE_WRITE)


def lock_folder(folder: Path) -> int:
    """Lock a folder against other processes for as long as the returned descriptor is open, at most until this one
    ends.

    Raises BlockingIOError while another process is in it. On a file system without locks there is no protection.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:
        pass
    return descriptor
