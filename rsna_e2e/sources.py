"""Where DICOM files come from: a folder, however deep, that is walked without being led astray."""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from rsna_e2e.errors import BadInputError
from rsna_e2e.reasons import Reason
from rsna_e2e.records import RawFile, Refusal, printable

# Label tables lie beside the images in the competition's layout; they are no refused images.
TABLE_SUFFIXES = (".csv", ".csv.gz")


class Source(Protocol):
    """Files that may be DICOM. Cheap to pickle: worker processes open files by themselves."""

    @property
    def path(self) -> Path:
        """Where it is."""

    def find(self) -> tuple[Sequence[RawFile], Sequence[Refusal]]:
        """Return the files, sorted by name, without label tables; and what cannot be taken for one."""

    def open(self, raw_file: RawFile) -> AbstractContextManager[BinaryIO]:
        """Open a file for reading; the stream is seekable and buffered. Raises OSError when it cannot be read."""


def open_source(path: Path) -> Source:
    """Return the source at `path`. Raises BadInputError when there is none."""
    if not path.exists():
        raise BadInputError(f"{path}: no such folder. Give the folder that holds the DICOM files")
    if not path.is_dir():
        raise BadInputError(f"{path}: not a folder. Give the folder that holds the DICOM files")
    return RawFolder(path)


@dataclass(frozen=True, slots=True)
class RawFolder:
    """A folder, nested as you like.

    Links to files are followed, links to folders are not, so no loop and nothing outside is walked. What is no regular
    file is never opened.
    """

    path: Path

    def find(self) -> tuple[Sequence[RawFile], Sequence[Refusal]]:
        """Return the files, sorted by name, without label tables; and what cannot be taken for one."""
        files: list[RawFile] = []
        refusals: list[Refusal] = []
        folders = [""]
        while folders:
            folder = folders.pop()
            try:
                entries = list(os.scandir(self.path / folder))
            except OSError as error:
                refusals.append(Refusal(printable(folder), Reason.UNREADABLE_FILE, os.strerror(error.errno or 0)))
                continue
            for entry in entries:
                name = os.path.join(folder, entry.name)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(name)
                elif entry.is_dir():
                    refusals.append(Refusal(printable(name), Reason.LINKED_FOLDER, "links to folders are not followed"))
                elif not entry.is_file():
                    refusals.append(Refusal(printable(name), Reason.NOT_REGULAR_FILE, "not a file, or a broken link"))
                elif not entry.name.lower().endswith(TABLE_SUFFIXES):
                    status = entry.stat()
                    files.append(RawFile(name, status.st_size, status.st_mtime_ns))
        return sorted(files, key=lambda file: file.name), sorted(refusals, key=lambda refusal: refusal.path)

    def open(self, raw_file: RawFile) -> AbstractContextManager[BinaryIO]:
        """Open a file for reading. Raises OSError when it cannot be read."""
        return (self.path / raw_file.name).open("rb")
