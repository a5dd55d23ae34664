"""How often somebody may try to log in: five times a minute for each account and for each address."""

import hashlib
import sqlite3
from collections.abc import Callable
from math import ceil

from rsna_e2e.service.sqlite import transaction

MOST, WINDOW_S = 5, 60.0

# Hashes, because what is typed as a name may be a password
SCHEMA = """
CREATE TABLE IF NOT EXISTS tries (id INTEGER PRIMARY KEY, key TEXT NOT NULL, time REAL NOT NULL);
CREATE INDEX IF NOT EXISTS tries_by_key ON tries (key, time);
"""


class TooManyTriesError(Exception):
    """Too many tries of an account or from an address; `wait_s`: whole seconds until the next is let through."""

    def __init__(self, wait_s: int) -> None:
        super().__init__(f"too many tries, wait {wait_s} s")
        self.wait_s = wait_s


def take(connection: sqlite3.Connection, clock: Callable[[], float], *, account: str, address: str) -> list[int]:
    """Count a try before it is made, so that tries at the same time count too; returns what `give_back` takes.

    account: empty where a token is tried, which is too long to be guessed. Raises TooManyTriesError; a try that is
    refused is not counted.
    """
    keys = [_key(kind, text) for kind, text in (("account", account), ("address", address)) if text]
    with transaction(connection):
        now_s = clock()
        # Times to come are those of a clock that was set back: nobody is to wait for them
        connection.execute("DELETE FROM tries WHERE time <= ? OR time > ?", (now_s - WINDOW_S, now_s))
        for key in keys:
            row = connection.execute(
                "SELECT time FROM tries WHERE key = ? ORDER BY time DESC LIMIT 1 OFFSET ?", (key, MOST - 1)
            ).fetchone()
            if row is not None:
                raise TooManyTriesError(max(1, ceil(row["time"] + WINDOW_S - now_s)))
        made = [connection.execute("INSERT INTO tries (key, time) VALUES (?, ?)", (key, now_s)) for key in keys]
    return [cursor.lastrowid or 0 for cursor in made]


def give_back(connection: sqlite3.Connection, taken: list[int]) -> None:
    """Forget a try that was right. Within a transaction."""
    connection.executemany("DELETE FROM tries WHERE id = ?", [(one,) for one in taken])


def _key(kind: str, text: str) -> str:
    return hashlib.sha256(f"{kind}:{text}".encode("utf-8", "surrogatepass")).hexdigest()
