"""Takes over what was sent: checks that there is room, unpacks archives, and puts the files into the inbox."""

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import Refusal
from rsna_e2e.service.arrivals import count_undone, inbox_bytes
from rsna_e2e.service.inbox import Inbox
from rsna_e2e.service.problems import ProblemError
from rsna_e2e.service.retention import free_bytes
from rsna_e2e.service.settings import Limits
from rsna_e2e.service.unpack import TooLargeError, Unpack, Unpacked, unpack
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


@asynccontextmanager
async def room_for(inbox: Inbox) -> AsyncIterator[Path]:
    """Yield an empty folder on the inbox's disk for what is being received; it goes afterwards."""
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, dir=inbox.database.settings.incoming))
    try:
        yield folder
    finally:
        await asyncio.shield(asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True))


def take(inbox: Inbox, paths: Sequence[Path], folder: Path) -> Taken:
    """Acknowledge files, those in zip archives too, which are unpacked in `folder`. Raises ProblemError."""
    limits = inbox.database.settings.limits
    archives = [path for path in paths if is_zip(path)]
    files = [path for path in paths if path not in set(archives)]
    refusals: list[Refusal] = []
    n_bytes = sum(path.stat().st_size for path in files)
    for number, path in enumerate(archives):
        unpacked = folder / f"unpacked-{number}"
        unpacked.mkdir()
        job = Unpack(  # what is taken at once is for all archives together
            archive=path,
            folder=unpacked,
            most_files=limits.study_files - len(files) - len(refusals),
            most_bytes=limits.study_bytes - n_bytes,
        )
        found = _unpack(job, limits)
        files += found.paths
        refusals += found.refusals
        n_bytes += sum(one.stat().st_size for one in found.paths)
        path.unlink()
    if any(path.stat().st_size > limits.file_bytes for path in files):
        raise ProblemError(413, "file_too_large", detail=f"At most {limits.file_bytes} bytes of a file are taken")
    accepted = inbox.accept(files)
    refusals += [file for file in accepted if isinstance(file, Refusal)]
    studies = {file.study for file in accepted if not isinstance(file, Refusal)}
    return Taken(tuple(sorted(studies)), dict(sorted(Counter(str(refusal.reason) for refusal in refusals).items())))


def is_zip(path: Path) -> bool:
    """Whether a file begins as zip archives do."""
    with path.open("rb") as file:
        return file.read(4) in _ZIP


def _unpack(job: Unpack, limits: Limits) -> Unpacked:
    try:
        return unpack(job)
    except BadInputError:
        raise ProblemError(422, "damaged_archive", detail="The zip archive is damaged or cut short") from None
    except TooLargeError:
        detail = f"At most {limits.study_files} files and {limits.study_bytes} bytes are taken at once"
        raise ProblemError(413, "archive_too_large", detail=detail) from None
