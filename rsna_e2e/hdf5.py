"""HDF5 files: written so that nobody ever takes half of one for the whole, and read without trusting who wrote them."""

import errno
import math
import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import h5py

from rsna_e2e.files import sync

# Datasets begin on a page, so that they can be mapped or read past the page cache. Smaller ones are packed.
ALIGNMENT_BYTES = 4096

# HDF5's 1.10 format marks a file that is open for writing: one left by a killed writer cannot be opened as whole.
HDF5_VERSIONS = ("v110", "v110")

# What h5py raises on a file that is damaged, or holds something else than is asked for.
HDF5_ERRORS = (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError)

MOST_DATASETS = 4096  # of an honest file; a shard has one for every shape of its slices


class NotPlainError(ValueError):
    """A file that leads elsewhere, or claims what it cannot hold: the work of an attacker, not of a failing disk."""


@contextmanager
def open_plain(path: Path, *, filters: Collection[int] = (), most_packed: int = 1) -> Iterator[h5py.File]:
    """Open a file from anywhere for reading, once it is known that all it holds is datasets that lie in this very file.

    filters: numbers of the HDF5 filters that may have packed them, which make one byte of `most_packed` at most. Raises
    NotPlainError for a file that is none of its own (a link, a device), for links, groups, external storage, virtual
    datasets, other filters, and shapes that the file is too small for; and one of `HDF5_ERRORS` where it is damaged.
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
def new_file(path: Path) -> Iterator[h5py.File]:
    """Yield a new HDF5 file, which gets its name when the block ended well and it reached the disk.

    A full disk is an OSError with its number, whenever it shows. On any error nothing stays.
    """
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with _open(temporary) as file:
            yield file
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _open(path: Path) -> Iterator[h5py.File]:
    file = h5py.File(
        path, "w", libver=HDF5_VERSIONS, alignment_threshold=ALIGNMENT_BYTES, alignment_interval=ALIGNMENT_BYTES
    )
    try:
        yield file
        file.close()
    except (OSError, RuntimeError) as error:  # RuntimeError: what closing a file raises
        if f"errno = {errno.ENOSPC}," in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
    finally:
        with suppress(OSError, RuntimeError):  # on a full disk closing fails as well; the first error counts
            file.close()
