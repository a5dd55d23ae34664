"""Unpacks a zip archive that was sent: in a process of its own, which may die, into files whose names are ours."""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from rsna_e2e.core.records import RawFile, Refusal
from rsna_e2e.dicom.elements import RefusedError
from rsna_e2e.dicom.sources.archive import read_directory
from rsna_e2e.dicom.sources.files import RawArchive
from rsna_e2e.store.prepare.pool import Begin, Lost, Pool

_PIECE_BYTES = 1 << 20


class TooLargeError(Exception):
    """An archive holds more files, or inflates to more, than is taken."""


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What an archive held: the files that were written, and what was refused, without names."""

    paths: tuple[Path, ...]
    refusals: tuple[Refusal, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpack:
    """A job for a pool: an archive into an empty folder, so many files and bytes at most."""

    archive: Path
    folder: Path
    most_files: int
    most_bytes: int

    def __call__(self, begin: Begin, lost: Lost) -> Unpacked:
        """Do it. Raises BadInputError for what is no archive or a damaged one, TooLargeError, OSError."""
        if sum(1 for _ in islice(read_directory(self.archive), self.most_files + 1)) > self.most_files:
            raise TooLargeError  # before all of a long directory is looked at
        source = RawArchive(self.archive)
        files, refusals = source.find()
        if sum(file.n_bytes for file in files) > self.most_bytes:
            raise TooLargeError
        paths: list[Path] = []
        refused = [_nameless(refusal) for refusal in refusals]
        for number, file in enumerate(files):
            if number in lost:
                refused.append(Refusal("", lost[number], "while it was unpacked"))
                continue
            begin(number)
            path = self.folder / f"{number:06d}"
            try:
                self._copy(source, file, path)
            except RefusedError as error:
                path.unlink(missing_ok=True)
                refused.append(Refusal("", error.reason, error.detail))
            else:
                paths.append(path)
        return Unpacked(tuple(paths), tuple(refused))

    def _copy(self, source: RawArchive, file: RawFile, path: Path) -> None:
        with source.open(file) as stream, path.open("wb") as copy:
            while piece := stream.read(_PIECE_BYTES):
                copy.write(piece)


def _nameless(refusal: Refusal) -> Refusal:
    return Refusal("", refusal.reason, refusal.detail)


def unpack(job: Unpack) -> Unpacked:
    """Run the job in a process that may take a bounded time and memory for each file. Raises what it raises."""
    with Pool(1) as pool:
        ((_, unpacked),) = pool.run([job])
    return unpacked
