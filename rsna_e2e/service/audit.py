"""Who did what: rows that each hold the hash of the one before, so that a change, a gap or a lost end is found.

A row is hashed with the hash before it, by SHA-256. A head keeps the number and hash of the last row. What is too old
is removed by `retain`, which leaves a row that says where the rest begins. There is no secret in it: who can write the
file can make another chain. To find that too, keep `Verification.known` elsewhere from time to time.
"""

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, get_args

from rsna_e2e.core.errors import UsageError
from rsna_e2e.core.files import as_json
from rsna_e2e.service.accounts import BUSY_MS
from rsna_e2e.service.addresses import plain
from rsna_e2e.service.callers import is_name
from rsna_e2e.service.sqlite import SharedFile, transaction

Action = Literal[
    "login", "logout", "upload", "view", "download", "delete", "retry", "send", "admin", "denied", "retention"
]
KEEP = timedelta(days=365)
NOBODY = "-"  # the actor where it is not known: what was typed as a name may be a password
MACHINE = "@machine"  # who works on the machine itself, with the command line

_STUDY = re.compile(r"[0-9a-f]{8,64}|u_[0-9a-f]{16}|")
_OUTCOME = re.compile(r"[a-z0-9_.@: /-]{1,160}")
_KNOWN = re.compile(r"[0-9]{1,18}:[0-9a-f]{64}")
_BEGIN = "0" * 64
_FIELDS = ("time", "actor", "action", "study", "outcome", "address")

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS audit (
    number INTEGER PRIMARY KEY, {", ".join(f"{name} TEXT NOT NULL" for name in _FIELDS)}, hash TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS audit_head (id INTEGER PRIMARY KEY CHECK (id = 1), number INTEGER, hash TEXT);
INSERT OR IGNORE INTO audit_head VALUES (1, 0, '{_BEGIN}');
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What a check of the chain found. broken: number of the first row that is not as it was written, with `why`.

    known: number and hash of the last row, as `NUMBER:HASH`.
    """

    n_rows: int
    known: str
    broken: int | None = None
    why: str = ""


class Audit(SharedFile):
    """The audit of a service, in DATA/access.sqlite. Safe to use from several threads and processes."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Open the file, or make it. clock: seconds since 1970. Raises sqlite3.Error."""
        super().__init__(path, _SCHEMA, busy_ms=BUSY_MS, clock=clock)

    def append(self, *, actor: str, action: Action, study: str = "", outcome: str = "ok", address: str = "") -> None:
        """Write a row, which is on the disk when this returns.

        actor: name of a user or token, NOBODY or MACHINE. study: its key, or the id of an upload. outcome: in small
        letters of ASCII, words of this program alone. address: what is no address becomes empty. Raises sqlite3.Error.
        """
        assert actor in (NOBODY, MACHINE) or is_name(actor), "an actor is the name of an account"
        assert action in get_args(Action)
        assert _STUDY.fullmatch(study), "a study is named by its key"
        assert _OUTCOME.fullmatch(outcome), "an outcome is a word of this program"
        with self._lock, transaction(self._connection):
            self._write(actor, action, study, outcome, plain(address))

    def _write(self, actor: str, action: Action, study: str, outcome: str, address: str) -> None:
        head = self._connection.execute("SELECT number, hash FROM audit_head").fetchone()
        time_utc = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")
        fields = (time_utc, actor, action, study, outcome, address)
        number = head["number"] + 1
        hashed = _hash(head["hash"], number, fields)
        self._connection.execute("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (number, *fields, hashed))
        self._connection.execute("UPDATE audit_head SET number = ?, hash = ?", (number, hashed))

    def last(self, most: int) -> list[dict[str, str]]:
        """The last rows, oldest first: number, time, actor, action, study, outcome, address."""
        with self._lock:
            rows = self._connection.execute("SELECT * FROM audit ORDER BY number DESC LIMIT ?", (most,)).fetchall()
        return [{name: str(row[name]) for name in ("number", *_FIELDS)} for row in reversed(rows)]

    def retain(self, keep: timedelta = KEEP) -> int:
        """Remove the rows that are older, and write one that says up to which; returns how many were removed."""
        oldest = datetime.fromtimestamp(self._clock() - keep.total_seconds(), UTC).isoformat(timespec="milliseconds")
        with self._lock, transaction(self._connection):
            # Up to the first that is kept: a clock that was set back makes no gap
            kept = self._connection.execute("SELECT min(number) FROM audit WHERE time >= ?", (oldest,)).fetchone()[0]
            last = self._connection.execute(
                "SELECT number, hash FROM audit WHERE ? IS NULL OR number < ? ORDER BY number DESC LIMIT 1",
                (kept, kept),
            ).fetchone()
            if last is None:
                return 0
            n_removed = self._connection.execute("DELETE FROM audit WHERE number <= ?", (last["number"],)).rowcount
            self._write(MACHINE, "retention", "", f"{last['number']}:{last['hash']}", "")
        return n_removed

    def verify(self, known: str | None = None) -> Verification:
        """Check the chain while others may write.

        known: what an earlier check gave, which it must still hold, if it is not too old. Raises UsageError for what no
        check gave.
        """
        if known is not None and not _KNOWN.fullmatch(known):
            raise UsageError(f"{known:.100}: not what audit verify gives, which is NUMBER:HASH of the last row")
        with self._lock:
            self._connection.execute("BEGIN")  # all that is read is of one moment
            try:
                return self._verify(known)
            finally:
                self._connection.execute("COMMIT")

    def _verify(self, known: str | None) -> Verification:
        head = self._connection.execute("SELECT number, hash FROM audit_head").fetchone()
        begun = self._connection.execute(
            "SELECT outcome FROM audit WHERE action = 'retention' ORDER BY number DESC LIMIT 1"
        ).fetchone()
        is_begun = begun is not None and _KNOWN.fullmatch(begun["outcome"])
        number, before = _parse(begun["outcome"] if is_begun else f"0:{_BEGIN}")
        sought = None if known is None else _parse(known)
        n_rows = 0
        for row in self._connection.execute("SELECT * FROM audit ORDER BY number"):
            number += 1
            if row["number"] != number:
                return Verification(n_rows=n_rows, known="", broken=number, why="it is missing")
            before = _hash(before, number, tuple(row[name] for name in _FIELDS))
            if row["hash"] != before:
                return Verification(n_rows=n_rows, known="", broken=number, why="it is not what was written")
            if sought == (number, before):
                sought = None
            n_rows += 1
        if head is None or (head["number"], head["hash"]) != (number, before):
            return Verification(n_rows=n_rows, known="", broken=number + 1, why="the end is missing")
        if sought is not None and sought[0] > number - n_rows:  # not one that was removed for its age
            return Verification(n_rows=n_rows, known="", broken=sought[0], why="it is not the one that was known")
        return Verification(n_rows=n_rows, known=f"{number}:{before}")


def _parse(known: str) -> tuple[int, str]:
    number, _, hashed = known.partition(":")
    return int(number), hashed


def _hash(before: str, number: int, fields: tuple[str, ...]) -> str:
    row = as_json([number, *fields])
    return hashlib.sha256(f"{before}\n{row}".encode()).hexdigest()
