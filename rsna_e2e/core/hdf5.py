"""HDF5 files: written whole or not at all, and read without trusting their content."""

import math
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import h5py

from rsna_e2e.core.files import full_disk_named, is_full, sync

# Datasets begin on a page, so that they can be mapped or read past the page cache. Smaller ones are packed.
ALIGNMENT_BYTES = 4096

# HDF5's 1.10 format marks a file that is open for writing: one left by a killed writer cannot be opened as whole.
HDF5_VERSIONS = ("v110", "v110")

# What h5py raises on a file that is damaged, or holds something else than is asked for.
HDF5_ERRORS = (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError)

_SYSTEM_ERROR = re.compile(r"\berrno = (\d+),")  # in the text of HDF5's errors

_SHOWN = 40  # characters of a name in a message

MOST_DATASETS = 4096  # of any real file; a shard has one for every shape of its slices


class NotPlainError(ValueError):
    """A file that points outside itself or claims more than it can hold, as only a malicious one does."""


class Int16Place(NamedTuple):
    """Where a dataset of int16, little endian, lies in its file: the name of its group and its own, its shape, and the
    offset of its first byte."""

    group: str
    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def end(self) -> int:
        """The offset behind its last byte."""
        return self.offset + 2 * math.prod(self.shape)


def int16_places(path: Path, *, most: int, still_alive: Callable[[], None]) -> list[Int16Place]:
    """Return where the datasets of an untrusted file lie, so that no library is needed to read them.

    The file holds groups, and these hold datasets, at most `most` of both together, each stored in one piece. Those of
    a group are in the order in which they were made, if it keeps that, else in that of their bytes. still_alive: is
    called before each of them. Raises NotPlainError for everything else, and for datasets that share bytes, so that a
    file cannot hold more values than bytes; and one of `HDF5_ERRORS` where it is damaged.
    """
    places: list[Int16Place] = []
    with _open_to_read(path) as (file, n_bytes):
        if file.userblock_size:
            raise NotPlainError("it has a user block")
        n_names = _count(file, "the file", most)
        for group_name in file:
            group = _member(file, group_name)
            if not isinstance(group, h5py.Group):
                raise NotPlainError(f"{group_name[:_SHOWN]!r} is no group")
            n_names += _count(group, repr(group_name[:_SHOWN]), most - n_names)
            places += _places_in(group, group_name, n_bytes, still_alive)
    by_offset = sorted(places, key=lambda place: place.offset)
    for one, other in pairwise(by_offset):
        if one.end > other.offset:
            raise NotPlainError(f"{one.name[:_SHOWN]!r} and {other.name[:_SHOWN]!r} share bytes")
    return places


def _places_in(group: h5py.Group, group_name: str, n_bytes: int, still_alive: Callable[[], None]) -> list[Int16Place]:
    found: list[tuple[int, Int16Place]] = []
    for name in group:
        still_alive()
        dataset = _member(group, name)
        if not isinstance(dataset, h5py.Dataset):
            raise NotPlainError(f"{name[:_SHOWN]!r} is no dataset, but stands in a group")
        place = Int16Place(group_name, name, *_shape_and_offset(dataset, name, n_bytes))
        link = group.id.links.get_info(name.encode("utf-8", "surrogateescape"))
        found.append((link.corder if link.corder_valid else place.offset, place))
    return [place for _, place in sorted(found)]


def _count(group: h5py.Group, what: str, most: int) -> int:
    """Return how many members a group has. Raises NotPlainError for more than `most`."""
    if len(group) > most:
        raise NotPlainError(f"{what} has {len(group)} members, more than any real file")
    return len(group)


def _shape_and_offset(dataset: h5py.Dataset, name: str, n_bytes: int) -> tuple[tuple[int, ...], int]:
    _check_storage(dataset, name, filters=(), most_bytes=n_bytes)
    if not dataset.id.get_type().equal(h5py.h5t.STD_I16LE):
        kind = str(dataset.dtype)[:_SHOWN]
        raise NotPlainError(f"the values of {name[:_SHOWN]!r} are {kind}; expected int16, all 16 bits, little endian")
    offset = dataset.id.get_offset()
    if offset is None:
        raise NotPlainError(f"{name[:_SHOWN]!r} is not stored in one piece. Convert it with: h5repack -f NONE -l CONTI")
    size = 2 * math.prod(dataset.shape)
    if dataset.id.get_storage_size() != size or offset + size > n_bytes:
        raise NotPlainError(f"{name[:_SHOWN]!r} claims other bytes than the file has")
    return dataset.shape, offset


@contextmanager
def open_plain(path: Path, *, filters: Collection[int] = (), most_packed: int = 1) -> Iterator[h5py.File]:
    """Open an untrusted file for reading, after checking that it holds only datasets stored in this very file.

    filters: numbers of the HDF5 filters that are allowed; they compress at most `most_packed` bytes to one. Raises
    NotPlainError for a link or device, for links, groups, external storage and virtual datasets in the file, other
    filters, and shapes larger than the file can hold; and one of `HDF5_ERRORS` where it is damaged.
    """
    with _open_to_read(path) as (file, n_bytes):
        if len(file) > MOST_DATASETS:
            raise NotPlainError(f"{len(file)} datasets")
        for name in file:
            dataset = _member(file, name)
            if not isinstance(dataset, h5py.Dataset):
                raise NotPlainError(f"{name[:_SHOWN]!r} is no dataset")
            _check_storage(dataset, name, filters=filters, most_bytes=n_bytes * most_packed)
        yield file


@contextmanager
def _open_to_read(path: Path) -> Iterator[tuple[h5py.File, int]]:
    """Open a file, and yield it with its size in bytes. Raises NotPlainError for a link or device."""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise NotPlainError("a link, or no file at all")
    # No lock: files are written once, and some network file systems have none.
    with h5py.File(path, "r", locking=False) as file:
        yield file, status.st_size


def _member(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | h5py.Datatype:
    """Return what a group holds under a name. Raises NotPlainError for a link."""
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise NotPlainError(f"{name[:_SHOWN]!r} is a link, which may lead out of the file")
    return group[name]


def _check_storage(dataset: h5py.Dataset, name: str, *, filters: Collection[int], most_bytes: int) -> None:
    """Raise NotPlainError unless the values of a dataset lie in this file, by no other filters, and in its size."""
    if dataset.external or dataset.is_virtual:
        raise NotPlainError(f"the values of {name[:_SHOWN]!r} lie in other files")
    description = dataset.id.get_create_plist()
    used = {description.get_filter(i)[0] for i in range(description.get_nfilters())}
    if not used <= set(filters):
        raise NotPlainError(f"{name[:_SHOWN]!r} has filters {sorted(used)}")
    for shape in (dataset.shape or (), dataset.chunks or ()):
        if math.prod(shape) * dataset.dtype.itemsize > most_bytes:
            raise NotPlainError(f"{name[:_SHOWN]!r} claims shape {shape}, more than the file can hold")


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
