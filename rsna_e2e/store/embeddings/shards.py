"""A shard of embeddings: some slices in one view, with the rows and series that they belong to."""

# n slices of a shard, D width

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import xxhash

from rsna_e2e.config import View
from rsna_e2e.core.hdf5 import HDF5_ERRORS, new_file, open_plain
from rsna_e2e.core.records import Float32Array, Rows
from rsna_e2e.store import Store
from rsna_e2e.store.embeddings.layout import EmbeddingsError, EmbeddingSource, ShardEntry, damaged

Append = Callable[[Float32Array], None]

_LONGEST_ID = 6 << 16  # bytes: a name in a zip archive has up to 65,535, which take up to six each when escaped


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """An opened shard, of which nothing is held open. rows [n]: of the store; checksums [n]: xxh3_64 of each embedding.

    byte_offset: where the embeddings begin in the file.
    """

    path: Path
    entry: ShardEntry
    source_sha256: str
    width: int
    rows: Rows
    checksums: npt.NDArray[np.uint64]
    byte_offset: int

    def read(self, first: int, values_nD: Float32Array) -> None:
        """Read consecutive embeddings from number `first` on. Raises EmbeddingsError when they are damaged."""
        size = self.width * 4
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                n_bytes = os.preadv(descriptor, [values_nD.data.cast("B")], self.byte_offset + first * size)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise EmbeddingsError(f"{self.path}: cannot be read: {error.strerror}. Check the disk") from error
        digests = [xxhash.xxh3_64_intdigest(values.data) for values in values_nD]
        if n_bytes != values_nD.nbytes or digests != self.checksums[first : first + len(values_nD)].tolist():
            raise damaged(self.path)


@contextmanager
def shard_writer(
    path: Path, *, source: EmbeddingSource, view: View, store: Store, rows: Rows, width: int
) -> Iterator[Append]:
    """Yield a function that appends embeddings [k, D] of the store's `rows`, in their order, some at a time.

    The file gets its name when it has all of them and is on the disk. Raises EmbeddingsError for numbers that are not
    finite, DiskFullError, OSError where the disk fails.
    """
    checksums: list[int] = []
    with new_file(path, n_bytes=4 * len(rows) * width) as file:
        dataset = file.create_dataset("embedding", shape=(len(rows), width), dtype="<f4")

        def append(values_kD: Float32Array) -> None:
            values_kD = np.ascontiguousarray(values_kD, dtype="<f4")
            if not np.isfinite(values_kD).all():
                raise EmbeddingsError(f"{path}: some embeddings are not finite numbers. Use another checkpoint or file")
            dataset[len(checksums) : len(checksums) + len(values_kD)] = values_kD
            checksums.extend(xxhash.xxh3_64_intdigest(values.data) for values in values_kD)

        yield append
        assert len(checksums) == len(rows), f"{len(checksums)} embeddings of {len(rows)}"
        file["store_row"] = rows.astype("<i8")
        file["checksum"] = np.array(checksums, dtype="<u8")
        for name in ("image_id", "series_key"):
            file[name] = _as_bytes(store, name, rows)
        file.attrs["view"] = view
        file.attrs["source"] = source.model_dump_json()
        file.attrs["source_sha256"] = source.sha256


def open_shard(path: Path, store: Store) -> Shard:
    """Open a shard of `store` with all its checks but those of the embeddings, which are done when they are read.

    Raises EmbeddingsError when it is missing, damaged, or of another store.
    """
    try:
        with open_plain(path) as file:
            shard = _read(path, file, path.stat().st_size)
            ids = {name: file[name][:] for name in ("image_id", "series_key")}
    except HDF5_ERRORS:
        raise damaged(path) from None
    rows = shard.rows
    is_in_store = len(np.unique(rows)) == len(rows) and 0 <= rows.min() and rows.max() < len(store)
    if not is_in_store or any(not np.array_equal(ids[name], _as_bytes(store, name, rows)) for name in ids):
        raise EmbeddingsError(
            f"{path}: embeddings of other slices than those of {store.path}. Give the store that they were made from"
        )
    return shard


def _read(path: Path, file: h5py.File, n_bytes: int) -> Shard:
    """Raises ValueError, among others, for what no writer of ours has written."""
    embedding = _dataset(file, "embedding")
    n, width = embedding.shape
    offset = embedding.id.get_offset()
    if embedding.dtype != "<f4" or not n or not width or offset is None or offset + embedding.nbytes > n_bytes:
        raise ValueError(embedding)
    columns = {}
    for name, kind in (("store_row", "<i8"), ("checksum", "<u8"), ("image_id", "S"), ("series_key", "S")):
        dataset = _dataset(file, name)
        is_of_kind = dataset.dtype.kind == "S" if kind == "S" else dataset.dtype == kind
        if dataset.shape != (n,) or not is_of_kind or dataset.dtype.itemsize > _LONGEST_ID:
            raise ValueError(dataset)
        columns[name] = dataset[:]
    view, source_sha256 = str(file.attrs["view"]), str(file.attrs["source_sha256"])
    digest = xxhash.xxh3_64(f"{view} {source_sha256} {width}".encode())
    for values in columns.values():
        digest.update(np.ascontiguousarray(values).tobytes())
    return Shard(
        path=path,
        entry=ShardEntry.model_validate(
            {"name": path.name, "view": view, "n_slices": n, "n_bytes": n_bytes, "checksum": digest.hexdigest()}
        ),
        source_sha256=source_sha256,
        width=int(width),
        rows=columns["store_row"].astype(np.int64),
        checksums=columns["checksum"].astype(np.uint64),
        byte_offset=int(offset),
    )


def _dataset(file: h5py.File, name: str) -> Any:
    """A dataset that lies in one piece."""
    dataset = file[name]
    if dataset.chunks is not None:
        raise ValueError(name)
    return dataset


def _as_bytes(store: Store, name: str, rows: Sequence[int] | Rows) -> npt.NDArray[np.bytes_]:
    return np.array([str(text).encode() for text in store.index[name][rows]])
