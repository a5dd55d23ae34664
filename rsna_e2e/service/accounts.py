"""Who may use the service: users with passwords, tokens of programs, sessions of browsers, in DATA/access.sqlite.

Of passwords a key by scrypt is kept, of tokens and sessions, which are 256 random bits, the SHA-256. Several processes
may have the file open: what the command line changes holds for the next request. Times are seconds since 1970, UTC.
"""

import hashlib
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.service import passwords, tries
from rsna_e2e.service.addresses import counted_as
from rsna_e2e.service.callers import Caller, Entry, Role, Token, User, check_name, is_name
from rsna_e2e.service.sqlite import SharedFile, transaction

ACCESS_FILE = "access.sqlite"  # in DATA; the audit is in it too
IDLE_S, SESSION_S = 30 * 60.0, 12 * 3600.0
ONCE_S = 3600.0  # so long a one-time token waits for its use
TOKEN_PREFIX = "rsna_"  # by which scanners for secrets may find one that leaked
BUSY_MS = 5000  # a request waits no longer for another process that writes
_NOTED_S = 60.0  # the last use is noted once in so long: each note waits for the disk
_SECRET_BYTES = 32

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS users (name TEXT PRIMARY KEY, role TEXT NOT NULL, password TEXT, made REAL NOT NULL);
CREATE TABLE IF NOT EXISTS tokens (
    name TEXT PRIMARY KEY, role TEXT NOT NULL, hash TEXT NOT NULL UNIQUE, is_once INTEGER NOT NULL,
    made REAL NOT NULL, expires REAL, used REAL);
CREATE TABLE IF NOT EXISTS sessions (
    hash TEXT PRIMARY KEY, user TEXT REFERENCES users (name) ON DELETE CASCADE,
    token TEXT REFERENCES tokens (name) ON DELETE CASCADE, seen REAL NOT NULL, ends REAL NOT NULL);
{tries.SCHEMA}
"""


class Accounts(SharedFile):
    """The users, tokens and sessions of a service. Safe to use from several threads."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Open the file, or make it. clock: seconds since 1970. Raises sqlite3.Error."""
        super().__init__(path, _SCHEMA, busy_ms=BUSY_MS, clock=clock)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock, transaction(self._connection):
            yield self._connection

    def _rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    def _row(self, query: str, *values: object) -> sqlite3.Row | None:
        return next(iter(self._rows(query, *values)), None)

    def add_user(self, name: str, role: Role, password: str | None) -> None:
        """Add a user. password: None for one that only a proxy lets in.

        Raises UsageError for a name or password that is none, or a name that is taken.
        """
        check_name(name)
        if password is not None:
            passwords.check_new(password, name=name)
        kept = None if password is None else passwords.derive(password)
        with self._writing() as connection:
            if connection.execute("SELECT 1 FROM users WHERE name = ?", (name,)).fetchone():
                raise UsageError(f"{name}: is a user already. Remove it first, or choose another name")
            connection.execute("INSERT INTO users VALUES (?, ?, ?, ?)", (name, role, kept, self._clock()))

    def remove_user(self, name: str) -> None:
        """Remove a user and end its sessions. Raises BadInputError for nobody's name."""
        with self._writing() as connection:
            _check_found(connection.execute("DELETE FROM users WHERE name = ?", (name,)), "user", name)

    def set_password(self, name: str, password: str) -> None:
        """Give a user another password and end its sessions.

        Raises UsageError for what is no password, BadInputError for nobody's name.
        """
        passwords.check_new(password, name=name)
        kept = passwords.derive(password)
        with self._writing() as connection:
            _check_found(connection.execute("UPDATE users SET password = ? WHERE name = ?", (kept, name)), "user", name)
            connection.execute("DELETE FROM sessions WHERE user = ?", (name,))

    def users(self) -> list[User]:
        """All users by name."""
        rows = self._rows("SELECT * FROM users ORDER BY name")
        return [User(name=row["name"], role=row["role"], has_password=row["password"] is not None) for row in rows]

    def has_user(self, name: str) -> bool:
        """Whether there is a user of this name, as `login` reads it."""
        return is_name(name.lower()) and self._row("SELECT 1 FROM users WHERE name = ?", name.lower()) is not None

    def add_token(self, name: str, role: Role, *, expires_s: float | None = None, is_once: bool = False) -> str:
        """Make a token and return its secret, which nothing can show again.

        expires_s: from now, or None for never. is_once: it takes the place of name and password once, within an hour
        unless told. Raises UsageError for a name that is none or taken.
        """
        check_name(name)
        secret = TOKEN_PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
        lives_s = ONCE_S if is_once and expires_s is None else expires_s
        with self._writing() as connection:
            now = self._clock()
            self._sweep(connection, now)
            if connection.execute("SELECT 1 FROM tokens WHERE name = ?", (name,)).fetchone():
                raise UsageError(f"{name}: is a token already. Revoke it first, or choose another name")
            expires = None if lives_s is None else now + lives_s
            row = (name, role, _hash(secret), int(is_once), now, expires, None)
            connection.execute("INSERT INTO tokens VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        return secret

    def revoke_token(self, name: str) -> None:
        """Remove a token and end the sessions that began with it. Raises BadInputError for the name of none."""
        with self._writing() as connection:
            _check_found(connection.execute("DELETE FROM tokens WHERE name = ?", (name,)), "token", name)

    def tokens(self) -> list[Token]:
        """All tokens by name, those that have expired too."""
        return [
            Token(**{key: row[key] for key in ("name", "role", "expires", "used")}, is_once=bool(row["is_once"]))
            for row in self._rows("SELECT * FROM tokens ORDER BY name")
        ]

    def login(self, name: str, password: str, *, address: str) -> Entry | None:
        """Begin a session of a user; None where name and password do not belong together.

        Takes as long for names of nobody. Raises TooManyTriesError, of the account or the address.
        """
        name = name.lower()
        with self._lock:
            taken = tries.take(self._connection, self._clock, account=name, address=counted_as(address))
        query = "SELECT role, password FROM users WHERE name = ?"
        row = self._row(query, name) if is_name(name) else None
        if not passwords.is_right(password, None if row is None else row["password"]) or row is None:
            return None
        with self._writing() as connection:
            now = connection.execute(query, (name,)).fetchone()
            if now is None or now["password"] != row["password"]:  # removed or changed while scrypt worked
                return None
            tries.give_back(connection, taken)
            return self._begin(connection, Caller(name=name, role=now["role"], how="login"), user=name)

    def login_by_token(self, secret: str, *, address: str) -> Entry | None:
        """Begin a session by a token; one that is for one login is then used up. None where it is none, or no more.

        Raises TooManyTriesError, of the address.
        """
        with self._lock:
            taken = tries.take(self._connection, self._clock, account="", address=counted_as(address))
        with self._writing() as connection:
            row = connection.execute("SELECT * FROM tokens WHERE hash = ?", (_hash(secret),)).fetchone()
            if row is None or not self._is_valid(row) or (row["is_once"] and row["used"] is not None):
                return None
            connection.execute("UPDATE tokens SET used = ? WHERE hash = ?", (self._clock(), row["hash"]))
            tries.give_back(connection, taken)
            caller = Caller(name=row["name"], role=row["role"], how="login")
            ends = None if row["is_once"] else row["expires"]
            return self._begin(connection, caller, token=row["name"], ends=ends)

    def _begin(
        self,
        connection: sqlite3.Connection,
        caller: Caller,
        *,
        user: str | None = None,
        token: str | None = None,
        ends: float | None = None,
    ) -> Entry:
        secret, now = secrets.token_urlsafe(_SECRET_BYTES), self._clock()
        last = now + SESSION_S if ends is None else min(ends, now + SESSION_S)
        connection.execute("INSERT INTO sessions VALUES (?, ?, ?, ?, ?)", (_hash(secret), user, token, now, last))
        self._sweep(connection, now)  # after it, as a token that is used up stays while its session does
        return Entry(secret=secret, caller=caller)

    def _sweep(self, connection: sqlite3.Connection, now: float) -> None:
        """Remove sessions that are over, and one-time tokens that can begin none and of which none is left."""
        connection.execute("DELETE FROM sessions WHERE ends <= ? OR seen <= ?", (now, now - IDLE_S))
        connection.execute(
            "DELETE FROM tokens WHERE is_once AND (used IS NOT NULL OR expires <= ?) "
            "AND name NOT IN (SELECT token FROM sessions WHERE token IS NOT NULL)",
            (now,),
        )

    def caller_of_token(self, secret: str) -> Caller | None:
        """Who a token is of; None where it is none, has expired, or is for one login."""
        row = self._row("SELECT * FROM tokens WHERE hash = ?", _hash(secret))
        if row is None or row["is_once"] or not self._is_valid(row):
            return None
        now = self._clock()
        if row["used"] is None or now - row["used"] >= _NOTED_S:
            self._note("UPDATE tokens SET used = ? WHERE hash = ?", now, row["hash"])
        return Caller(name=row["name"], role=row["role"], how="token")

    def _note(self, statement: str, *values: object) -> None:
        """Write what is nice to know: on a full disk, say, who may read may still read."""
        with suppress(sqlite3.OperationalError), self._writing() as connection:
            connection.execute(statement, values)

    def _is_valid(self, token: sqlite3.Row) -> bool:
        return token["expires"] is None or self._clock() < token["expires"]

    def caller_of_session(self, secret: str, *, is_activity: bool = True) -> Caller | None:
        """Who a session is of; None where it is none, or over: after 12 h, or 30 min without activity.

        is_activity: whether the request shows that somebody is there, which keeps the session alive.
        """
        row = self._row(
            "SELECT sessions.*, coalesce(users.name, tokens.name) AS name, coalesce(users.role, tokens.role) AS role "
            "FROM sessions LEFT JOIN users ON users.name = user LEFT JOIN tokens ON tokens.name = token "
            "WHERE sessions.hash = ?",
            _hash(secret),
        )
        now = self._clock()
        if row is None or now >= row["ends"] or now - row["seen"] >= IDLE_S:
            return None
        if is_activity and now - row["seen"] >= _NOTED_S:
            self._note("UPDATE sessions SET seen = ? WHERE hash = ?", now, row["hash"])
        return Caller(name=row["name"], role=row["role"], how="login")

    def end_session(self, secret: str) -> None:
        """End a session, if it is one."""
        with self._writing() as connection:
            connection.execute("DELETE FROM sessions WHERE hash = ?", (_hash(secret),))

    def caller_by_proxy(self, name: str) -> Caller | None:
        """The user that a trusted proxy says it is; None where there is none of that name."""
        name = name.lower()
        row = self._row("SELECT role FROM users WHERE name = ?", name) if is_name(name) else None
        return None if row is None else Caller(name=name, role=row["role"], how="proxy")


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _check_found(cursor: sqlite3.Cursor, what: str, name: str) -> None:
    if cursor.rowcount == 0:
        raise BadInputError(f"{name:.64}: no {what} of this name. See them with: {what} list")
