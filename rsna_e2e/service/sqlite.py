"""SQLite files that several processes write: durable once a transaction ends, and patient with each other."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
    if schema:
        connection.executescript(schema)
    return connection


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
