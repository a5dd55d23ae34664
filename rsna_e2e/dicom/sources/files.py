"""Lists, opens and reads the files of a folder or a zip archive, without following links out of it."""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import groupby, pairwise
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import Modality, RawFile, Refusal, printable
from rsna_e2e.core.table_files import is_table
from rsna_e2e.dicom.header import SliceHeader
from rsna_e2e.dicom.modalities import read_any_headers
from rsna_e2e.dicom.sources.archive import Member, open_member, read_directory, why_refused
from rsna_e2e.dicom.sources.hdf5 import RawShards, has_shards

_OVERLAPS = (Reason.DAMAGED_MEMBER, "its bytes overlap with another member's")
_SAME_TWICE = (Reason.DUPLICATE_NAME, "the archive holds this file under this name more than once")
_DIFFERENT_TWICE = (Reason.DUPLICATE_NAME, "the archive holds different files under this name")


HeadersOf = list[tuple[RawFile, SliceHeader]] | Refusal  # of a file: its slices, each with what to open for its pixels


class Source(Protocol):
    """A folder or archive of files that may be DICOM. Cheap to pickle: worker processes open it themselves."""

    @property
    def path(self) -> Path:
        """The folder or archive."""

    @property
    def stamp(self) -> tuple[int, ...]:
        """Numbers that change when the source changes, beside the stamps of its files."""

    @property
    def has_shards(self) -> bool:
        """Whether a file holds a large part of all slices, so that it takes long to read and none may be missing."""

    def find(self) -> tuple[Sequence[RawFile], Sequence[Refusal]]:
        """Return the files, sorted by name, without label tables; and what cannot be taken for one."""

    def find_tables(self, *, depth: int) -> list[tuple[RawFile, str]]:
        """Return the tables up to `depth` folders down, sorted by name, each with why it must not be
        opened, empty where it may be."""

    def open(self, raw_file: RawFile, *, head: bool = False) -> AbstractContextManager[BinaryIO]:
        """Open a file for reading; the stream is seekable and buffered.

        head: only its beginning will be read; in an archive that is not checked, as the checksum is of the whole file.
        Raises OSError when it cannot be read, RefusedError, also while it is read, when an archive holds it damaged.
        """

    def read_headers(self, raw_file: RawFile, still_alive: Callable[[], None], modality: Modality) -> HeadersOf:
        """Return everything but the pixels of a file's slices, in their order, or why it is refused.

        modality: that files have to be of. still_alive: may be called while that takes long. Raises what `open` raises.
        """


def open_source(path: Path) -> Source:
    """Return the source at `path`: a folder, one of HDF5 shards, an archive, or the one archive that a folder holds and
    nothing else.

    Raises BadInputError when there is none.
    """
    if not path.exists():
        raise BadInputError(f"{path}: no such folder or archive. Give the one that holds the DICOM files")
    if path.is_file():
        return RawArchive(path)
    if not path.is_dir():
        raise BadInputError(f"{path}: not a folder, and no zip archive. Give the one that holds the DICOM files")
    if has_shards(path):
        return RawShards(path)
    return RawArchive(archive) if (archive := _only_archive(path)) else RawFolder(path)


def check_is_source(path: Path) -> None:
    """Raise BadInputError where there is no source at `path`, and for a file that is no archive, soon."""
    source = open_source(path)
    if isinstance(source, RawArchive):
        next(read_directory(source.path), None)


@dataclass(frozen=True, slots=True)
class RawFolder:
    """A folder with any number of subfolders.

    Links to files are followed, links to folders are not, so no loop and nothing outside is walked. Pipes, sockets
    and devices are never opened.
    """

    path: Path

    @property
    def stamp(self) -> tuple[int, ...]:
        """None: its files have their own."""
        return ()

    @property
    def has_shards(self) -> bool:
        """False: a file holds a slice, or a series at most."""
        return False

    def find(self) -> tuple[Sequence[RawFile], Sequence[Refusal]]:
        """Return the files, sorted by name, without label tables; and what cannot be taken for one."""
        files: list[RawFile] = []
        refusals: list[Refusal] = []
        folders = [""]
        while folders:
            folder = folders.pop()
            try:
                found, refused, deeper = self._inside(folder)
            except OSError as error:
                refusals.append(Refusal(printable(folder), Reason.UNREADABLE_FILE, os.strerror(error.errno or 0)))
                continue
            files += found
            refusals += refused
            folders += deeper
        return sorted(files, key=attrgetter("name")), sorted(refusals, key=attrgetter("path"))

    def _inside(self, folder: str) -> tuple[list[RawFile], list[Refusal], list[str]]:
        """Return the files of a folder, what is none, and the folders in it. Raises OSError when it cannot be read."""
        files: list[RawFile] = []
        refusals: list[Refusal] = []
        folders: list[str] = []
        for entry in os.scandir(self.path / folder):  # in no list: an entry keeps what it was asked for
            name = os.path.join(folder, entry.name)
            if entry.is_dir(follow_symlinks=False):
                folders.append(name)
                continue
            status = _status(entry)
            if status and stat.S_ISDIR(status.st_mode):
                refusals.append(Refusal(printable(name), Reason.LINKED_FOLDER, "links to folders are not followed"))
            elif not status or not stat.S_ISREG(status.st_mode):
                refusals.append(
                    Refusal(printable(name), Reason.NOT_REGULAR_FILE, "not a regular file, or a broken link")
                )
            elif not is_table(entry.name):
                files.append(RawFile(name, status.st_size, status.st_mtime_ns))
        return files, refusals, folders

    def find_tables(self, *, depth: int) -> list[tuple[RawFile, str]]:
        """Return the tables up to `depth` folders down, sorted by name; all may be opened."""
        return [(table, "") for table in sorted(self._tables("", depth), key=attrgetter("name"))]

    def _tables(self, folder: str, depth: int) -> Iterator[RawFile]:
        try:
            entries = list(os.scandir(self.path / folder))
        except OSError:
            return  # `find` reports it
        for entry in entries:
            name = os.path.join(folder, entry.name)
            if depth and entry.is_dir(follow_symlinks=False):
                yield from self._tables(name, depth - 1)
            elif is_table(entry.name) and (status := _status(entry)) and stat.S_ISREG(status.st_mode):
                yield RawFile(name, status.st_size, status.st_mtime_ns)

    def open(self, raw_file: RawFile, *, head: bool = False) -> AbstractContextManager[BinaryIO]:
        """Open a file for reading. Raises OSError when it cannot be read."""
        return (self.path / raw_file.name).open("rb")

    def read_headers(self, raw_file: RawFile, still_alive: Callable[[], None], modality: Modality) -> HeadersOf:
        """Return the headers of a file's slices, or why it is refused. Raises OSError when it cannot be read."""
        return _read(self, raw_file, modality)


@dataclass(frozen=True, slots=True)
class RawArchive:
    """A zip archive, read in place. Stamp of a file: its CRC-32; its offset: that of its local header."""

    path: Path

    @property
    def stamp(self) -> tuple[int, ...]:
        """Size and time of the archive."""
        status = self.path.stat()
        return status.st_size, status.st_mtime_ns

    @property
    def has_shards(self) -> bool:
        """False: a file holds a slice, or a series at most."""
        return False

    def find(self) -> tuple[Sequence[RawFile], Sequence[Refusal]]:
        """Return the files, sorted by name, without label tables; and what cannot be taken for one.

        Raises BadInputError when it is no archive, or its directory is damaged.
        """
        files: list[RawFile] = []
        ends: list[int] = []
        refused: list[tuple[str, tuple[Reason, str]]] = []
        n_archive = self.path.stat().st_size
        for member in read_directory(self.path):
            if is_table(member.name):
                continue
            if why := why_refused(member, n_archive=n_archive):
                refused.append((member.name, why))
            else:
                files.append(_file_of(member))
                ends.append(member.end)
        overlaps = _overlapping([file.offset for file in files], ends)
        refused += [(file.name, _OVERLAPS) for file, overlap in zip(files, overlaps, strict=True) if overlap]
        files = [file for file, overlap in zip(files, overlaps, strict=True) if not overlap]
        files.sort(key=attrgetter("name"))
        taken = _once_each(files, refused)
        refusals = [Refusal(printable(name), *why) for name, why in refused]
        return taken, sorted(refusals, key=attrgetter("path"))

    def find_tables(self, *, depth: int) -> list[tuple[RawFile, str]]:
        """Return the tables up to `depth` folders down, sorted by name, each with why it must not be opened, else "".

        Raises what `find` raises.
        """
        n_archive = self.path.stat().st_size
        tables = [m for m in read_directory(self.path) if is_table(m.name) and m.name.count("/") <= depth]
        tables.sort(key=attrgetter("name"))
        return [(_file_of(m), why[1] if (why := why_refused(m, n_archive=n_archive)) else "") for m in tables]

    def open(self, raw_file: RawFile, *, head: bool = False) -> AbstractContextManager[BinaryIO]:
        """Open a file for reading. Raises OSError when it cannot be read, RefusedError when it is damaged."""
        return open_member(self.path, raw_file, head=head)

    def read_headers(self, raw_file: RawFile, still_alive: Callable[[], None], modality: Modality) -> HeadersOf:
        """Return the headers of a file's slices, or why it is refused. Raises what `open` raises."""
        return _read(self, raw_file, modality)


def _read(source: Source, raw_file: RawFile, modality: Modality) -> HeadersOf:
    with source.open(raw_file, head=True) as stream:
        headers = read_any_headers(stream, raw_file, modality)
    return headers if isinstance(headers, Refusal) else [(raw_file, header) for header in headers]


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Return the status of an entry or of what it links to; None for a broken link."""
    try:
        return entry.stat()
    except OSError:
        return None


def _file_of(member: Member) -> RawFile:
    return RawFile(member.name, member.n_bytes, member.crc, member.offset)


def _only_archive(folder: Path) -> Path | None:
    """Return the archive in a folder that holds nothing else, but for tables."""
    try:
        names = [entry.name for entry in os.scandir(folder) if not is_table(entry.name)]
    except OSError:
        return None  # `find` says so
    is_one = len(names) == 1 and names[0].lower().endswith(".zip") and (folder / names[0]).is_file()
    return folder / names[0] if is_one else None


def _overlapping(begins: Sequence[int], ends: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Mark the members, from `begins` to `ends` in the archive, that share bytes with another."""
    begin, end = np.array(begins, dtype=np.int64), np.array(ends, dtype=np.int64)
    order = np.argsort(begin, kind="stable")
    begin, end = begin[order], np.maximum.accumulate(end[order]) if len(order) else end
    reaches_next = end[:-1] > begin[1:]
    marks = np.zeros(len(order), dtype=bool)
    marks[order[1:]] |= reaches_next
    marks[order[:-1]] |= reaches_next
    return marks


def _once_each(files: Sequence[RawFile], refused: list[tuple[str, tuple[Reason, str]]]) -> list[RawFile]:
    """Return the files, sorted by name, without those whose name another has; equal ones but for the first."""
    if all(one.name != other.name for one, other in pairwise(files)):
        return list(files)
    taken: list[RawFile] = []
    for name, group in groupby(files, key=attrgetter("name")):
        first, *others = group
        is_clear = all((other.n_bytes, other.stamp) == (first.n_bytes, first.stamp) for other in others)
        if is_clear:
            taken.append(first)
            refused += [(name, _SAME_TWICE)] * len(others)
        else:
            refused += [(name, _DIFFERENT_TWICE)] * (1 + len(others))
    return taken
