"""Who makes a request, what each role may do, and what is shown of users and tokens."""

import re
from dataclasses import dataclass
from typing import Literal

from rsna_e2e.core.errors import UsageError

Role = Literal["read", "upload", "admin"]
How = Literal["token", "login", "proxy"]
ROLES: tuple[Role, ...] = ("read", "upload", "admin")  # each may do what those before it may

_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")


def is_name(text: str) -> bool:
    """Whether this may be the name of a user or token."""
    return _NAME.fullmatch(text) is not None


def check_name(name: str) -> None:
    """Raise UsageError for what may not be the name of a user or token."""
    if not is_name(name):
        raise UsageError(
            f"{name:.64}: no name. Use at most 64 small letters, digits, '.', '_', '@' and '-', and begin with a "
            "letter or digit"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who made a request. name: of a user, or of a token; how it is known: by a token, a login, or a trusted proxy."""

    name: str
    role: Role
    how: How

    def may(self, role: Role) -> bool:
        """Whether this caller may do what needs `role`."""
        return ROLES.index(self.role) >= ROLES.index(role)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A session that began: what its cookie holds, and whose it is."""

    secret: str
    caller: Caller


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A user. has_password: without one only a trusted proxy can say that it is this user."""

    name: str
    role: Role
    has_password: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token, without its secret. is_once: for one login, by `expires`. Times in seconds since 1970, or None."""

    name: str
    role: Role
    is_once: bool
    expires: float | None
    used: float | None
