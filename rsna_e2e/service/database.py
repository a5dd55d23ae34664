"""The SQLite file of a service: which studies there are, how far each is, and what was found.

A study is `arriving` while files come, `queued` when its sender said that it is whole, `running` while a worker has it,
and ends `done` or `refused`; after an error it is `failed` until it is tried again, and `dead` after the last attempt.
Files that come later make a new generation, whose content differs; results of the one before stay, superseded.
"""

import hashlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Literal

from rsna_e2e.service.settings import Settings
from rsna_e2e.service.sqlite import BUSY_S, connect, transaction

State = Literal["arriving", "queued", "running", "done", "refused", "failed", "dead"]
_SOON_MS = 1000
UNDONE: tuple[State, ...] = ("arriving", "queued", "running", "failed")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS studies (
  study TEXT PRIMARY KEY, state TEXT NOT NULL, received TEXT NOT NULL, first_s REAL NOT NULL, last_s REAL NOT NULL,
  is_whole INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0, not_before_s REAL NOT NULL DEFAULT 0,
  owner TEXT, lease_s REAL, reason TEXT, refused TEXT NOT NULL DEFAULT '{}', timing TEXT NOT NULL DEFAULT '{}',
  score REAL, finished REAL, version INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS of_state ON studies(state, first_s);
CREATE INDEX IF NOT EXISTS of_version ON studies(version);
CREATE INDEX IF NOT EXISTS by_time ON studies(received DESC, first_s DESC, study);
CREATE INDEX IF NOT EXISTS by_score ON studies(score DESC, first_s DESC, study);
CREATE TABLE IF NOT EXISTS files (
  study TEXT NOT NULL REFERENCES studies ON DELETE CASCADE, name TEXT NOT NULL, n_bytes INTEGER NOT NULL,
  PRIMARY KEY (study, name));
CREATE TABLE IF NOT EXISTS inbox (one INTEGER PRIMARY KEY CHECK (one = 1), n_bytes INTEGER NOT NULL);
INSERT OR IGNORE INTO inbox SELECT 1, coalesce(sum(n_bytes), 0) FROM files;
CREATE TRIGGER IF NOT EXISTS came AFTER INSERT ON files BEGIN UPDATE inbox SET n_bytes=n_bytes+NEW.n_bytes; END;
CREATE TRIGGER IF NOT EXISTS went AFTER DELETE ON files BEGIN UPDATE inbox SET n_bytes=n_bytes-OLD.n_bytes; END;
CREATE TABLE IF NOT EXISTS results (
  study TEXT NOT NULL REFERENCES studies ON DELETE CASCADE, content TEXT NOT NULL, model TEXT NOT NULL,
  finished TEXT NOT NULL, summary TEXT NOT NULL, is_superseded INTEGER NOT NULL DEFAULT 0,
  pictures TEXT NOT NULL DEFAULT 'wanted', pictures_owner TEXT, pictures_lease_s REAL,
  pictures_attempts INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (study, content, model));
CREATE INDEX IF NOT EXISTS of_pictures ON results(pictures);
CREATE TABLE IF NOT EXISTS identities (
  study TEXT PRIMARY KEY REFERENCES studies ON DELETE CASCADE, patient_id TEXT NOT NULL, accession TEXT NOT NULL,
  study_date TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS workers (
  number INTEGER PRIMARY KEY, pid INTEGER NOT NULL, beat_s REAL NOT NULL, models TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS uploads (upload TEXT PRIMARY KEY, caller TEXT NOT NULL, last_s REAL NOT NULL);
CREATE TABLE IF NOT EXISTS upload_files (
  upload TEXT NOT NULL REFERENCES uploads ON DELETE CASCADE, place INTEGER NOT NULL, taken TEXT NOT NULL,
  PRIMARY KEY (upload, place));
CREATE TABLE IF NOT EXISTS changes (one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER NOT NULL);
INSERT OR IGNORE INTO changes VALUES (1, 0);
"""


def boot_clock() -> float:
    """Return the seconds since this machine started, sleep counted, a clock that nobody can set (clock_gettime(2))."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def content_of(names: Iterable[str]) -> str:
    """Return 16 hexadecimal digits that stand for a set of files, whose names are of their bytes."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:16]


def utc_now() -> str:
    """Return the time in UTC to the second, as ISO 8601 writes it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Database:
    """An open file, which every thread reads and writes through a connection of its own.

    Whoever uses it raises sqlite3.Error where it cannot be used, OperationalError where another writer takes longer
    than `sqlite.BUSY_S`.
    """

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = boot_clock) -> None:
        self.settings, self.clock = settings, clock
        self._of_thread = threading.local()
        self._of_thread.connection = connect(settings.database, _SCHEMA)

    @property
    def connection(self) -> sqlite3.Connection:
        """That of this thread."""
        if not hasattr(self._of_thread, "connection"):
            self._of_thread.connection = connect(self.settings.database)
        connection: sqlite3.Connection = self._of_thread.connection
        return connection

    @contextmanager
    def change(self) -> Iterator[int]:
        """Write within one transaction; yields the number that the studies it changes are to bear as their version."""
        connection = self.connection
        with transaction(connection):
            n_before = connection.total_changes
            yield self.version() + 1
            if connection.total_changes > n_before:
                connection.execute("UPDATE changes SET version=version+1")

    def version(self) -> int:
        """Return the number of the last change."""
        (version,) = self.connection.execute("SELECT version FROM changes").fetchone()
        return int(version)

    def is_writable(self) -> bool:
        """Whether something could be written within `_SOON_MS`: the file is not damaged, read-only or held."""
        connection = self.connection
        connection.execute(f"PRAGMA busy_timeout={_SOON_MS}")
        try:
            with transaction(connection):
                return self.version() >= 0
        except sqlite3.Error:
            return False
        finally:
            connection.execute(f"PRAGMA busy_timeout={round(BUSY_S * 1000)}")

    def forget_deleted(self) -> None:
        """Write over what the log of changes still holds of what was deleted, unless somebody reads it just now."""
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def names(self, study: str) -> tuple[str, ...]:
        """Return the names of a study's files, sorted."""
        rows = self.connection.execute("SELECT name FROM files WHERE study=? ORDER BY name", (study,))
        return tuple(row["name"] for row in rows)

    def row(self, study: str) -> sqlite3.Row | None:
        """Return what is known of a study, None where it is unknown."""
        found: sqlite3.Row | None = self.connection.execute("SELECT * FROM studies WHERE study=?", (study,)).fetchone()
        return found
