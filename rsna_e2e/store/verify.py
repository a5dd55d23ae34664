"""Reads a whole store to find what is damaged: its files, the HDF5 structure around the pixels, and every slice."""

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsna_e2e.core.files import entries
from rsna_e2e.core.records import Column, Progress, Rows, no_progress
from rsna_e2e.store.checks import (
    StoreFiles,
    read_index,
    read_refusals,
    shard_damage,
)
from rsna_e2e.store.codecs import check_codec
from rsna_e2e.store.label_sets import read_set
from rsna_e2e.store.layout import (
    BOXES,
    INDEX,
    LUTS,
    MANIFEST,
    REFUSALS,
    SERIES,
    SET_MANIFEST,
    SETS,
    SHARDS,
    SLICES,
    StoreError,
    hash_of_pixels,
)
from rsna_e2e.store.luts import read_luts
from rsna_e2e.store.manifest import StoreManifest, cannot_be_read, is_plain_file, read_manifest, table_damage
from rsna_e2e.store.set_manifest import read_set_manifest, set_names
from rsna_e2e.store.shards import check_shard, chunk_places, read_pixels

FOREIGN = "not a file of the store: remove it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A damaged file or slice. file: its name in the store; what: is wrong with it.

    For a slice: series, the first 8 digits of its series key; slice_index; row, of the index.
    """

    file: str
    what: str
    series: str = ""
    slice_index: int | None = None
    row: int | None = None

    @property
    def is_foreign(self) -> bool:
        """Whether it is a file that does not belong to the store, which is harmless."""
        return self.what == FOREIGN

    @property
    def is_in_table(self) -> bool:
        """Whether it is a table or the manifest; shards alone can be mended from the raw files."""
        return "/" not in self.file and not self.is_foreign

    @property
    def of_set(self) -> str:
        """The label set that it is in, which can be made again; empty where it is elsewhere."""
        folder, _, place = self.file.partition("/")
        return place.partition("/")[0] if folder == SETS and not self.is_foreign else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The result of reading a whole store. n_slices: were read; n_expected: are in the manifest."""

    store: Path
    n_expected: int
    n_slices: int
    n_damaged_slices: int
    damages: tuple[Damage, ...]
    elapsed_s: float

    @property
    def is_whole(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damages


def verify_store(path: Path, *, n_threads: int = 1, progress: Progress = no_progress) -> Verification:
    """Read a whole store and say what is damaged.

    Raises StoreError when there is none, its manifest cannot be read, or it is of another version, and
    MissingCapabilityError when its pixels are packed and what unpacks them is missing.
    """
    started_s = time.perf_counter()
    path = Path(path)
    manifest = read_manifest(path)
    check_codec(manifest.compression)
    index, damages = _verify_tables(path, manifest)
    damages += _unexpected(path, manifest)
    n_read = 0
    if index is None:  # which slices there are is not known
        damages += _verify_files(path, manifest)
    else:
        for n_slices, found in _in_threads(StoreFiles(path, manifest, index), n_threads):
            n_read += n_slices
            damages += found
            progress(n_read, manifest.n_slices, f"{len(damages)} damaged")
    return Verification(
        store=path,
        n_expected=manifest.n_slices,
        n_slices=n_read,
        n_damaged_slices=sum(damage.row is not None for damage in damages),
        damages=tuple(sorted(damages, key=lambda damage: (damage.file, -1 if damage.row is None else damage.row))),
        elapsed_s=time.perf_counter() - started_s,
    )


def _verify_tables(path: Path, manifest: StoreManifest) -> tuple[dict[str, Column] | None, list[Damage]]:
    """Return the index, None where it is damaged, and the damage of the tables and label sets."""
    wrong = {name: table_damage(path / name, checksum) for name, checksum in manifest.files.items()}
    index = None
    try:
        index = None if wrong[INDEX] else read_index(path, manifest)
    except StoreError as error:
        wrong[INDEX] = _short(error, path / INDEX)
    if not wrong[REFUSALS]:
        try:
            read_refusals(path, manifest)
        except StoreError as error:
            wrong[REFUSALS] = _short(error, path / REFUSALS)
    if index is not None and wrong.get(LUTS) == "":
        try:
            read_luts(path, index)
        except StoreError as error:
            wrong[LUTS] = _short(error, path / LUTS)
    damages = [Damage(file=name, what=what) for name, what in wrong.items() if what]
    if index is not None:
        if hash_of_pixels(index, manifest.values) != manifest.pixels_hash:
            damages.append(Damage(file=MANIFEST, what="pixels_hash is not that of the index"))
        damages += _verify_sets(path, manifest, index)
    return index, damages


def _verify_sets(path: Path, manifest: StoreManifest, index: dict[str, Column]) -> Iterator[Damage]:
    for name in set_names(path):
        try:
            found = read_set_manifest(path, name)
            wrong = {file: table_damage(path / SETS / name / file, checksum) for file, checksum in found.files.items()}
            yield from (Damage(file=f"{SETS}/{name}/{file}", what=what) for file, what in wrong.items() if what)
            if not any(wrong.values()):
                read_set(path, found, manifest, index)
        except StoreError as error:
            file, _, what = str(error).split(". ")[0].removeprefix(f"{path}/").partition(": ")
            yield Damage(file=file, what=what)


def _unexpected(path: Path, manifest: StoreManifest) -> list[Damage]:
    """Return files in the folders of the store that do not belong to it."""
    names = set_names(path)
    known = (MANIFEST, SHARDS, *manifest.files, *([SETS] if names else []))
    found = set(entries(path)) - {path / name for name in known}
    if (path / SHARDS).is_dir() and not (path / SHARDS).is_symlink():
        found |= set((path / SHARDS).iterdir()) - {path / SHARDS / name for name in manifest.shards}
    if names:
        found |= set((path / SETS).iterdir()) - {path / SETS / name for name in names}
    for name in names:
        files = {path / SETS / name / file for file in (SET_MANIFEST, SLICES, SERIES, BOXES)}
        found |= set((path / SETS / name).iterdir()) - files
    return [Damage(file=place.relative_to(path).as_posix(), what=FOREIGN) for place in sorted(found)]


def _verify_files(path: Path, manifest: StoreManifest) -> Iterator[Damage]:
    for name in manifest.shards:
        what = shard_damage(path, manifest, name)
        if what:
            yield Damage(file=f"{SHARDS}/{name}", what=what)


def _in_threads(files: StoreFiles, n_threads: int) -> Iterator[tuple[int, list[Damage]]]:
    """Yield how many slices a shard has, and its damage, as shards are read."""
    with ThreadPoolExecutor(n_threads, thread_name_prefix="verify") as pool:
        n_slices = {pool.submit(verify_shard, files, name, rows): len(rows) for name, rows in files.rows_by_shard()}
        try:
            for future in as_completed(n_slices):
                yield n_slices[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def verify_shard(files: StoreFiles, name: str, rows: Rows) -> list[Damage]:
    """Return what is wrong with a shard, of which `rows` of the index are: as a file first, then slice by slice."""
    file = f"{SHARDS}/{name}"
    what = shard_damage(files.path, files.manifest, name) or _hdf5_damage(files, name, rows)
    damages = [Damage(file=file, what=what)] if what else []
    is_readable = is_plain_file(files.shard(name)) and not files.shard(name).parent.is_symlink()
    return damages + [
        Damage(
            file=file,
            what="pixels",
            series=files.index["series_key"][row][:8],
            slice_index=int(files.index["slice_index"][row]),
            row=row,
        )
        for row in (_damaged_pixels(files, name, rows) if is_readable else rows.tolist())
    ]


def _hdf5_damage(files: StoreFiles, name: str, rows: Rows) -> str:
    """Return what is wrong for tools that read through the HDF5 library, empty when it finds every slice where we
    do."""
    try:
        check_shard(files.shard(name), files.counts(rows), files.compression, values=files.manifest.values)
        places = {shape: iter(found) for shape, found in chunk_places(files.shard(name), files.compression).items()}
    except StoreError as error:
        return _short(error, files.shard(name))
    for row in rows.tolist():
        pixels = files.pixels(row)
        if next(places[files.shape(row)]) != (pixels.byte_offset, pixels.n_bytes):
            return "the HDF5 library finds its slices elsewhere"
    try:
        is_same = files.frame_checksum(name, rows) == files.manifest.frames[name]
    except OSError as error:  # a bad sector
        return cannot_be_read(error)
    return "" if is_same else "damaged outside of its pixels"


def _damaged_pixels(files: StoreFiles, name: str, rows: Rows) -> list[int]:
    damaged = []
    buffer = np.empty(0, dtype="<i2")
    for row in rows.tolist():
        n_values = math.prod(files.shape(row))
        if len(buffer) < n_values:
            buffer = np.empty(n_values, dtype="<i2")
        slices = [(files.pixels(row), buffer[:n_values])]
        try:
            if read_pixels(files.shard(name), slices, compression=files.compression):
                damaged.append(row)
        except OSError:  # a bad sector
            damaged.append(row)
    return damaged


def _short(error: StoreError, place: Path) -> str:
    """Return the message of an error without the path of the file and without advice."""
    return str(error).removeprefix(f"{place}: ").split(". ")[0]


def by_series(damages: Sequence[Damage]) -> list[tuple[str, str, str, str]]:
    """Return rows for a person: file, series, slices such as "3, 7-9", and what is wrong."""
    groups: dict[tuple[str, str, str], list[int]] = {}
    for damage in damages:
        slices = groups.setdefault((damage.file, damage.series, damage.what), [])
        slices += [] if damage.slice_index is None else [damage.slice_index]
    return [(file, series, _ranges(slices), what) for (file, series, what), slices in groups.items()]


def _ranges(numbers: Sequence[int]) -> str:
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    return ", ".join("-".join(map(str, part)) for part in parts)
