"""What worker processes do: read headers, and write whole shards. Records go into files, pixels into shards."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import xxhash

from rsna_e2e.dicom import read_headers, read_hounsfield, refuse_on_error
from rsna_e2e.prepare.index import StoredSlice, stored_columns
from rsna_e2e.prepare.plan import plan_series, plan_shards
from rsna_e2e.prepare.pool import NO_ITEM, WORKER_MEMORY_BYTES, Begin, Lost, limited_memory
from rsna_e2e.prepare.tables import (
    HeaderOf,
    Table,
    columns_to_table,
    headers_to_table,
    read_part,
    read_parts,
    table_to_headers,
    to_numpy,
    write_part,
)
from rsna_e2e.reasons import Reason
from rsna_e2e.records import Int16Image, RawFile, Refusal, SliceRecord, printable
from rsna_e2e.reference import content_box
from rsna_e2e.sources import Source
from rsna_e2e.store import Compression, bytes_on_disk, write_shard

NO_CONTENT = (0, 0, 0, 0)

Windows = tuple[tuple[float, float], ...]
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class ReadHeaders:
    """Job: read the headers of files into the file `part`. Returns how many were refused."""

    source: Source
    files: Sequence[RawFile]
    part: Path

    def __call__(self, begin: Begin, lost: Lost) -> int:
        headers: list[HeaderOf] = []
        refusals: list[Refusal] = []
        for item, raw_file in enumerate(self.files):
            begin(item)
            result = read_or_refuse(self.source, raw_file, lost.get(item), read_headers, head=True)
            if isinstance(result, Refusal):
                refusals.append(result)
            else:
                headers += [HeaderOf(raw_file, header) for header in result]
        write_part(self.part, headers_to_table(headers), refusals)
        return len(refusals)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPlan:
    """A shard to write: how many slices, how many bytes of the disk at most; a file with the headers of its slices, the
    shard itself, and the file for what is known of them when it is written."""

    n_slices: int
    n_bytes: int
    plan: Path
    path: Path
    note: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class MakePlan:
    """Job: decide from the headers in files what goes where. Returns the shards, and what is refused, then or before.

    labelled_ids: image ids that labels name. compression: of the shards' slices. notes, shards: the folders for plans
    and notes, and for shards.
    """

    source: Source
    headers: Sequence[Path]
    labelled_ids: Sequence[str]
    shard_bytes: int
    compression: Compression
    notes: Path
    shards: Path

    def __call__(self, begin: Begin, lost: Lost) -> tuple[list[ShardPlan], list[Refusal]]:
        headers, refused = read_parts(self.headers)
        digests = partial(_digests, source=self.source, begin=begin, lost=lost)
        plan, misplaced = plan_series(headers, self.labelled_ids, digests=digests)
        n_values_M = (to_numpy(headers, "rows") * to_numpy(headers, "columns")).tolist()
        shards = []
        for number, (first, end) in enumerate(plan_shards(headers, plan, shard_bytes=self.shard_bytes)):
            rows = plan.rows[first:end]
            shard = ShardPlan(
                n_slices=end - first,
                n_bytes=sum(bytes_on_disk(n_values_M[row], self.compression) for row in rows.tolist()),
                plan=self.notes / f"plan-{number:05d}.parquet",
                path=self.shards / f"{number:05d}.h5",
                note=self.notes / f"shard-{number:05d}.parquet",
            )
            if not shard.note.exists():
                taken = headers.take(rows).append_column("series_key", [plan.series_keys[first:end].tolist()])
                write_part(shard.plan, taken.append_column("position_mm", [plan.position_mm[first:end]]), [])
            shards.append(shard)
        return shards, [*refused, *misplaced]


@dataclass(frozen=True, slots=True)
class WriteShard:
    """Job: decode slices and write them as a shard, and what is known of them into a file. Returns how many were
    refused."""

    source: Source
    shard: ShardPlan
    windows_hu: Windows
    compression: Compression

    def __call__(self, begin: Begin, lost: Lost) -> int:
        taken: list[tuple[int, SliceRecord, tuple[int, int, int, int]]] = []
        refusals: list[Refusal] = []
        plan, _ = read_part(self.shard.plan)
        slices = self._decode(plan, begin, lost, taken, refusals)
        pixels = write_shard(self.shard.path, slices, compression=self.compression)
        keys, positions_mm = to_numpy(plan, "series_key"), to_numpy(plan, "position_mm")
        stored = [
            StoredSlice(record, keys[row], float(positions_mm[row]), content, self.shard.path.name, place)
            for (row, record, content), place in zip(taken, pixels, strict=True)
        ]
        write_part(self.shard.note, columns_to_table(stored_columns(stored)), refusals)
        return len(refusals)

    def _decode(
        self,
        plan: Table,
        begin: Begin,
        lost: Lost,
        taken: list[tuple[int, SliceRecord, tuple[int, int, int, int]]],
        refusals: list[Refusal],
    ) -> Iterator[Int16Image]:
        for row, (raw_file, header) in enumerate(table_to_headers(plan)):
            begin(row)
            result = read_or_refuse(
                self.source,
                raw_file,
                lost.get(row),
                partial(read_hounsfield, header=header),
            )
            if isinstance(result, Refusal):
                refusals.append(result)
                continue
            record, hu = result
            taken.append((row, record, content_box(hu, self.windows_hu) or NO_CONTENT))
            yield hu
        begin(NO_ITEM)


def _digests(headers: Sequence[HeaderOf], *, source: Source, begin: Begin, lost: Lost) -> list[str | None]:
    """Return a digest of each slice's place and pixels; None of one that is refused.

    Decoding is under the limit of other workers, whatever this process may take otherwise.
    """
    digests: list[str | None] = []
    with limited_memory(WORKER_MEMORY_BYTES):
        for item, (raw_file, header) in enumerate(headers):
            begin(item)
            result = read_or_refuse(source, raw_file, lost.get(item), partial(read_hounsfield, header=header))
            digests.append(None if isinstance(result, Refusal) else _digest(*result))
        begin(NO_ITEM)
    return digests


def _digest(record: SliceRecord, hu: Int16Image) -> str:
    place = (record.image_position_mm, record.image_orientation, record.pixel_spacing_mm, hu.shape)
    return xxhash.xxh3_128_hexdigest(repr(place).encode() + np.ascontiguousarray(hu).data.tobytes())


def read_or_refuse(
    source: Source,
    raw_file: RawFile,
    lost: Reason | None,
    read: Callable[[BinaryIO, RawFile], _Result | Refusal],
    *,
    head: bool = False,
) -> _Result | Refusal:
    """Open a file and read it, or its head; a refusal names it as text that any file can hold."""

    def opened() -> _Result | Refusal:
        with source.open(raw_file, head=head) as stream:
            return read(stream, raw_file)

    if lost is not None:
        return Refusal(printable(raw_file.name), lost, "reading it ended its process, or took too long")
    result = refuse_on_error(raw_file.name, opened, otherwise=Reason.MALFORMED)
    return replace(result, path=printable(raw_file.name)) if isinstance(result, Refusal) else result


def available_cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0))
