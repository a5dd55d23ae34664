"""Uploads of several files, each by a request of its own that may be sent again, and what came of them."""

import json
import secrets
from collections import Counter
from dataclasses import dataclass

from rsna_e2e.core.files import as_json
from rsna_e2e.service.arrivals import complete
from rsna_e2e.service.database import Database
from rsna_e2e.service.sqlite import transaction

FORGOTTEN_S = 3600.0  # an upload of which nothing came for so long is over


class TooManyUploadsError(Exception):
    """The caller has as many open uploads as one may have."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What was sent: the studies that it belongs to, sorted, and files that were refused, by reason."""

    studies: tuple[str, ...]
    refused: dict[str, int]


def open_upload(database: Database, caller: str) -> str:
    """Begin an upload, and return its id. Raises TooManyUploadsError."""
    upload, now_s = f"u_{secrets.token_hex(8)}", database.clock()
    with transaction(database.connection):
        database.connection.execute("DELETE FROM uploads WHERE last_s<?", (now_s - FORGOTTEN_S,))
        (count,) = database.connection.execute("SELECT count(*) FROM uploads WHERE caller=?", (caller,)).fetchone()
        if count >= database.settings.limits.open_uploads:
            raise TooManyUploadsError
        database.connection.execute("INSERT INTO uploads VALUES (?,?,?)", (upload, caller, now_s))
    return upload


def is_open(database: Database, upload: str, caller: str) -> bool:
    """Whether an upload is open, and this caller's."""
    found = database.connection.execute("SELECT caller FROM uploads WHERE upload=?", (upload,)).fetchone()
    return found is not None and found["caller"] == caller


def count_files(database: Database, upload: str) -> int:
    """Return how many files an upload brought so far."""
    query = "SELECT count(*) FROM upload_files WHERE upload=?"
    (count,) = database.connection.execute(query, (upload,)).fetchone()
    return int(count)


def note_file(database: Database, upload: str, place: int, taken: Taken) -> bool:
    """Note what file number `place` of an upload is, in place of what was noted of that number. False where the upload
    ended while the file came."""
    text = as_json({"studies": taken.studies, "refused": taken.refused})
    with transaction(database.connection):
        touched = database.connection.execute("UPDATE uploads SET last_s=? WHERE upload=?", (database.clock(), upload))
        if touched.rowcount:
            database.connection.execute("INSERT OR REPLACE INTO upload_files VALUES (?,?,?)", (upload, place, text))
    return touched.rowcount > 0


def close_upload(database: Database, upload: str) -> Taken:
    """End an upload: its studies are whole."""
    rows = database.connection.execute("SELECT taken FROM upload_files WHERE upload=?", (upload,)).fetchall()
    files = [json.loads(row["taken"]) for row in rows]
    studies = tuple(sorted({study for file in files for study in file["studies"]}))
    refused: Counter[str] = Counter()
    for file in files:
        refused.update(file["refused"])
    complete(database, studies)
    with transaction(database.connection):
        database.connection.execute("DELETE FROM uploads WHERE upload=?", (upload,))
    return Taken(studies, dict(sorted(refused.items())))
