"""SQLite files that several processes write: durable once a transaction ends, and patient with each other."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Self

from rsna_e2e.core.errors import BadInputError

FORM = 1  # of the tables; it grows when what is written now cannot be read by earlier versions, or the other way round
_CACHE_KIB = 256  # of a connection, of which each thread has one; the system keeps the file in memory anyway
BUSY_S = 30.0  # so long a writer waits for another


def connect(path: Path, schema: str = "") -> sqlite3.Connection:
    """Open a database, made with `schema` if it is not there, readable by its user alone.

    schema: statements that may be run again (CREATE TABLE IF NOT EXISTS); they wait for who writes, which to open
    without them does not. Rows are `sqlite3.Row`. Nothing is committed by itself: write within `transaction`. WAL with
    synchronous=FULL: what was committed outlives a power cut (https://www.sqlite.org/pragma.html#pragma_synchronous).
    What is deleted is overwritten, as it may name people. Raises sqlite3.Error.
    """
    if not path.exists():
        path.touch(mode=0o600)
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA secure_delete=ON")
    connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
    if schema:
        connection.executescript(schema)
    return connection


def check(path: Path) -> None:
    """Look through a database, if it is there, before a service begins with it, and note of which form it is.

    Raises BadInputError for one that is damaged, or of another form than this program writes; sqlite3.Error.
    """
    if not path.exists():
        return
    with closing(sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)) as connection:
        try:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            (form,) = connection.execute("PRAGMA user_version").fetchone()
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            found, form = str(error), FORM
        if found != "ok":
            raise BadInputError(f"{path}: damaged, or no database. Put a copy of it in its place, or move it away")
        if form not in (0, FORM):
            raise BadInputError(f"{path}: of another version of the program. Use that, or take another folder")
        if form == 0:
            connection.execute(f"PRAGMA user_version={FORM}")


class SharedFile:
    """A context with a database that threads use through one connection, one after the other. clock: seconds since
    1970. Raises sqlite3.Error where the file cannot be used, or another process writes for longer than `busy_ms`."""

    def __init__(self, path: Path, schema: str, *, busy_ms: int, clock: Callable[[], float] = time.time) -> None:
        self._connection = connect(path, schema)
        self._connection.execute(f"PRAGMA busy_timeout = {busy_ms}")
        self._clock = clock
        self._lock = threading.RLock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit what the block writes, or nothing of it. It has the right to write from its begin on."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite itself takes back what it has no room for
            connection.execute("ROLLBACK")
        raise
