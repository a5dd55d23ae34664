"""Tables of a store: Parquet files of known columns, which are checked before anything is read into memory."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rsna_e2e.store.layout import PREPARE_AGAIN, Column, StoreError

# A row of a genuine table, with its names and checksum, takes tens of bytes; one of a table made to fill the memory,
# next to none.
ROW_BYTES = 1
MOST_PACKED = 256  # zstd may pack zeros more than that; no column is all zeros and stored in full
SMALL_BYTES = 1 << 20  # what any table may take unpacked

_ARROW_TYPES = {
    "str": pa.string(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "uint64": pa.uint64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
}


def write_table(path: Path, columns: Mapping[str, Column]) -> None:
    """Write columns of equal length as Parquet; columns of objects hold text."""
    arrays = {name: pa.array(c, pa.string() if c.dtype == object else None) for name, c in columns.items()}
    pq.write_table(pa.table(arrays), path, compression="zstd")


def read_table(path: Path, kinds: Mapping[str, str], *, n_rows: int) -> dict[str, Column]:
    """Read Parquet columns; text becomes objects, equal texts of a column the same one.

    kinds: the names of all columns and what they hold, as in `INDEX_COLUMNS`. Raises StoreError when the file has
    others, another number of rows, or claims more than its size can hold.
    """
    try:
        with pq.ParquetFile(path, memory_map=False) as file:
            schema = file.schema_arrow
            found = dict(zip(schema.names, schema.types, strict=True))
            if len(schema.names) != len(kinds) or found != {name: _ARROW_TYPES[kind] for name, kind in kinds.items()}:
                raise _damaged(path, "its columns are not those of a store")
            if file.metadata.num_rows != n_rows:
                raise _damaged(path, f"{file.metadata.num_rows} rows, expected {n_rows}")
            if not _is_plausible(file.metadata, path.stat().st_size):
                raise _damaged(path, "it claims more than a file of its size can hold")
            table = file.read()
        if any(column.null_count for column in table.columns):
            raise _damaged(path, "some values are missing")
        return {name: _to_numpy(column) for name, column in zip(table.column_names, table.columns, strict=True)}
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, type(error).__name__) from None


def _is_plausible(metadata: Any, n_bytes: int) -> bool:
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    unpacked = sum(group.column(i).total_uncompressed_size for group in groups for i in range(group.num_columns))
    return bool(metadata.num_rows * ROW_BYTES <= n_bytes and unpacked <= SMALL_BYTES + MOST_PACKED * n_bytes)


def _damaged(path: Path, what: str) -> StoreError:
    return StoreError(f"{path}: damaged ({what}). {PREPARE_AGAIN}")


def _to_numpy(column: Any) -> Column:
    if not pa.types.is_string(column.type):
        return np.asarray(column.to_numpy())
    codes = column.combine_chunks().dictionary_encode()
    texts = np.array(codes.dictionary.to_pylist(), dtype=object)
    return np.asarray(texts[codes.indices.to_numpy()])
