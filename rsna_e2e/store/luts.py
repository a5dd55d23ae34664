"""The VOI LUTs of a store of X-rays, `luts.parquet`: one row for each that any image has, by its sha256."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.limits import MAX_LUT_ENTRIES
from rsna_e2e.core.records import Column, VoiLut
from rsna_e2e.store.layout import LUTS, PREPARE_AGAIN, StoreError

MOST_BYTES = 1 << 30  # of the entries of all LUTs: a table of 4,096 for each of 131,072 images
_COUNTED = 512  # bytes of a row beside its entries, at most: of one that is a row group of its own
_SCHEMA = pa.schema(
    [("sha256", pa.string()), ("first", pa.int32()), ("bits", pa.int32()), ("entries", pa.binary())]  # uint16, "<u2"
)
_FIRST = (-32768, 65535)  # PS3.3 C.11.2.1.1: SS or US
_BITS = (8, 16)


def is_possible(lut: VoiLut) -> bool:
    """Whether a LUT is one that the standard allows, and no entry has more bits than it says."""
    return (
        1 <= len(lut.entries) <= MAX_LUT_ENTRIES
        and _FIRST[0] <= lut.first <= _FIRST[1]
        and _BITS[0] <= lut.bits <= _BITS[1]
        and int(lut.entries.max()) >> lut.bits == 0
    )


def check_room(raw: Path, n_bytes: int) -> None:
    """Raise BadInputError where the distinct LUTs of the images in `raw` take more bytes than a store may hold."""
    if n_bytes > MOST_BYTES:
        raise BadInputError(
            f"{raw}: the VOI LUTs of its radiographs take {n_bytes:,} bytes in all, and a store holds up to "
            f"{MOST_BYTES:,}. Divide them between several stores"
        )


def luts_to_table(luts: Mapping[str, VoiLut]) -> Any:
    """Return LUTs by their sha256 as an Arrow table."""
    rows = [
        {"sha256": name, "first": lut.first, "bits": lut.bits, "entries": lut.entries.astype("<u2").tobytes()}
        for name, lut in luts.items()
    ]
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def write_luts(path: Path, tables: Iterable[Any]) -> None:
    """Write the file of LUTs from tables of `luts_to_table`, of which several may hold the same; one after the other,
    so that it takes little memory."""
    known: set[str] = set()
    plain = {"use_dictionary": False, "write_statistics": False}  # either would hold entries once more
    with pq.ParquetWriter(path, _SCHEMA, compression="zstd", **plain) as writer:
        for table in tables:
            is_new = [name not in known for name in table["sha256"].to_pylist()]
            known.update(table["sha256"].to_pylist())
            writer.write_table(table.filter(pa.array(is_new, pa.bool_())))


def read_luts(store: Path, index: Mapping[str, Column]) -> dict[str, VoiLut]:
    """Read the LUTs of a store, and check that they are those that its index names.

    Raises StoreError when the file cannot be read, claims more than LUTs can hold, or holds others.
    """
    path = store / LUTS
    wanted = set(index["voi_lut"]) - {""}
    try:
        with pq.ParquetFile(path, memory_map=False) as file:
            if file.schema_arrow != _SCHEMA or file.metadata.num_rows != len(wanted):
                raise _damaged(path, "its rows or columns are not those of the index")
            groups = (file.metadata.row_group(i) for i in range(file.metadata.num_row_groups))
            if sum(group.total_byte_size for group in groups) > MOST_BYTES + _COUNTED * len(wanted):
                raise _damaged(path, "it claims more than LUTs can hold")
            luts = _read_by_row(path, file)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, type(error).__name__) from None
    if luts.keys() != wanted:
        raise _damaged(path, "its LUTs are not those of the index")
    return luts


def _read_by_row(path: Path, file: pq.ParquetFile) -> dict[str, VoiLut]:
    """Read the LUTs of a file one after the other: of an entry that stands in its dictionary once, or of a page that is
    longer than the file says, rows may be far more than they claim together."""
    luts: dict[str, VoiLut] = {}
    n_bytes = 0
    for batch in file.iter_batches(batch_size=1, use_threads=False):
        (n_of_row,) = pc.binary_length(batch["entries"]).to_pylist()
        n_bytes += n_of_row or 0
        if n_bytes > MOST_BYTES:
            raise _damaged(path, "it holds more than LUTs can")
        (row,) = batch.to_pylist()
        luts[row["sha256"]] = _lut(path, row)
    return luts


def _lut(path: Path, row: Mapping[str, Any]) -> VoiLut:
    if None in row.values() or len(row["entries"]) % 2:
        raise _damaged(path, "some values are missing")
    lut = VoiLut(row["first"], row["bits"], np.frombuffer(row["entries"], dtype="<u2"))
    if not is_possible(lut) or lut.sha256 != row["sha256"]:
        raise _damaged(path, f"impossible LUT {str(row['sha256'])[:8]!r}")
    return lut


def _damaged(path: Path, what: str) -> StoreError:
    return StoreError(f"{path}: damaged ({what}). {PREPARE_AGAIN}")
