"""Passwords: what may be one, and what is kept of it."""

import hashlib
import hmac
import os
import unicodedata

from rsna_e2e.core.errors import UsageError

LEAST_CHARACTERS, MOST_BYTES = 12, 1024
# Of scrypt: 32 MiB and about 0.1 s a try. RFC 7914 has 2^14 for logins; five tries a minute can afford more
_N, _R, _P = 2**15, 8, 1
_SALT_BYTES = 16


def check_new(password: str, *, name: str) -> None:
    """Raise UsageError for what is no password for the user `name`."""
    if len(password) < LEAST_CHARACTERS or len(_as_bytes(password)) > MOST_BYTES:
        raise UsageError(f"a password has at least {LEAST_CHARACTERS} characters, and at most {MOST_BYTES} bytes")
    if name.casefold() in password.casefold() and len(password) < len(name) + LEAST_CHARACTERS:
        raise UsageError("the password is little more than the name. Choose another")


def derive(password: str) -> str:
    """Return what is kept of a password: parameters and salt of scrypt (RFC 7914), and the key, as text."""
    salt = os.urandom(_SALT_BYTES)
    return f"{_N}:{_R}:{_P}:{salt.hex()}:{_key(password, salt, n=_N, r=_R, p=_P).hex()}"


_NOBODYS = f"{_N}:{_R}:{_P}:{os.urandom(_SALT_BYTES).hex()}:"


def is_right(password: str, kept: str | None) -> bool:
    """Whether `kept` is of this password. None, of nobody, takes as long to answer as the wrong password of a user."""
    n, r, p, salt, key = (_NOBODYS if kept is None else kept).split(":")
    found = _key(password, bytes.fromhex(salt), n=int(n), r=int(r), p=int(p))
    return hmac.compare_digest(found.hex(), key) and kept is not None


def _key(password: str, salt: bytes, *, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(_as_bytes(password)[: MOST_BYTES + 1], salt=salt, n=n, r=r, p=p, maxmem=256 * r * (n + p + 1))


def _as_bytes(password: str) -> bytes:
    """Keyboards spell accents in one character or two; NFC is the same for both."""
    return unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")
