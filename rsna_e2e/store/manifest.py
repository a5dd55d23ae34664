"""The manifest of a store, `store.json`: read under limits, and every value checked before any is used."""

import stat
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from rsna_e2e.config import Frozen
from rsna_e2e.core.files import as_json, read_json, sealed, unsealed
from rsna_e2e.core.records import IdRule
from rsna_e2e.store.codecs import Compression
from rsna_e2e.store.layout import (
    FORMAT,
    FORMAT_VERSION,
    INDEX,
    LABELS,
    MANIFEST,
    PARTIAL,
    PREPARE_AGAIN,
    REFUSALS,
    SHARDS,
    StoreError,
    file_checksum,
)

MOST_BYTES = 16 << 20  # that of the whole competition has 100 kB
SEAL = "checksum"  # key of the manifest's own sha256


def _check_printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("holds control characters")
    return text


def _check_distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("names one twice")
    return names


def _check_tables(files: dict[str, str]) -> dict[str, str]:
    if set(files) != {INDEX, LABELS, REFUSALS}:
        raise ValueError("names other files than the tables of a store")
    return files


_Text = Annotated[str, Field(strict=True, max_length=1000), AfterValidator(_check_printable)]
_Count = Annotated[int, Field(strict=True, ge=0, lt=1 << 48)]
_Positive = Annotated[int, Field(strict=True, gt=0, lt=1 << 48)]
_Hash = Annotated[str, Field(strict=True, pattern="^([0-9a-f]{16}|[0-9a-f]{64})$")]
_Hu = Annotated[float, Field(strict=True, gt=-(1 << 20), lt=1 << 20)]
_ShardName = Annotated[str, Field(strict=True, pattern=r"^[0-9]{1,12}\.h5$")]  # so that none leads elsewhere

_LATER_FIELDS = ("image_ids", "holdout", "geometry")  # that store.json did not have when its format was made


class StoreManifest(Frozen):
    """The content of store.json.

    image_ids: the rule that they follow, before they are hashed; not written where it is "name". content_windows_hu:
    (center, width) of the windows that content boxes were found with. refused_with_label: rows of the refusals that a
    label names, None in older stores, which do not say. key_check: of the key that identifiers are hashed with, empty
    where they are not. holdout: the share of labelled slices that was to go to split "test"; None, and not written,
    where every labelled series is in split "train". geometry: whether slices have a place in the patient; "none", and
    written only then, where series are in the order of their files. files: checksum of each table. shards: size of
    each in bytes; frames: checksum of everything in each that is no slice.
    """

    model_config = ConfigDict(extra="ignore")  # the seal, and what a later program of this version may add

    format: Literal["rsna_e2e study store"] = FORMAT
    format_version: Literal[3] = FORMAT_VERSION
    created_by: _Text = ""
    task: _Text
    image_ids: IdRule = "name"
    label_names: Annotated[tuple[_Text, ...], Field(min_length=1), AfterValidator(_check_distinct)]
    content_windows_hu: tuple[tuple[_Hu, _Hu], ...]
    compression: Compression
    n_slices: _Positive
    n_series: _Positive
    n_refused: _Count
    refused_with_label: tuple[_Count, ...] | None = None
    data_hash: _Hash
    key_check: _Hash | Literal[""]
    holdout: Annotated[float, Field(strict=True, gt=0, lt=1)] | None = None
    geometry: Literal["patient", "none"] = "patient"
    files: Annotated[dict[str, _Hash], AfterValidator(_check_tables)]
    shards: dict[_ShardName, _Positive]
    frames: dict[_ShardName, _Hash]

    @model_validator(mode="after")
    def _shards_have_frames(self) -> "StoreManifest":
        if set(self.shards) != set(self.frames):
            raise ValueError("shards and frames are not of the same files")
        return self

    def to_json(self) -> str:
        """Return the text of store.json, without `_LATER_FIELDS` where they are as in stores that lack them."""
        fields = type(self).model_fields
        left_out = {name for name in _LATER_FIELDS if getattr(self, name) == fields[name].default}
        return as_json(sealed(self.model_dump(exclude=left_out), key=SEAL), indent=1) + "\n"


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


def table_damage(path: Path, manifest: StoreManifest, name: str) -> str:
    """Return what is wrong with a table's file, empty when nothing is."""
    if not is_plain_file(path / name):
        return "missing"
    try:
        return "" if file_checksum(path / name) == manifest.files[name] else "checksum"
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
