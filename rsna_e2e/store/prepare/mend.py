"""The job that mends a shard: slices are read again from raw files, and written where they were."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsna_e2e.core.files import full_disk_named, sync
from rsna_e2e.core.records import Int16Array, Int16Image, Refusal, Values
from rsna_e2e.dicom.sources.files import Source
from rsna_e2e.store import Compression, StoredPixels, StoreError, is_slice, overwrite, read_pixels, write_shard
from rsna_e2e.store.manifest import is_plain_file
from rsna_e2e.store.prepare.jobs import SliceReader
from rsna_e2e.store.prepare.pool import NO_ITEM, Begin, Lost
from rsna_e2e.store.prepare.tables import HeaderOf
from rsna_e2e.store.shards import frame_checksum

NOT_FOUND = "no raw file has a slice at this position"
ENDED_ITS_PROCESS = "reading its raw file ended the process, or took too long"
NOT_THE_SAME = "the raw files no longer give the same pixels"
LAID_OUT_OTHERWISE = "the libraries here write it differently than those that wrote it: prepare the store again"

# Why a slice of a shard was not mended, by its row of the index; None: the file around them.
WhyNot = dict[int | None, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSlice:
    """A slice of the shard: its row of the index, rows and columns, where it lies, and whether it is damaged. headers:
    of raw slices that may be the same, the likeliest first."""

    row: int
    shape: tuple[int, int]
    pixels: StoredPixels
    is_damaged: bool
    headers: Sequence[HeaderOf]


@dataclass(frozen=True, slots=True, kw_only=True)
class MendShard:
    """Job: mend the damage of a shard, and return what could not be mended, and why.

    slices: all of the shard, in their order. is_whole_file: the file has to be written anew, with n_bytes, because more
    than pixels is damaged; frame: checksum of everything in it but slices. values: what it holds. Raises
    OutOfResourcesError when the disk is full.
    """

    source: Source
    path: Path
    slices: Sequence[ShardSlice]
    is_whole_file: bool
    n_bytes: int
    frame: str
    compression: Compression
    values: Values

    def __call__(self, begin: Begin, lost: Lost) -> WhyNot:
        why_not: WhyNot = {}
        has_places = is_plain_file(self.path) and self.path.stat().st_size == self.n_bytes
        with SliceReader(self.source) as reader:
            for item, wanted in enumerate(self.slices):
                if wanted.is_damaged:
                    is_lost = item in lost
                    reason = ENDED_ITS_PROCESS if is_lost else self._mend(item, wanted, has_places, reader, begin)
                    if reason:
                        why_not[wanted.row] = reason
            begin(NO_ITEM)
            if self.is_whole_file and not why_not and not self._rewrite(reader, begin):
                why_not[None] = LAID_OUT_OTHERWISE
                if not has_places:
                    why_not |= dict.fromkeys((wanted.row for wanted in self.slices), LAID_OUT_OTHERWISE)
        return why_not

    def _mend(self, item: int, wanted: ShardSlice, has_places: bool, reader: SliceReader, begin: Begin) -> str:
        """Write a slice to its place, or, where the file has to be written anew, check that it can be. Returns why
        not."""
        begin(item)
        hu = _read_raw(wanted, reader)
        if hu is None:
            return NOT_THE_SAME if wanted.headers else NOT_FOUND
        if not has_places or overwrite(self.path, wanted.pixels, hu.reshape(-1), compression=self.compression):
            return ""
        return LAID_OUT_OTHERWISE

    def _rewrite(self, reader: SliceReader, begin: Begin) -> bool:
        """Write the whole shard beside its place, and move it there if it has the same bytes as the original."""
        new = self.path.with_name(f"{self.path.name}.tmp-mended")
        needed = f"the disk is full; mending it needs {self.n_bytes:,} bytes. Free some space there"
        try:
            with full_disk_named(self.path, needed):
                slices = self._all_slices(reader, begin)
                stored = write_shard(new, slices, compression=self.compression, values=self.values)
            places = [(wanted.pixels.byte_offset, wanted.pixels.n_bytes) for wanted in self.slices]
            is_same = (
                stored == [wanted.pixels for wanted in self.slices]
                and new.stat().st_size == self.n_bytes
                and frame_checksum(new, places) == self.frame
            )
            if is_same:
                new.replace(self.path)
                sync(self.path.parent)
            return is_same
        finally:
            new.unlink(missing_ok=True)

    def _all_slices(self, reader: SliceReader, begin: Begin) -> Iterator[Int16Image]:
        """Yield all slices of the shard: undamaged ones from the old file, the others from the raw files again."""
        for item, wanted in enumerate(self.slices):
            if wanted.is_damaged:
                begin(item)
                raw = _read_raw(wanted, reader)
                begin(NO_ITEM)
                if raw is not None:
                    yield raw
                    continue
            hu: Int16Array = np.empty(wanted.shape, dtype="<i2").reshape(-1)
            if read_pixels(self.path, [(wanted.pixels, hu)], compression=self.compression):
                raise StoreError(f"{self.path}: changed while it was mended. Run again")
            yield hu.reshape(wanted.shape)


def _read_raw(wanted: ShardSlice, reader: SliceReader) -> Int16Image | None:
    """Return the HU of a slice from the first raw file whose HU have its checksum."""
    for raw_file, header in wanted.headers:
        result = reader.read(raw_file, header)
        if not isinstance(result, Refusal):
            hu = np.ascontiguousarray(result[1], dtype="<i2")
            if hu.shape == wanted.shape and is_slice(hu.reshape(-1), wanted.pixels):
                return hu
    return None
