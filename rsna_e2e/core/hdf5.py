"""HDF5 files: written whole or not at all, and read without trusting their content."""

import math
import os
import re
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import h5py

from rsna_e2e.core.files import full_disk_named, is_full, sync

# Datasets begin on a page, so that they can be mapped or read past the page cache. Smaller ones are packed.
ALIGNMENT_BYTES = 4096

# HDF5's 1.10 format marks a file that is open for writing: one left by a killed writer cannot be opened as whole.
HDF5_VERSIONS = ("v110", "v110")

# What h5py raises on a file that is damaged, or holds something else than is asked for.
HDF5_ERRORS = (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError)

_SYSTEM_ERROR = re.compile(r"\berrno = (\d+),")  # in the text of HDF5's errors

MOST_DATASETS = 4096  # of any real file; a shard has one for every shape of its slices


class NotPlainError(ValueError):
    """A file that points outside itself or claims more than it can hold, as only a malicious one does."""


@contextmanager
def open_plain(path: Path, *, filters: Collection[int] = (), most_packed: int = 1) -> Iterator[h5py.File]:
    """Open an untrusted file for reading, after checking that it holds only datasets stored in this very file.

    filters: numbers of the HDF5 filters that are allowed; they compress at most `most_packed` bytes to one. Raises
    NotPlainError for a link or device, for links, groups, external storage and virtual datasets in the file, other
    filters, and shapes larger than the file can hold; and one of `HDF5_ERRORS` where it is damaged.
    """
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise NotPlainError("a link, or no file at all")
    # No lock: files are written once, and some network file systems have none.
    with h5py.File(path, "r", locking=False) as file:
        if len(file) > MOST_DATASETS:
            raise NotPlainError(f"{len(file)} datasets")
        for name in file:
            _check_plain(file, name, filters=filters, most_bytes=status.st_size * most_packed)
        yield file


def _check_plain(file: h5py.File, name: str, *, filters: Collection[int], most_bytes: int) -> None:
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise NotPlainError(f"{name[:40]!r} is a link, which may lead out of the file")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        raise NotPlainError(f"{name[:40]!r} is no dataset")
    if dataset.external or dataset.is_virtual:
        raise NotPlainError(f"the values of {name[:40]!r} lie in other files")
    description = dataset.id.get_create_plist()
    used = {description.get_filter(i)[0] for i in range(description.get_nfilters())}
    if not used <= set(filters):
        raise NotPlainError(f"{name[:40]!r} has filters {sorted(used)}")
    for shape in (dataset.shape or (), dataset.chunks or ()):
        if math.prod(shape) * dataset.dtype.itemsize > most_bytes:
            raise NotPlainError(f"{name[:40]!r} claims shape {shape}, more than the file can hold")


@contextmanager
def new_file(path: Path, *, n_bytes: int = 1) -> Iterator[h5py.File]:
    """Yield a new HDF5 file, which gets its name when the block ended well and it reached the disk.

    n_bytes: that it will have at least; where there is no room for them the block is not begun. Raises DiskFullError,
    then or whenever that shows. On any error nothing stays.
    """
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    with full_disk_named(path):
        try:
            with temporary.open("wb") as empty:
                _take_room(empty.fileno(), n_bytes)
            with _open(temporary) as file:
                yield file
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def flush(file: h5py.File) -> None:
    """Write everything that HDF5 buffers to the file. Raises OSError on a full disk, before HDF5 learns of it.

    For HDF5 (2.0 at least) keeps what it cannot write, tries again when the process ends, and crashes it. So the system
    is asked for the room first, up to where the file ends.
    """
    _take_room(file.id.get_vfd_handle(), file.id.get_filesize())
    file.flush()


def _take_room(descriptor: int, n_bytes: int) -> None:
    """Reserve the first bytes of a file on the disk, where the file system can."""
    try:
        os.posix_fallocate(descriptor, 0, n_bytes)
    except OSError as error:
        if is_full(error):
            raise


@contextmanager
def _open(path: Path) -> Iterator[h5py.File]:
    file = h5py.File(
        path, "w", libver=HDF5_VERSIONS, alignment_threshold=ALIGNMENT_BYTES, alignment_interval=ALIGNMENT_BYTES
    )
    try:
        yield file
        flush(file)
        file.close()
    except (OSError, RuntimeError) as error:  # RuntimeError: what closing a file raises
        if found := _SYSTEM_ERROR.search(str(error)):
            number = int(found[1])
            raise OSError(number, os.strerror(number), str(path)) from error
        raise
    finally:
        if file:
            _abandon(file)


def _abandon(file: h5py.File) -> None:
    """Close a file after an error without writing to the disk: what HDF5 still buffers goes to memory instead. See
    `flush`."""
    nowhere = os.memfd_create("abandoned")
    try:
        os.dup2(nowhere, file.id.get_vfd_handle())
    finally:
        os.close(nowhere)
    for _ in range(2):  # after a flush that failed the first attempt fails as well
        with suppress(OSError, RuntimeError):
            file.close()
