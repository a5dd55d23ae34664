"""Tables of a store: Parquet files of known columns, which are checked before anything is read into memory."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rsna_e2e.core.records import Column
from rsna_e2e.store.layout import PREPARE_AGAIN, StoreError
from rsna_e2e.store.ranges import FREE_TEXTS, TEXTS

# How much memory a table may take for each byte of its file. A malicious file of a few bytes may claim any amount, but
# genuine ones may be packed well: names that are numbered take a byte each, however long the path before the number.
MOST_PACKED = 4096  # a path can be so long (PATH_MAX of Linux)
SMALL_BYTES = 16 << 20  # what any table may take

_VALUE_BYTES = 8  # of a number, or of what stands for a text
_OTHER_COLUMNS = "its columns are not those of a store"

_ARROW_TYPES = {
    "str": pa.string(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "uint64": pa.uint64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
}


def columns_to_table(columns: Mapping[str, Column]) -> Any:
    """Return columns of equal length as an Arrow table; columns of objects hold text."""
    return pa.table({name: pa.array(c, pa.string() if c.dtype == object else None) for name, c in columns.items()})


def write_table(path: Path, columns: Mapping[str, Column]) -> None:
    """Write columns as Parquet."""
    pq.write_table(columns_to_table(columns), path, compression="zstd")
    release_unused()


def release_unused() -> None:
    """Return memory of freed tables, which Arrow keeps, to the system."""
    pa.default_memory_pool().release_unused()


def read_table(
    path: Path,
    kinds: Mapping[str, str],
    *,
    n_rows: int,
    most_packed: int = MOST_PACKED,
    way_out: str = PREPARE_AGAIN,
) -> dict[str, Column]:
    """Read Parquet columns; text becomes objects, equal texts of a column the same one.

    kinds: the names of all columns and what they hold, as in `INDEX_COLUMNS`. most_packed: bytes of memory for each
    byte of the file. way_out: what to do about damage. Raises StoreError when the file has other columns, another
    number of rows, claims more than its size can hold, or holds texts that are not those of `TEXTS`.
    """
    try:
        return _read(path, kinds, n_rows, most_packed)
    except KeyError:  # a column to be read as a dictionary is not there
        what = _OTHER_COLUMNS
    except _DamagedError as error:
        what = str(error)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        what = type(error).__name__
    raise StoreError(f"{path}: damaged ({what}). {way_out}")


class _DamagedError(Exception):
    """What is wrong with a table."""


def _read(path: Path, kinds: Mapping[str, str], n_rows: int, most_packed: int) -> dict[str, Column]:
    texts = [name for name, kind in kinds.items() if kind == "str"]  # each distinct one is taken once
    with pq.ParquetFile(path, memory_map=False, read_dictionary=texts) as file:
        schema = file.schema_arrow
        found = {name: _value_type(kind) for name, kind in zip(schema.names, schema.types, strict=True)}
        if len(schema.names) != len(kinds) or found != {name: _ARROW_TYPES[kind] for name, kind in kinds.items()}:
            raise _DamagedError(_OTHER_COLUMNS)
        if file.metadata.num_rows != n_rows:
            raise _DamagedError(f"{file.metadata.num_rows} rows, expected {n_rows}")
        if _claimed_bytes(file.metadata) > SMALL_BYTES + most_packed * path.stat().st_size:
            raise _DamagedError("it claims more than a file of its size can hold")
        table = file.read()
    release_unused()  # before texts become objects
    if any(column.null_count for column in table.columns):
        raise _DamagedError("some values are missing")
    return {name: _to_numpy(name, table[name]) for name in table.column_names}


def _claimed_bytes(metadata: Any) -> int:
    """Return the bytes of memory that a table claims to take: unpacked, and as columns."""
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
    unpacked = sum(max(chunk.total_uncompressed_size, 0) for chunk in chunks)
    return int(unpacked + metadata.num_rows * metadata.num_columns * _VALUE_BYTES)


def _value_type(kind: Any) -> Any:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _to_numpy(name: str, column: Any) -> Column:
    if not pa.types.is_dictionary(column.type):
        return np.asarray(column.to_numpy())
    codes = column.unify_dictionaries().combine_chunks()
    texts = texts_to_numpy(codes)
    if name in TEXTS and not (name in FREE_TEXTS and _is_plain(codes.dictionary)):
        is_good = pc.match_substring_regex(codes.dictionary, f"^(?:{TEXTS[name]})$").to_numpy(zero_copy_only=False)
        if not is_good.all():
            raise _DamagedError(f"impossible {name}, row {int(np.argmin(is_good[codes.indices.to_numpy()]))}")
    return texts


def _is_plain(texts: Any) -> bool:
    """Whether texts are printable ASCII alone, as most are; a fast check of their bytes."""
    characters = np.frombuffer(texts.buffers()[2] or b"", dtype=np.uint8)
    return not len(characters) or (characters.min() >= ord(" ") and characters.max() <= ord("~"))


def texts_to_numpy(codes: Any) -> Column:
    """Return a dictionary array of text as objects, equal texts the same one."""
    texts = np.array(codes.dictionary.to_pylist(), dtype=object)
    return np.asarray(texts[codes.indices.to_numpy()])
