"""One shard: an HDF5 file of int16 HU, one chunk per slice, uncompressed, that readers take apart by byte offset."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import xxhash

from rsna_e2e.hdf5 import new_file
from rsna_e2e.records import Int16Array, Int16Image
from rsna_e2e.store.layout import StoreError


@dataclass(frozen=True, slots=True)
class StoredPixels:
    """Where a slice's HU begin in its shard, and the xxh3_64 of their bytes (int16, little endian)."""

    byte_offset: int
    checksum: int


def write_shard(
    path: Path, slices: Iterable[Int16Image], *, capacity: Mapping[tuple[int, int], int]
) -> list[StoredPixels]:
    """Write HU slices [rows, columns], in the order given, as a shard; each comes from `slices` as it is needed.

    capacity: how many slices of each (rows, columns) come at most. Slices of one shape share a dataset
    `hu_<rows>x<columns>` [n, rows, columns]. The file gets its name after every slice was read back and compared, its
    attribute `complete` was set, and it reached the disk. Raises OSError, on a full disk among others.
    """
    with new_file(path) as file:
        stored = _write_slices(file, slices, capacity)
        file.flush()
        _verify(Path(file.filename), stored)
        file.attrs["complete"] = 1
    return [pixels for pixels, _ in stored]


def read_pixels(path: Path, slices: Sequence[tuple[StoredPixels, Int16Array]]) -> int | None:
    """Read slices by their byte offsets into the arrays beside them, which are contiguous and of their sizes.

    Returns the position of the first whose bytes are missing or not those written, None when all are right. Raises
    OSError when the file cannot be read. Holds nothing open afterwards, so any thread or process may call it.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for position, (pixels, hu) in enumerate(slices):
            n_bytes = os.preadv(descriptor, [hu.data], pixels.byte_offset)
            if n_bytes != hu.nbytes or xxhash.xxh3_64_intdigest(hu.data) != pixels.checksum:
                return position
    finally:
        os.close(descriptor)
    return None


def _write_slices(
    file: h5py.File, slices: Iterable[Int16Image], capacity: Mapping[tuple[int, int], int]
) -> list[tuple[StoredPixels, tuple[int, int]]]:
    """Write the slices and return where each begins, with its shape."""
    datasets = {
        shape: file.create_dataset(
            f"hu_{shape[0]}x{shape[1]}", shape=(n, *shape), maxshape=(n, *shape), chunks=(1, *shape), dtype="<i2"
        )
        for shape, n in sorted(capacity.items())
    }
    counts = dict.fromkeys(datasets, 0)
    written: list[tuple[tuple[int, int], int, int]] = []
    for hu in slices:
        rows, columns = shape = hu.shape
        values = np.ascontiguousarray(hu, dtype="<i2")
        datasets[shape].id.write_direct_chunk((counts[shape], 0, 0), values.data)
        written.append(((rows, columns), counts[shape], xxhash.xxh3_64_intdigest(values.data)))
        counts[shape] += 1
    for shape, dataset in datasets.items():
        if counts[shape] < len(dataset):
            dataset.resize(counts[shape], axis=0)
    file.flush()
    return [
        (StoredPixels(datasets[shape].id.get_chunk_info_by_coord((row, 0, 0)).byte_offset, checksum), shape)
        for shape, row, checksum in written
    ]


def _verify(path: Path, stored: list[tuple[StoredPixels, tuple[int, int]]]) -> None:
    for pixels, shape in stored:
        if read_pixels(path, [(pixels, np.empty(shape, dtype="<i2"))]) is not None:
            raise StoreError(f"{path}: what was written does not read back. Check the disk")
