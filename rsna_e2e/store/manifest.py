"""The manifest of a store, `store.json`: read under limits, and every value checked before any is used."""

import stat
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from rsna_e2e.config import Frozen
from rsna_e2e.core.files import as_json, read_json, sealed, unsealed
from rsna_e2e.core.records import IdRule, Values
from rsna_e2e.store.codecs import Compression
from rsna_e2e.store.layout import (
    FORMAT,
    FORMAT_VERSION,
    INDEX,
    MANIFEST,
    PARTIAL,
    PREPARE_AGAIN,
    SHARDS,
    StoreError,
    file_checksum,
    tables_of,
)

MOST_BYTES = 16 << 20  # that of the whole competition has 100 kB
SEAL = "checksum"  # key of the manifest's own sha256
_PLACED = ("grey", "patient")  # X-rays lie nowhere in the patient


def _check_printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("holds control characters")
    return text


Text = Annotated[str, Field(strict=True, max_length=1000), AfterValidator(_check_printable)]
Count = Annotated[int, Field(strict=True, ge=0, lt=1 << 48)]
Positive = Annotated[int, Field(strict=True, gt=0, lt=1 << 48)]
Hash = Annotated[str, Field(strict=True, pattern="^([0-9a-f]{16}|[0-9a-f]{64})$")]
_ShardName = Annotated[str, Field(strict=True, pattern=r"^[0-9]{1,12}\.h5$")]  # so that none leads elsewhere


class StoreManifest(Frozen):
    """The content of store.json.

    values: what the shards hold. image_ids: the rule that they follow, before they are hashed. content_from_hu: the
    lowest HU that content boxes bound; None of X-rays, whose content is the whole image. key_check: of the key that
    identifiers are hashed with, empty where they are not. geometry: "none" where slices have no place in the patient,
    and series are in the order of their files. files: checksum of each table. shards: size of each in bytes; frames:
    checksum of everything in each that is no slice.
    """

    model_config = ConfigDict(extra="ignore")  # the seal, and what a later program of this version may add

    format: Literal["rsna_e2e study store"] = FORMAT
    format_version: Literal[4] = FORMAT_VERSION
    created_by: Text = ""
    values: Values = "hu"
    image_ids: IdRule
    content_from_hu: Annotated[int, Field(strict=True, ge=-(1 << 15), lt=1 << 15)] | None
    compression: Compression
    n_slices: Positive
    n_series: Positive
    n_refused: Count
    pixels_hash: Hash
    key_check: Hash | Literal[""]
    geometry: Literal["patient", "none"] = "patient"
    files: dict[str, Hash]
    shards: dict[_ShardName, Positive]
    frames: dict[_ShardName, Hash]

    @model_validator(mode="after")
    def _is_of_its_values(self) -> "StoreManifest":
        if set(self.files) != set(tables_of(self.values)):
            raise ValueError("names other files than the tables of a store")
        if (self.content_from_hu is None) != (self.values == "grey") or (self.values, self.geometry) == _PLACED:
            raise ValueError("content and geometry are not those of its values")
        return self

    @model_validator(mode="after")
    def _shards_have_frames(self) -> "StoreManifest":
        if set(self.shards) != set(self.frames):
            raise ValueError("shards and frames are not of the same files")
        return self

    def to_json(self) -> str:
        """Return the text of store.json; that of HU names no `values`, as before there were others."""
        unsaid = {"values"} if self.values == "hu" else set()
        return as_json(sealed(self.model_dump(exclude=unsaid), key=SEAL), indent=1) + "\n"


def read_manifest(path: Path) -> StoreManifest:
    """Read the manifest of the store at `path`.

    Raises StoreError when it is missing, of another version, damaged, or not a manifest.
    """
    if not path.is_dir():
        raise StoreError(f"{path}: no such folder. Make a store with: rsna-e2e prepare RAW {path}")
    place = path / MANIFEST
    if not place.exists() and not any((path / name).exists() for name in (INDEX, SHARDS, PARTIAL)):
        raise StoreError(f"{path}: is no study store (no {MANIFEST}). Make one: rsna-e2e prepare RAW STORE")
    if not place.exists():
        raise StoreError(f"{path}: not a finished study store (no {MANIFEST}). Prepare it again")
    if not is_plain_file(place) or place.stat().st_size > MOST_BYTES:
        raise _damaged(place)
    try:
        content = read_json(place)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise StoreError(f"{place}: not the {MANIFEST} of a study store")
        _check_version(path, content.get("format_version"))
        return StoreManifest.model_validate(unsealed(content, key=SEAL))
    except (ValueError, OSError, RecursionError):
        raise _damaged(place) from None


def _check_version(path: Path, version: Any) -> None:
    if version != FORMAT_VERSION:
        raise StoreError(
            f"{path}: store version {version!r:.20}, this program reads {FORMAT_VERSION}. "
            "Prepare it again with this program, or use the program that made it"
        )


def table_damage(table: Path, checksum: str) -> str:
    """Return what is wrong with the file of a table that has this checksum in its manifest, empty when nothing is."""
    if not is_plain_file(table):
        return "missing"
    try:
        return "" if file_checksum(table) == checksum else "checksum"
    except OSError as error:
        return cannot_be_read(error)


def cannot_be_read(error: OSError) -> str:
    """Return the damage of a file that the system cannot read: a bad sector, or no permission."""
    return f"cannot be read: {error.strerror}"


def is_plain_file(path: Path) -> bool:
    """Whether there is a regular file: not a link, folder or device."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _damaged(path: Path) -> StoreError:
    return StoreError(f"{path}: missing or damaged. {PREPARE_AGAIN}")
