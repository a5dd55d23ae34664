"""Pseudonyms: identifiers replaced by keyed hashes, so that the holder of the key alone can link them to patients.

HMAC-SHA256 (RFC 2104) over the kind of an identifier and its value. Without the key a hash cannot be tried out against
a list of patient numbers, which an unkeyed one could. Nothing but the key is needed to resolve a name again: the owner
hashes the headers of the files anew, and no table of names has to be kept.
"""

import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.files import full_disk_named, make_folder
from rsna_e2e.core.records import Column, Refusal

KEY_BYTES = 32  # RFC 2104 section 3: no less than the hash is long

# Columns of an index with identifiers, and the kind under which each is hashed.
IDENTIFIERS = {
    "patient_id": "patient",
    "study_uid": "study",
    "series_uid": "series",
    "sop_uid": "instance",
    "image_id": "image",
}
_UID_KINDS = {"study", "series", "instance"}


@dataclass(frozen=True, slots=True)
class Pseudonyms:
    """The hashes that one key gives; equal identifiers get equal ones, in every store made with it."""

    key: bytes

    def __repr__(self) -> str:
        return "Pseudonyms(...)"  # so that no log shows the key

    @property
    def check(self) -> str:
        """16 hex digits by which a store recognises its key, and which do not reveal it."""
        return self._digest("check", "").hex()[:16]

    def of(self, kind: str, value: str) -> str:
        """Return the pseudonym of an identifier: for the kinds study, series and instance a valid UID, else 32 hex
        digits."""
        digest = self._digest(kind, value)[:16]
        return _uid(digest) if kind in _UID_KINDS else digest.hex()

    def of_columns(self, columns: Mapping[str, Column]) -> dict[str, Column]:
        """Return columns of an index with pseudonyms in those of `IDENTIFIERS`; other columns are unchanged."""
        hashed = {name: self._of_all(kind, columns[name]) for name, kind in IDENTIFIERS.items()}
        return dict(columns) | hashed

    def of_refusals(self, refusals: Iterable[Refusal]) -> list[Refusal]:
        """Return refusals whose paths are pseudonyms, in the order of these."""
        hashed = [replace(refusal, path=self.of("path", refusal.path)) for refusal in refusals]
        return sorted(hashed, key=lambda refusal: (refusal.path, refusal.reason))

    def _of_all(self, kind: str, values: Column) -> Column:
        distinct, places = np.unique(values, return_inverse=True)
        return np.array([self.of(kind, value) for value in distinct], dtype=object)[places]

    def _digest(self, kind: str, value: str) -> bytes:
        return hmac.digest(self.key, f"{kind}\0{value}".encode("utf-8", "surrogateescape"), hashlib.sha256)


def load_key(path: Path) -> Pseudonyms:
    """Read a key file, white space around the key aside where it is text: of other bytes all belong to the key.

    Raises BadInputError when there is none, or a short one.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise BadInputError(f"{path}: no such key file. Give the one the store was prepared with") from None
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror}. Give the key file") from error
    key = content.strip() if _is_text(content) else content
    if len(key) < KEY_BYTES:
        raise BadInputError(
            f"{path}: a key of {len(key)} bytes, which could be guessed; it takes {KEY_BYTES}. Name a file that does "
            "not exist yet, and it is made"
        )
    return Pseudonyms(key)


def _is_text(content: bytes) -> bool:
    try:
        return content.decode().strip().isprintable()
    except UnicodeDecodeError:
        return False


def load_or_make_key(path: Path) -> Pseudonyms:
    """Read a key file; where there is none make one of random bytes, as hex, that only its owner may read."""
    make_folder(path.parent)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IRUSR | stat.S_IWUSR)
    except FileExistsError:
        return load_key(path)
    except OSError as error:
        raise BadInputError(f"{path}: cannot be made: {error.strerror}. Choose another place for the key") from error
    try:
        with full_disk_named(path), open(descriptor, "w") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink()  # or the next time it would be taken for the key
        raise
    return load_key(path)


def is_open_to_others(path: Path) -> bool:
    """Whether others than its owner may read or change a file."""
    return bool(path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))


def _uid(digest: bytes) -> str:
    """Return 16 bytes as a UID under the root for UUIDs, which needs no registration.

    Source: PS3.5 B.2; RFC 9562 5.8 (version 8: the bits are free to choose).
    """
    value = int.from_bytes(digest, "big")
    value = value & ~(0xF << 76) | 8 << 76
    value = value & ~(0x3 << 62) | 2 << 62
    return f"2.25.{value}"
