"""Takes over what was sent: checks that there is room, unpacks archives, and puts the files into the inbox."""

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import Refusal
from rsna_e2e.service.arrivals import count_undone, inbox_bytes
from rsna_e2e.service.inbox import Inbox
from rsna_e2e.service.problems import ProblemError
from rsna_e2e.service.retention import free_bytes
from rsna_e2e.service.unpack import TooLargeError, Unpack, unpack
from rsna_e2e.service.uploads import Taken

_ZIP = (b"PK\3\4", b"PK\5\6")  # APPNOTE 4.3.7 and, of an empty archive, 4.3.16
_LATER = {"Retry-After": "30"}


def check_room(inbox: Inbox) -> None:
    """Raise ProblemError where the disk, the inbox or the queue is full: 507, or 429 with a time to try again."""
    limits = inbox.database.settings.limits
    if free_bytes(inbox) < limits.free_bytes or inbox_bytes(inbox.database) > limits.inbox_bytes:
        raise ProblemError(507, "no_room", detail="The service has no room for more files", headers=_LATER)
    if count_undone(inbox.database) >= limits.undone_studies:
        raise ProblemError(429, "queue_full", detail="Too many studies wait", headers=_LATER)


@contextmanager
def room_for(inbox: Inbox) -> Iterator[Path]:
    """Yield an empty folder on the inbox's disk for what is being received; it goes afterwards."""
    folder = Path(tempfile.mkdtemp(dir=inbox.database.settings.incoming))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def take(inbox: Inbox, paths: Sequence[Path], folder: Path) -> Taken:
    """Acknowledge files, those in zip archives too, which are unpacked in `folder`. Raises ProblemError."""
    files: list[Path] = []
    refusals: list[Refusal] = []
    for number, path in enumerate(paths):
        if not is_zip(path):
            files.append(path)
            continue
        unpacked = folder / f"unpacked-{number}"
        unpacked.mkdir()
        job = _job(inbox, path, unpacked)
        try:
            found = unpack(job)
        except BadInputError:
            raise ProblemError(422, "damaged_archive", detail="The zip archive is damaged or cut short") from None
        except TooLargeError:
            detail = f"At most {job.most_files} files and {job.most_bytes} bytes are taken at once"
            raise ProblemError(413, "archive_too_large", detail=detail) from None
        files += found.paths
        refusals += found.refusals
        path.unlink()
    limit = inbox.database.settings.limits.file_bytes
    if any(path.stat().st_size > limit for path in files):
        raise ProblemError(413, "file_too_large", detail=f"At most {limit} bytes of a file are taken")
    accepted = inbox.accept(files)
    refusals += [file for file in accepted if isinstance(file, Refusal)]
    studies = {file.study for file in accepted if not isinstance(file, Refusal)}
    return Taken(tuple(sorted(studies)), dict(sorted(Counter(str(refusal.reason) for refusal in refusals).items())))


def is_zip(path: Path) -> bool:
    """Whether a file begins as zip archives do."""
    with path.open("rb") as file:
        return file.read(4) in _ZIP


def _job(inbox: Inbox, archive: Path, folder: Path) -> Unpack:
    limits = inbox.database.settings.limits
    return Unpack(archive=archive, folder=folder, most_files=limits.study_files, most_bytes=limits.study_bytes)
