"""The manifest of a store, `store.json`: read under limits, and nothing in it used before its type was checked."""

import hashlib
import math
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

from rsna_e2e.core.files import as_json, read_json
from rsna_e2e.store.codecs import Compression
from rsna_e2e.store.layout import (
    FORMAT,
    FORMAT_VERSION,
    INDEX,
    LABELS,
    MANIFEST,
    PREPARE_AGAIN,
    REFUSALS,
    StoreError,
    file_checksum,
)

MOST_BYTES = 16 << 20  # that of the whole competition has 100 kB

_SHARD_NAME = re.compile(r"[0-9]{1,12}\.h5")  # so that none leads elsewhere
_HASH = re.compile(r"[0-9a-f]{16}|[0-9a-f]{64}")


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest of the store at `path`.

    Raises StoreError when there is none, or it is of another version, damaged, or no manifest.
    """
    if not path.is_dir():
        raise StoreError(f"{path}: no such folder. Make a store with: rsna-e2e prepare RAW {path}")
    place = path / MANIFEST
    if not place.exists():
        raise StoreError(f"{path}: not a finished study store (no {MANIFEST}). Prepare it again")
    if not is_plain_file(place) or place.stat().st_size > MOST_BYTES:
        raise _damaged(place)
    try:
        manifest = read_json(place)
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise StoreError(f"{place}: not the {MANIFEST} of a study store")
        _check_version(path, manifest)
        is_sealed = manifest == sealed(manifest)
    except (ValueError, OSError, RecursionError):
        raise _damaged(place) from None
    is_valid = is_sealed and all(is_valid(manifest.get(key)) for key, is_valid in _KEYS.items())
    if not is_valid or set(manifest["shards"]) != set(manifest["frames"]):
        raise _damaged(place)
    return manifest


def _check_version(path: Path, manifest: Mapping[str, Any]) -> None:
    if manifest.get("format_version") != FORMAT_VERSION:
        raise StoreError(
            f"{path}: store version {manifest.get('format_version')!r:.20}, this program reads {FORMAT_VERSION}. "
            "Prepare it again with this program, or use the program that made it"
        )


def sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest with its `checksum`, which stands for all else in it."""
    rest = {key: value for key, value in manifest.items() if key != "checksum"}
    text = as_json(rest, sort_keys=True)
    return rest | {"checksum": hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()}


def table_damage(path: Path, manifest: Mapping[str, Any], name: str) -> str:
    """Return what is wrong with a table's file, empty when nothing is."""
    if not is_plain_file(path / name):
        return "missing"
    try:
        return "" if file_checksum(path / name) == manifest["files"][name] else "checksum"
    except OSError as error:
        return cannot_be_read(error)


def cannot_be_read(error: OSError) -> str:
    """Return what is wrong with a file that the system does not give: a bad sector, or no permission."""
    return f"cannot be read: {error.strerror}"


def is_plain_file(path: Path) -> bool:
    """Whether there is a file that is none of a link, folder or device."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _damaged(path: Path) -> StoreError:
    return StoreError(f"{path}: missing or damaged. {PREPARE_AGAIN}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 1000 and value.isprintable()


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 48


def _is_positive(value: Any) -> bool:
    return _is_count(value) and value > 0


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value)) and len(set(value)) == len(value) > 0


def _is_window(value: Any) -> bool:
    is_pair = isinstance(value, list) and len(value) == 2 and all(type(item) in (int, float) for item in value)
    return is_pair and all(abs(item) < 1 << 20 and math.isfinite(item) for item in value)


def _are_windows(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_window, value))


def _are_files(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {INDEX, LABELS, REFUSALS} and all(map(_is_hash, value.values()))


def _are_frames(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_hash, value.values()))


def _are_shards(value: Any) -> bool:
    return isinstance(value, dict) and all(_SHARD_NAME.fullmatch(k) and _is_positive(n) for k, n in value.items())


_KEYS: dict[str, Callable[[Any], bool]] = {
    "task": _is_text,
    "label_names": _are_names,
    "content_windows_hu": _are_windows,
    "compression": lambda value: value in get_args(Compression),
    "n_slices": _is_positive,
    "n_series": _is_positive,
    "n_refused": _is_count,
    "refused_with_label": lambda value: value is None or (isinstance(value, list) and all(map(_is_count, value))),
    "data_hash": _is_hash,
    "key_check": lambda value: value == "" or _is_hash(value),
    "files": _are_files,
    "shards": _are_shards,  # size in bytes of each
    "frames": _are_frames,  # checksum of all in each that is no slice
}
