"""The jobs of worker processes: read headers, digest copies, and write shards. Records go into notes."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import xxhash

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import Int16Image, RawFile, Refusal, SliceRecord, Values, VoiLut, printable
from rsna_e2e.dicom import Repair, SliceHeader, read_values, refuse_on_error
from rsna_e2e.dicom.header import read_voi_lut
from rsna_e2e.dicom.image_ids import may_be_formula
from rsna_e2e.dicom.repairs import has_repair
from rsna_e2e.dicom.sources.files import Source
from rsna_e2e.store import Compression, write_shard
from rsna_e2e.store.content_box import CONTENT_FROM_HU, bounding_box
from rsna_e2e.store.luts import luts_to_table
from rsna_e2e.store.prepare.index import StoredSlice, stored_columns
from rsna_e2e.store.prepare.pool import NO_ITEM, Begin, Lost
from rsna_e2e.store.prepare.reading import Reading
from rsna_e2e.store.prepare.tables import (
    HeaderOf,
    Table,
    headers_to_table,
    read_note,
    table_to_headers,
    to_numpy,
    write_note,
)
from rsna_e2e.store.tables import columns_to_table

NO_CONTENT = (0, 0, 0, 0)

Box = tuple[int, int, int, int]  # x0, y0, x1, y1
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class ReadHeaders:
    """Job: read the headers of files into the file `note`. Returns how many were refused.

    reading: what else is refused, and left out. Raises BadInputError for a shard that is refused.
    """

    source: Source
    files: Sequence[RawFile]
    note: Path
    reading: Reading

    def __call__(self, begin: Begin, lost: Lost) -> int:
        headers: list[HeaderOf] = []
        refusals: list[Refusal] = []
        for item, raw_file in enumerate(self.files):
            begin(item)
            still_alive = partial(begin, item)
            result = read_or_refuse(raw_file, lost.get(item), partial(self._read, raw_file, still_alive))
            if isinstance(result, Refusal):
                refusals.append(self._bearable(result))
            else:
                headers += result
        write_note(self.note, headers_to_table(headers), refusals)
        return len(refusals)

    def _bearable(self, refusal: Refusal) -> Refusal:
        if self.source.has_shards:
            place = self.source.path / refusal.path
            raise BadInputError(f"{place}: refused: {refusal.detail}. Copy it again, or go on without it: move it away")
        return refusal

    def _read(self, raw_file: RawFile, still_alive: Callable[[], None]) -> list[HeaderOf] | Refusal:
        found = self.source.read_headers(raw_file, still_alive, self.reading.modality)
        if isinstance(found, Refusal):
            return found
        headers = [HeaderOf(*one) for one in found]
        uid = headers[0].header.record.sop_uid
        if self.reading.refuse_formulas and may_be_formula(uid):
            detail = "a spreadsheet would run its SOP Instance UID (--refuse-formulas)"
            return Refusal(raw_file.name, Reason.FORMULA_NAME, detail, sop_uid=uid)
        if self.reading.requires_hu and any(
            has_repair(h.header.record.repair, Repair.UNSPECIFIED_UNIT) for h in headers
        ):
            return Refusal(raw_file.name, Reason.NOT_HOUNSFIELD, "RescaleType is US (unspecified)", sop_uid=uid)
        return list(map(_without_demographics, headers)) if self.reading.without_demographics else headers


@dataclass(frozen=True, slots=True)
class DigestCopies:
    """Job: digest position and pixels of slices, whose headers are in the note `copies`, into the file `note`: a column
    `digest`, null where a slice is refused. Returns the number of refusals."""

    source: Source
    copies: Path
    note: Path

    def __call__(self, begin: Begin, lost: Lost) -> int:
        copies, _ = read_note(self.copies)
        digests: list[str | None] = []
        refusals: list[Refusal] = []
        for result in read_slices(self.source, copies, begin, lost):
            if isinstance(result, Refusal):
                refusals.append(result)
            digests.append(None if isinstance(result, Refusal) else _digest(*result))
        write_note(self.note, columns_to_table({"digest": np.array(digests, dtype=object)}), refusals)
        return len(refusals)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPlan:
    """A shard to write. n_bytes: of the disk, at most. plan: file with the headers of its slices; path: of the shard;
    note: file for the records of its slices, once it is written; luts: for the VOI LUTs of X-rays. digest: of what it
    is to hold."""

    n_slices: int
    n_bytes: int
    digest: str
    plan: Path
    path: Path
    note: Path

    @property
    def luts(self) -> Path:
        """Named by what it belongs to, as another plan may give the shard's number to other slices."""
        return self.note.with_name(f"luts-{self.digest}.arrow")


@dataclass(frozen=True, slots=True)
class WriteShard:
    """Job: decode slices, write them as a shard, and their records into its note. Returns the number of refusals."""

    source: Source
    shard: ShardPlan
    compression: Compression
    values: Values

    def __call__(self, begin: Begin, lost: Lost) -> int:
        taken: list[tuple[int, SliceRecord, Box]] = []
        luts: dict[str, VoiLut] = {}
        refusals: list[Refusal] = []
        plan, _ = read_note(self.shard.plan)
        slices = self._decode(plan, begin, lost, taken, luts, refusals)
        pixels = write_shard(self.shard.path, slices, compression=self.compression, values=self.values)
        if self.values == "grey":
            write_note(self.shard.luts, luts_to_table(luts), [])
        keys, positions_mm = to_numpy(plan, "series_key"), to_numpy(plan, "position_mm")
        stored = [
            StoredSlice(record, keys[row], float(positions_mm[row]), content, self.shard.path.name, place)
            for (row, record, content), place in zip(taken, pixels, strict=True)
        ]
        write_note(self.shard.note, columns_to_table(stored_columns(stored)), refusals, plan_digest=self.shard.digest)
        return len(refusals)

    def _decode(
        self,
        plan: Table,
        begin: Begin,
        lost: Lost,
        taken: list[tuple[int, SliceRecord, Box]],
        luts: dict[str, VoiLut],
        refusals: list[Refusal],
    ) -> Iterator[Int16Image]:
        for row, result in enumerate(read_slices(self.source, plan, begin, lost, luts)):
            if isinstance(result, Refusal):
                refusals.append(result)
                continue
            record, values = result
            if record.xray is None:
                content = bounding_box(values >= CONTENT_FROM_HU) or NO_CONTENT
            else:
                content = (0, 0, record.columns, record.rows)
            taken.append((row, record, content))
            yield values


def _without_demographics(one: HeaderOf) -> HeaderOf:
    record = one.header.record
    assert record.xray is not None, "CT has none"
    xray = replace(record.xray, sex="", age_y=math.nan)
    return one._replace(header=replace(one.header, record=replace(record, xray=xray)))


def _digest(record: SliceRecord, hu: Int16Image) -> str:
    place = (record.image_position_mm, record.image_orientation, record.pixel_spacing_mm, hu.shape)
    return xxhash.xxh3_128_hexdigest(repr(place).encode() + np.ascontiguousarray(hu).data.tobytes())


def read_slices(
    source: Source, headers: Table, begin: Begin, lost: Lost, luts: dict[str, VoiLut] | None = None
) -> Iterator[tuple[SliceRecord, Int16Image] | Refusal]:
    """Read slices as items of a job, and yield the record and values of each, or its refusal; put VOI LUTs that are not
    in `luts` there."""
    with SliceReader(source) as reader:
        for item, (raw_file, header) in enumerate(table_to_headers(headers)):
            begin(item)
            result = reader.read(raw_file, header, lost=lost.get(item))
            xray = header.record.xray
            if luts is not None and xray and xray.voi_lut and not isinstance(result, Refusal):
                if xray.voi_lut not in luts:
                    luts[xray.voi_lut] = reader.read_lut(raw_file)
            yield result
    begin(NO_ITEM)


class SliceReader:
    """Context that reads slices one after the other. A file stays open until another is needed: opening a member of an
    archive reads all of it, and an enhanced CT file holds many slices."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._opened = ExitStack()
        self._file: RawFile | None = None
        self._stream: BinaryIO | None = None

    def __enter__(self) -> "SliceReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._file, self._stream = None, None
        self._opened.close()

    def read(
        self, raw_file: RawFile, header: SliceHeader, *, lost: Reason | None = None
    ) -> tuple[SliceRecord, Int16Image] | Refusal:
        """Return the record and HU of a slice, or its refusal; see `read_or_refuse`."""
        result = read_or_refuse(raw_file, lost, lambda: read_values(self._open(raw_file), raw_file, header))
        return replace(result, sop_uid=header.record.sop_uid) if isinstance(result, Refusal) else result

    def read_lut(self, raw_file: RawFile) -> VoiLut:
        """Return the VOI LUT of an X-ray that was read."""
        lut = read_voi_lut(self._open(raw_file), raw_file)
        assert lut is not None, "its header named one"
        return lut

    def _open(self, raw_file: RawFile) -> BinaryIO:
        if self._stream is None or raw_file != self._file:
            self.__exit__()
            self._stream = self._opened.enter_context(self._source.open(raw_file))
            self._file = raw_file
        return self._stream


def read_or_refuse(raw_file: RawFile, lost: Reason | None, read: Callable[[], _Result | Refusal]) -> _Result | Refusal:
    """Return what `read` returns, or a refusal with a printable file name. lost: refuse for this reason, without
    reading."""
    if lost is not None:
        return Refusal(printable(raw_file.name), lost, "reading it ended its process, or took too long")
    result = refuse_on_error(raw_file.name, read)
    return replace(result, path=printable(raw_file.name)) if isinstance(result, Refusal) else result
