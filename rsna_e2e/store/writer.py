"""Writes a study store: it is built under another name beside its place, and moved there when it is complete."""

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from rsna_e2e import __version__
from rsna_e2e.core.errors import BadInputError, RsnaError, UsageError
from rsna_e2e.core.files import entries, full_disk_named, lock_folder, real_path, sync
from rsna_e2e.core.records import Column, IdRule, Refusal, Values
from rsna_e2e.store.checks import check_series, checksum_around, read_index, read_refusals, rows_by_shard
from rsna_e2e.store.codecs import Compression
from rsna_e2e.store.content_box import CONTENT_FROM_HU
from rsna_e2e.store.layout import (
    INDEX,
    LUTS,
    MANIFEST,
    PARTIAL,
    REFUSALS,
    SETS,
    SHARDS,
    StoreError,
    columns_of,
    file_checksum,
    hash_of_data,
    hash_of_pixels,
    tables_of,
)
from rsna_e2e.store.luts import read_luts, write_luts
from rsna_e2e.store.manifest import StoreManifest
from rsna_e2e.store.set_writer import NewSet, write_set
from rsna_e2e.store.tables import write_table

_ENTRIES = (SHARDS, INDEX, REFUSALS, LUTS, SETS, MANIFEST)
_STORE = "store"
_INPUTS = "inputs"
_SHARD_NOTE = "shard-"


class StoreWriter:
    """Context in which a store is built in `STORE.partial`, which `commit` makes STORE; or, where STORE is an empty
    folder already, in `STORE/.partial`, whose content goes there: another disk may be mounted there, and users may have
    given the folder an owner. A link is followed.

    Shards go into `shards_folder`, by `write_shard`, from any process; what else helps to go on after an interruption
    into `notes_folder`. Both are as an interrupted attempt left them, where that names the same `inputs`, and empty
    otherwise. On an error that is the user's to mend, and without `inputs`, nothing stays; on others, what was
    finished. folder: instead of `STORE.partial`. Raises StoreError when STORE exists or another process is building it.
    """

    def __init__(self, target: Path, *, inputs: str = "", folder: Path | None = None) -> None:
        self.target = target
        self._inputs = inputs
        self._place = real_path(target)
        self._is_filled = self._place.is_dir()
        self._beside, self._inside = self._place.with_name(f"{self._place.name}{PARTIAL}"), self._place / PARTIAL
        self._partial = folder or (self._inside if self._is_filled else self._beside)
        self._store = self._partial / _STORE
        self.shards_folder = self._store / SHARDS
        self.notes_folder = self._partial / "notes"
        self._lock = -1
        self._is_kept = False
        self._left: Path | None = None

    def __enter__(self) -> "StoreWriter":
        self._check_target_is_free()
        try:
            with full_disk_named(self.target):
                self._partial.mkdir(parents=True, exist_ok=True)
                self._lock = lock_folder(self._partial)
                self._make_folders()
        except BlockingIOError:
            raise StoreError(f"{self.target}: another process is preparing it. Wait for it or choose another") from None
        except OSError as error:
            raise StoreError(f"{self._partial}: cannot be made: {error.strerror}. Choose another place") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        is_mendable = isinstance(error, BadInputError | UsageError)
        if (error is None and not self._is_kept) or is_mendable or not self._inputs:
            self._clear()
        else:
            with suppress(OSError):  # what went wrong before says more
                self._remove_unfinished()
        os.close(self._lock)

    def keep(self) -> None:
        """Keep everything in its folder when the block ends, uncommitted."""
        self._is_kept = True

    def leave(self, refusals: Sequence[Refusal]) -> Path:
        """Write the table of refusals where no store can be made, and return its path; the next attempt removes it."""
        self._left = self._partial / REFUSALS
        write_table(self._left, _refusal_columns(refusals))
        return self._left

    def _clear(self) -> None:
        if self._left is None:
            shutil.rmtree(self._partial, ignore_errors=True)
            return
        for folder in (self._store, self.notes_folder):
            shutil.rmtree(folder, ignore_errors=True)
        (self._partial / _INPUTS).unlink(missing_ok=True)

    def adopt(self, folders: Sequence[Path]) -> None:
        """Take over notes and shards of folders that were kept; a note `shard-X` comes with the shard X that it
        describes.

        Raises BadInputError for one of other inputs.
        """
        for folder in folders:
            inputs = folder / _INPUTS
            if not inputs.is_file() or inputs.read_text() != self._inputs:
                raise BadInputError(
                    f"{folder}: not a part of this store: made of other files or labels, with other options, or by "
                    "another version of the program or a decoder. Make it again, with the same everywhere"
                )
            for note in sorted(folder.glob(f"{self.notes_folder.name}/*.arrow")):
                place = self.notes_folder / note.name
                if place.exists():
                    continue
                if note.name.startswith(_SHARD_NOTE):
                    shard = f"{note.stem.removeprefix(_SHARD_NOTE)}.h5"
                    # One without a note may be of another plan.
                    (self.shards_folder / shard).unlink(missing_ok=True)
                    _take(folder / self._store.name / SHARDS / shard, self.shards_folder / shard)
                _take(note, place)  # last: it says that its shard is there

    def _make_folders(self) -> None:
        """Keep what an interrupted attempt made from the same inputs, except files that it did not finish."""
        inputs = self._partial / _INPUTS
        if self._partial == self._inside:
            for place in self._moved():  # killed while it committed
                place.replace(self._store / place.name)
        if not (self._inputs and inputs.is_file() and inputs.read_text() == self._inputs):
            for leftover in self._partial.iterdir():
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            inputs.write_text(self._inputs)
        for folder in (self.shards_folder, self.notes_folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._remove_unfinished()

    def _remove_unfinished(self) -> None:
        """Remove unfinished files of processes that were killed, in this attempt or an earlier one."""
        for folder in (self.shards_folder, self.notes_folder):
            for unfinished in folder.glob("*.tmp-*"):
                unfinished.unlink(missing_ok=True)

    def commit(
        self,
        *,
        index: Mapping[str, Column],
        refusals: Sequence[Refusal],
        labels: NewSet | None = None,
        compression: Compression = "none",
        key_check: str = "",
        image_ids: IdRule = "name",
        luts: Iterable[Any] | None = None,
    ) -> str:
        """Write the tables, the manifest and a label set, put the store in its place, and return its data hash.

        index: all columns [N > 0], series after series, slices in geometric order. labels: of its slices and series, if
        any. compression: that all shards were written with. key_check: of the key that identifiers are hashed with,
        empty where they are not. image_ids: the rule that they follow. luts: of a store of X-rays, tables of
        `luts_to_table`; None of CT. Raises OSError, on a full disk among others, and StoreError for an index that no
        store may have.
        """
        values: Values = "hu" if luts is None else "grey"
        self._remove_unfinished()
        shutil.rmtree(
            self._store / SETS, ignore_errors=True
        )  # of an attempt that was killed, with other labels perhaps
        columns = {name: np.asarray(index[name], dtype=_numpy_type(kind)) for name, kind in columns_of(values).items()}
        check_series(self.target, columns)
        write_table(self._store / INDEX, columns)
        write_table(self._store / REFUSALS, _refusal_columns(refusals))
        if luts is not None:
            write_luts(self._store / LUTS, luts)
        manifest = self._describe(
            columns, len(refusals), compression, values=values, key_check=key_check, image_ids=image_ids
        )
        del columns  # of many slices, twice at once would be the most memory of all
        labels_hash = self._check_tables(manifest, labels)
        (self._store / MANIFEST).write_text(manifest.to_json())
        self._move_into_place()
        return hash_of_data(manifest.pixels_hash, labels_hash)

    def _describe(
        self,
        columns: dict[str, Column],
        n_refused: int,
        compression: Compression,
        *,
        values: Values,
        key_check: str,
        image_ids: IdRule,
    ) -> StoreManifest:
        """Return the manifest of the tables and shards that were written."""
        sizes = {path.name: path.stat().st_size for path in sorted(self.shards_folder.iterdir())}
        rows_of = dict(rows_by_shard(columns, list(sizes)))
        return StoreManifest(
            created_by=f"rsna_e2e {__version__}",
            values=values,
            image_ids=image_ids,
            content_from_hu=CONTENT_FROM_HU if values == "hu" else None,
            compression=compression,
            n_slices=len(columns["series_key"]),
            n_series=len(set(columns["series_key"])),
            n_refused=n_refused,
            pixels_hash=hash_of_pixels(columns, values),
            key_check=key_check,
            geometry="none" if np.isnan(columns["ipp_x_mm"]).any() else "patient",
            files={name: file_checksum(self._store / name) for name in tables_of(values)},
            shards=sizes,
            frames={name: checksum_around(self.shards_folder / name, columns, rows) for name, rows in rows_of.items()},
        )

    def _move_into_place(self) -> None:
        """Give the store, which is whole now, its name."""
        names = [name for name in _ENTRIES if name not in (LUTS, SETS) or (self._store / name).exists()]
        for name in (*names, ""):
            sync(self._store / name)
        self._check_target_is_free()
        if self._is_filled:
            for name in names:  # the manifest last: it makes the folder a store
                (self._store / name).replace(self._place / name)
                sync(self._place)
        else:
            self._store.replace(self._place)
            sync(self._place.parent)

    def _check_tables(self, manifest: StoreManifest, labels: NewSet | None) -> str:
        """Read the tables back as opening the store does, and write the label set, and return its hash. If that fails,
        everything that was prepared stays."""
        try:
            index = read_index(self._store, manifest)
            read_refusals(self._store, manifest)
            if manifest.values == "grey":
                read_luts(self._store, index)
            return "" if labels is None else write_set(self._store, labels, manifest, index).labels_hash
        except StoreError as error:
            raise RsnaError(
                f"{self.target}: what was written of its tables does not read back: {str(error).split('. ')[0]}. "
                f"Check the disk and run again, or report this; the slices stay in {self._partial}"
            ) from error

    def _check_target_is_free(self) -> None:
        if (self.target / MANIFEST).exists():
            for partial in (self._beside, self._inside):
                if not (partial / _STORE / SHARDS).exists():  # killed between the store's getting whole and clearing up
                    shutil.rmtree(partial, ignore_errors=True)
            raise StoreError(
                f"{self.target}: a prepared store already exists. Use it (rsna-e2e train {self.target} RUN), give it "
                f"labels (rsna-e2e label {self.target} LABELS), choose another folder, or remove it first"
            )
        is_new = not os.path.lexists(self._place)  # a link here leads to itself
        is_free = is_new or (self._place.is_dir() and not self._foreign())
        if not is_free:
            raise StoreError(f"{self.target}: exists and is not empty. Choose another folder for the store")

    def _foreign(self) -> bool:
        """Whether the folder of the store holds anything else than what an interrupted attempt left."""
        own = {self._inside, *(self._moved() if (self._inside / _INPUTS).is_file() else ())}
        return not own.issuperset(entries(self._place))

    def _moved(self) -> list[Path]:
        """Return the files of the store that are in their place already."""
        return [place for name in _ENTRIES if (place := self._place / name).exists()]


def _take(path: Path, place: Path) -> None:
    try:
        os.link(path, place)
    except OSError:  # another file system
        shutil.copy2(path, place)


def _numpy_type(kind: str) -> np.dtype[np.generic]:
    return np.dtype(object if kind == "str" else kind)


def _refusal_columns(refusals: Sequence[Refusal]) -> dict[str, Column]:
    return {
        "path": np.array([refusal.path for refusal in refusals], dtype=object),
        "reason": np.array([str(refusal.reason) for refusal in refusals], dtype=object),
        "detail": np.array([refusal.detail for refusal in refusals], dtype=object),
    }
