"""Notes: headers, stored slices and refusals as Arrow files, compact in memory, and whole or not there on disk."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from rsna_e2e.core.files import as_json, atomic_writer
from rsna_e2e.core.records import Acquisition, Column, RawFile, Refusal, SliceRecord, XrayRecord
from rsna_e2e.dicom import SliceHeader
from rsna_e2e.store.tables import texts_to_numpy

Table = Any  # pyarrow has no types

_ARROW_TYPES: dict[Any, Any] = {
    str: pa.string(),
    int: pa.int64(),
    bool: pa.bool_(),
    float: pa.float64(),
    int | None: pa.int64(),
    float | None: pa.float64(),
    tuple[float, float]: pa.list_(pa.float64(), 2),
    tuple[float, float, float]: pa.list_(pa.float64(), 3),
    tuple[float, float, float, float, float, float]: pa.list_(pa.float64(), 6),
}
_RECORD_TYPES = {field.name: _ARROW_TYPES[field.type] for field in fields(SliceRecord) if field.type in _ARROW_TYPES}
# Only in notes of X-rays, under names of their own: a header has its own padding
XRAY_PREFIX = "xray_"
_XRAY_TYPES = {f"{XRAY_PREFIX}{field.name}": _ARROW_TYPES[field.type] for field in fields(XrayRecord)}
# A file name may be any bytes.
_FILE_TYPES = {"name": pa.binary(), "n_bytes": pa.int64(), "stamp": pa.int64(), "offset": pa.int64()}
_ACQUISITION_TYPES = {field.name: _ARROW_TYPES[field.type] for field in fields(Acquisition)}
_HEADER_TYPES = {field.name: _ARROW_TYPES[field.type] for field in fields(SliceHeader) if field.type in _ARROW_TYPES}
_COLUMN_TYPES = _FILE_TYPES | _HEADER_TYPES | _ACQUISITION_TYPES | _RECORD_TYPES
_REFUSALS, _PLAN_DIGEST = b"refusals", b"plan_digest"

# Arrow's own format: for a few hundred rows of forty columns, Parquet takes six times as long.
_PACKED = pa.ipc.IpcWriteOptions(compression="lz4")


class HeaderOf(NamedTuple):
    """A file and the header of a slice in it."""

    raw_file: RawFile
    header: SliceHeader


def headers_to_table(headers: Sequence[HeaderOf]) -> Table:
    """Return a table with a row for each header; `table_to_headers` is the inverse."""
    files = [[getattr(h.raw_file, name) for h in headers] for name in _FILE_TYPES if name != "name"]
    own = [[getattr(h.header, name) for h in headers] for name in _HEADER_TYPES]
    acquisitions = [[getattr(h.header.acquisition, name) for h in headers] for name in _ACQUISITION_TYPES]
    records = [[getattr(h.header.record, name) for h in headers] for name in _RECORD_TYPES]
    columns = [[os.fsencode(h.raw_file.name) for h in headers], *files, *own, *acquisitions, *records]
    kinds = _COLUMN_TYPES
    if headers and headers[0].header.record.xray is not None:
        kinds = _COLUMN_TYPES | _XRAY_TYPES
        columns += [[getattr(h.header.record.xray, f.name) for h in headers] for f in fields(XrayRecord)]
    arrays = [pa.array(column, kind) for column, kind in zip(columns, kinds.values(), strict=True)]
    return pa.table(arrays, names=list(kinds))


def holds_xrays(headers: Table) -> bool:
    """Whether a table of headers is of X-rays; a source is read for these alone, or for CT."""
    return f"{XRAY_PREFIX}photometric" in headers.column_names


def table_to_headers(table: Table) -> list[HeaderOf]:
    """Return the headers of a table's rows."""
    are_xrays = holds_xrays(table)
    columns = {name: table[name].to_pylist() for name in (*_COLUMN_TYPES, *(_XRAY_TYPES if are_xrays else ()))}
    vectors = {name for name, kind in _RECORD_TYPES.items() if pa.types.is_fixed_size_list(kind)}

    def record(row: int) -> SliceRecord:
        values = {name: columns[name][row] for name in _RECORD_TYPES}
        of_xray = {name.removeprefix(XRAY_PREFIX): columns[name][row] for name in _XRAY_TYPES if are_xrays}
        xray = XrayRecord(**of_xray) if are_xrays else None
        return SliceRecord(**values | {name: tuple(values[name]) for name in vectors}, xray=xray)

    return [
        HeaderOf(
            RawFile(
                os.fsdecode(columns["name"][row]), *(columns[name][row] for name in ("n_bytes", "stamp", "offset"))
            ),
            SliceHeader(
                record=record(row),
                acquisition=Acquisition(**{name: columns[name][row] for name in _ACQUISITION_TYPES}),
                **{name: columns[name][row] for name in _HEADER_TYPES},
            ),
        )
        for row in range(len(table))
    ]


def file_names(table: Table) -> list[str]:
    """Return the file names of a table of headers."""
    return [os.fsdecode(name) for name in table["name"].to_pylist()]


def instances(headers: Table) -> Column:
    """Return the SOP instance UID of each slice, with the number of its frame from the second on."""
    sop_uids, frame_numbers = to_numpy(headers, "sop_uid"), to_numpy(headers, "frame_number")
    later = np.flatnonzero(frame_numbers > 1)
    sop_uids[later] = [f"{uid}\0{n:04d}" for uid, n in zip(sop_uids[later], frame_numbers[later], strict=True)]
    return sop_uids


def write_note(path: Path, table: Table, refusals: Iterable[Refusal], *, plan_digest: str = "") -> None:
    """Write a table and the refusals that came with it. plan_digest: of what was to be written.

    Raises OutOfResourcesError when the disk is full.
    """
    told = [[one.path, str(one.reason), one.detail, one.sop_uid] for one in refusals]
    metadata = {_REFUSALS: as_json(told), _PLAN_DIGEST: plan_digest}
    told_table = table.replace_schema_metadata(metadata)
    with atomic_writer(path) as file, pa.ipc.new_file(file, told_table.schema, options=_PACKED) as writer:
        writer.write_table(told_table)


def plan_digest_of(path: Path) -> str:
    """Read the digest that `write_note` was given."""
    return str(_metadata_of(path)[_PLAN_DIGEST].decode())


def refusals_of(path: Path) -> list[Refusal]:
    """Read only the refusals that `write_note` was given."""
    return _told(_metadata_of(path))


def read_note(path: Path) -> tuple[Table, list[Refusal]]:
    """Read what `write_note` wrote."""
    with pa.OSFile(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
    return table.replace_schema_metadata(None), _told(table.schema.metadata)


def _metadata_of(path: Path) -> dict[bytes, bytes]:
    with pa.OSFile(str(path)) as file:
        metadata: dict[bytes, bytes] = pa.ipc.open_file(file).schema.metadata
    return metadata


def _told(metadata: dict[bytes, bytes]) -> list[Refusal]:
    told = json.loads(metadata[_REFUSALS])
    return [Refusal(path, reason, detail, sop_uid=sop_uid) for path, reason, detail, sop_uid in told]


def read_notes(paths: Sequence[Path]) -> tuple[Table, list[Refusal]]:
    """Return the rows of all files, and all refusals, in the order of the files."""
    notes = [read_note(path) for path in paths]
    tables = [table for table, _ in notes if len(table)] or [headers_to_table([])]
    return pa.concat_tables(tables), [refusal for _, refused in notes for refusal in refused]


def read_columns(paths: Sequence[Path], names: Sequence[str]) -> dict[str, Column]:
    """Return columns of the tables in all files, without the memory of the others."""
    taken = pa.concat_tables([read_note(path)[0].select(names) for path in paths])
    return {name: to_numpy(taken, name) for name in names}


def to_numpy(table: Table, name: str) -> Column:
    """Return a column as an array; text becomes objects, vectors a matrix."""
    column = table[name].combine_chunks()
    if pa.types.is_fixed_size_list(column.type):
        return np.asarray(column.flatten().to_numpy()).reshape(len(column), column.type.list_size)
    if pa.types.is_string(column.type):
        return texts_to_numpy(column.dictionary_encode())
    return np.asarray(column.to_numpy(zero_copy_only=False))
