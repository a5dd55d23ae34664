"""Checks manifest, tables and shards of a store before they are used: it may be damaged, or made to do harm."""

# N slices

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path

import numpy as np

from rsna_e2e.core.records import Column, Rows
from rsna_e2e.store.codecs import MOST_PACKED, Compression
from rsna_e2e.store.layout import (
    INDEX,
    PREPARE_AGAIN,
    REFUSALS,
    REPAIR,
    SHARDS,
    StoreError,
    columns_of,
)
from rsna_e2e.store.manifest import StoreManifest, is_plain_file, read_manifest, table_damage
from rsna_e2e.store.ranges import contradictions, outside_ranges
from rsna_e2e.store.series_order import run_starts, slice_indices
from rsna_e2e.store.shards import Shape, StoredPixels, check_shard, frame_checksum
from rsna_e2e.store.tables import read_table

INDEX_MOST_PACKED = 256  # memory of the index for each byte; a row has 8 bytes of checksum, which nothing packs

_PIXELS = ("byte_offset", "stored_bytes", "checksum", "packed_checksum")  # as in `StoredPixels`
_REFUSAL_COLUMNS = {"path": "str", "reason": "str", "detail": "str"}


def check_files(path: Path, manifest: StoreManifest) -> None:
    """Check that every file is there, is a regular file, and has its size; tables by their checksums too.

    Raises StoreError for the first that is not.
    """
    for name in manifest.files:
        if table_damage(path / name, manifest.files[name]):
            raise StoreError(f"{path / name}: missing or damaged. {PREPARE_AGAIN}")
    for name in manifest.shards:
        if shard_damage(path, manifest, name):
            raise StoreError(f"{path / SHARDS / name}: missing or damaged. {REPAIR}")


def shard_damage(path: Path, manifest: StoreManifest, name: str) -> str:
    """Return what is wrong with a shard's file, empty when nothing is; its content is not read."""
    shard = path / SHARDS / name
    if (path / SHARDS).is_symlink() or shard.is_symlink():
        return "a link"
    if not is_plain_file(shard):
        return "missing"
    n_bytes = shard.stat().st_size
    return "" if n_bytes == manifest.shards[name] else f"{n_bytes} bytes, expected {manifest.shards[name]}"


def read_index(path: Path, manifest: StoreManifest) -> dict[str, Column]:
    """Read the index, and check that every slice lies inside a shard and every value is possible. Raises StoreError,
    which names the column, and the slice if a single one is wrong."""
    n_rows, values = manifest.n_slices, manifest.values
    index = read_table(path / INDEX, columns_of(values), n_rows=n_rows, most_packed=INDEX_MOST_PACKED)
    in_range = outside_ranges(index, has_geometry=manifest.geometry == "patient", values=values)
    for name, row in chain(in_range, _wrong_places(index, manifest), contradictions(index, values=values)):
        raise StoreError(f"{path / INDEX}: damaged (impossible {name}{_slice_at(index, row)}). {PREPARE_AGAIN}")
    return index


def read_refusals(path: Path, manifest: StoreManifest) -> dict[str, Column]:
    """Read what was not taken, and why. Raises StoreError when it cannot be read."""
    return read_table(path / REFUSALS, _REFUSAL_COLUMNS, n_rows=manifest.n_refused)


def check_series(target: Path, index: Mapping[str, Column]) -> None:
    """Refuse an index with a series in two places, slices out of order, or a slice twice."""
    keys, begun = index["series_key"], set()
    for begin, end in pairwise([*run_starts(keys).tolist(), len(keys)]):
        rows = slice(begin, end)
        slices = set(zip(index["sop_uid"][rows], index["frame_number"][rows].tolist(), strict=True))
        is_in_order = (np.diff(index["position_mm"][rows]) > 0).all()
        if keys[begin] in begun or len(slices) < end - begin or not is_in_order:
            raise StoreError(
                f"{target}: not made, because series {keys[begin][:8]} would be in it twice or out of order. "
                f"{PREPARE_AGAIN}, without parts of earlier attempts"
            )
        begun.add(keys[begin])


def stored_pixels(index: Mapping[str, Column], row: int) -> StoredPixels:
    """Return the place of a slice in its shard, and its checksums."""
    return StoredPixels(*(int(index[name][row]) for name in _PIXELS))


@dataclass(frozen=True, slots=True)
class StoreFiles:
    """A store of which manifest and index were checked, and nothing else."""

    path: Path
    manifest: StoreManifest
    index: dict[str, Column]

    @classmethod
    def open(cls, path: Path) -> "StoreFiles":
        """Read manifest and index. Raises StoreError where these are missing or damaged."""
        manifest = read_manifest(path)
        if table_damage(path / INDEX, manifest.files[INDEX]):
            raise StoreError(f"{path / INDEX}: missing or damaged. {PREPARE_AGAIN}")
        return cls(path, manifest, read_index(path, manifest))

    @property
    def compression(self) -> Compression:
        """Of the pixels in all shards."""
        return self.manifest.compression

    @property
    def key_check(self) -> str:
        """Of the key that identifiers are hashed with, empty where they are not."""
        return self.manifest.key_check

    def shard(self, name: str) -> Path:
        """Where a shard is."""
        return self.path / SHARDS / name

    def rows_by_shard(self) -> Iterator[tuple[str, Rows]]:
        """Yield every shard with its rows of the index, in the order in which they were written."""
        return rows_by_shard(self.index, list(self.manifest.shards))

    def pixels(self, row: int) -> StoredPixels:
        """Where a slice lies in its shard."""
        return stored_pixels(self.index, row)

    def shape(self, row: int) -> Shape:
        """Rows and columns of a slice."""
        return int(self.index["rows"][row]), int(self.index["columns"][row])

    def counts(self, rows: Rows) -> dict[Shape, int]:
        """Return how many of these slices have each shape."""
        shapes = np.stack([self.index["rows"][rows], self.index["columns"][rows]], axis=1)
        found, counts = np.unique(shapes, axis=0, return_counts=True)
        return {(int(r), int(c)): n for (r, c), n in zip(found.tolist(), counts.tolist(), strict=True)}

    def frame_checksum(self, name: str, rows: Rows) -> str:
        """Return the checksum of everything in a shard but its slices, which are `rows`. Raises OSError."""
        return checksum_around(self.shard(name), self.index, rows)

    def check_shards(self) -> None:
        """Check every shard except its pixels. Raises StoreError for the first that is damaged."""
        for name, rows in self.rows_by_shard():
            check_shard(self.shard(name), self.counts(rows), self.compression, values=self.manifest.values)


def rows_by_shard(index: Mapping[str, Column], shards: Sequence[str]) -> Iterator[tuple[str, Rows]]:
    """Yield each of the shards with its rows of the index, in the order in which they were written."""
    shard_N = _shard_numbers(index, shards)
    order = np.argsort(shard_N, kind="stable")
    ends = np.searchsorted(shard_N[order], np.arange(len(shards)), side="right")
    yield from zip(shards, np.split(order, ends[:-1]), strict=True)


def checksum_around(shard: Path, index: Mapping[str, Column], rows: Rows) -> str:
    """Return the checksum of everything in a shard's file but its slices, which are `rows`. Raises OSError."""
    offsets, lengths = (index[column][rows].tolist() for column in ("byte_offset", "stored_bytes"))
    return frame_checksum(shard, zip(offsets, lengths, strict=True))


def _shard_numbers(index: Mapping[str, Column], shards: Sequence[str]) -> Rows:
    """Return which of the shards each row names [N], -1 for none of them."""
    number_of = {name: number for number, name in enumerate(shards)}
    starts = run_starts(index["shard"])
    numbers = np.array([number_of.get(name, -1) for name in index["shard"][starts]], dtype=np.int64)
    return np.repeat(numbers, np.diff(starts, append=len(index["shard"])))


def _slice_at(index: Mapping[str, Column], row: int | None) -> str:
    """Return which slice a row of the index is, for the end of a message."""
    if row is None:
        return ""
    return f", row {row}: slice {index['slice_index'][row]} of series {index['series_key'][row][:8]}"


def _wrong_places(index: Mapping[str, Column], manifest: StoreManifest) -> Iterator[tuple[str, int | None]]:
    """Yield columns that point outside of a shard, or do not number slices in order, with the first such row."""
    shard_N = _shard_numbers(index, list(manifest.shards))
    size_N = np.array([*manifest.shards.values(), 0])[shard_N]
    n_bytes_N = 2 * index["rows"].astype(np.int64) * index["columns"]
    stored_N, offset_N = index["stored_bytes"], index["byte_offset"]
    least_N = n_bytes_N if manifest.compression == "none" else np.maximum(n_bytes_N // MOST_PACKED, 1)
    most_N = np.minimum(size_N, n_bytes_N) if manifest.compression == "none" else size_N
    if len(run_starts(index["series_key"])) != manifest.n_series:
        yield "series_key", None
    is_good = {
        "shard": shard_N >= 0,
        "stored_bytes": (stored_N >= least_N) & (stored_N <= most_N),
        "byte_offset": offset_N <= size_N - stored_N,
        "slice_index": index["slice_index"] == slice_indices(index["series_key"]),
    }
    for name, is_good_N in is_good.items():
        if not is_good_N.all():
            yield name, int(np.argmin(is_good_N))
