"""A shard: an HDF5 file of int16 HU, or of values of X-rays, one chunk per slice, which readers read by byte offset."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import xxhash

from rsna_e2e.core.files import begin_sync
from rsna_e2e.core.hdf5 import HDF5_ERRORS, NotPlainError, flush, new_file, open_plain
from rsna_e2e.core.records import Int16Array, Int16Image, Values
from rsna_e2e.store.codecs import (
    BITSHUFFLE_FILTER,
    MOST_PACKED,
    Bytes,
    Compression,
    as_stored,
    hdf5_filter,
    longest_packed,
    unpack,
)
from rsna_e2e.store.layout import REPAIR, StoreError

PAGE_BYTES = 4096  # slices begin on a page, but those that are smaller than one

_PIECE_BYTES = 1 << 20
_ROOM = 64  # slices that a dataset is lengthened by
_BEGIN_SYNC = 16  # slices after which the disk gets to work

Shape = tuple[int, int]  # rows, columns


@dataclass(frozen=True, slots=True)
class StoredPixels:
    """Where a slice lies in its shard, in bytes, and the xxh3_64 of its HU (int16, little endian).

    packed_checksum: the xxh3_64 of its bytes in the shard where those are packed, else 0. LZ4 has several encodings of
    the same data, so bytes that unpack to the right HU may still be damaged.
    """

    byte_offset: int
    n_bytes: int
    checksum: int
    packed_checksum: int


def write_shard(
    path: Path, slices: Iterable[Int16Image], *, compression: Compression = "none", values: Values = "hu"
) -> list[StoredPixels]:
    """Write slices [rows, columns], in the order given, as a shard; each comes from `slices` as it is needed.

    Slices of one shape share a dataset `hu_<rows>x<columns>` [n, rows, columns], or `grey_...` of X-rays, by what their
    `values` are. The same slices give the same bytes.
    The file gets its name after every slice was read back and compared, its attribute `complete` was set, and it
    reached the disk. Raises OSError, and DiskFullError.
    """
    with new_file(path) as file:
        stored, shapes = _write_slices(file, slices, compression, values)
        flush(file)
        _verify(Path(file.filename), stored, shapes, compression)
        file.attrs["complete"] = 1
    return stored


def bytes_on_disk(n_values: int, compression: Compression) -> int:
    """Return how many bytes of a shard a slice of so many values takes at most."""
    return -(-longest_packed(n_values, compression) // PAGE_BYTES) * PAGE_BYTES


def read_pixels(
    path: Path, slices: Sequence[tuple[StoredPixels, Int16Array]], *, compression: Compression
) -> list[int]:
    """Read slices by their byte offsets into the arrays beside them, which are contiguous and of their sizes.

    Returns the positions of those whose bytes are missing or not those written. Raises OSError when the file cannot be
    read, or is a link. Holds nothing open afterwards, so any thread or process may call it.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        return [i for i, (pixels, hu) in enumerate(slices) if not _read(descriptor, pixels, hu, compression)]
    finally:
        os.close(descriptor)


def frame_checksum(path: Path, places: Iterable[tuple[int, int]]) -> str:
    """Return the xxh3_64, in hex, of everything in a shard but its slices: the HDF5 structure around them.

    places: where each slice begins, and how long it is, in bytes. Raises OSError when the file cannot be read.
    """
    digest = xxhash.xxh3_64()
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        begin = 0
        for offset, n_bytes in [*sorted(places), (os.fstat(descriptor).st_size, 0)]:
            while begin < offset and (piece := os.pread(descriptor, min(offset - begin, _PIECE_BYTES), begin)):
                digest.update(piece)
                begin += len(piece)
            begin = max(begin, offset + n_bytes)
    finally:
        os.close(descriptor)
    return digest.hexdigest()


def overwrite(path: Path, pixels: StoredPixels, values: Int16Array, *, compression: Compression) -> bool:
    """Write the HU of a slice, flat, to its place in the shard, and wait until they are on the disk.

    False, and nothing is written, when the bytes would not be those of before: another version of the library packs
    differently. Raises OSError when the file cannot be written, or is a link.
    """
    stored = as_stored(values, compression)
    if len(stored) != pixels.n_bytes or _packed_checksum(stored, compression) != pixels.packed_checksum:
        return False
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    try:
        n_written = os.pwrite(descriptor, stored.data, pixels.byte_offset)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return n_written == pixels.n_bytes


def is_slice(values: Int16Array, pixels: StoredPixels) -> bool:
    """Whether flat HU have the checksum of a stored slice."""
    return bool(xxhash.xxh3_64_intdigest(values.data) == pixels.checksum)


def check_shard(path: Path, counts: Mapping[Shape, int], compression: Compression, *, values: Values = "hu") -> None:
    """Check that a shard is an HDF5 file with `counts` slices of each shape and of these values; pixels are not read.

    Raises StoreError where it is damaged, or points out of the file.
    """
    with open_shard(path, compression) as file:
        found = {}
        for name, dataset in file.items():
            rows, columns = dataset.shape[1:]
            is_named = name == f"{values}_{rows}x{columns}"
            if not is_named or dataset.chunks != (1, rows, columns) or dataset.dtype != "<i2":
                raise ValueError(name)
            found[rows, columns] = len(dataset)
        if found != counts or file.attrs["complete"] != 1:
            raise ValueError(found)


def chunk_places(path: Path, compression: Compression) -> dict[Shape, list[tuple[int, int]]]:
    """Return what the HDF5 library says of each shape's slices in order: where each lies and how long it is, in bytes.

    Raises StoreError as `check_shard`.
    """
    with open_shard(path, compression) as file:
        places = {}
        for dataset in file.values():
            infos = [dataset.id.get_chunk_info_by_coord((i, 0, 0)) for i in range(len(dataset))]
            places[dataset.shape[1:]] = [(info.byte_offset, info.size) for info in infos]
        return places


@contextmanager
def open_shard(path: Path, compression: Compression) -> Iterator[h5py.File]:
    """Open a shard by the HDF5 library. Raises StoreError for a damaged file, also inside the block."""
    is_packed = compression != "none"
    try:
        with open_plain(
            path, filters=(BITSHUFFLE_FILTER,) if is_packed else (), most_packed=MOST_PACKED if is_packed else 1
        ) as file:
            yield file
    except NotPlainError as error:
        raise StoreError(f"{path}: refused: {error}. Do not use this store") from None
    except HDF5_ERRORS:
        raise StoreError(f"{path}: damaged outside of its pixels. {REPAIR}") from None


def _read(descriptor: int, pixels: StoredPixels, hu: Int16Array, compression: Compression) -> bool:
    if compression == "none":
        is_read = os.preadv(descriptor, [hu.data], pixels.byte_offset) == hu.nbytes
    else:
        chunk = np.empty(pixels.n_bytes, dtype=np.uint8)
        n_read = os.preadv(descriptor, [chunk.data], pixels.byte_offset)
        is_whole = n_read == chunk.nbytes and xxhash.xxh3_64_intdigest(chunk.data) == pixels.packed_checksum
        is_read = is_whole and unpack(chunk, hu)
    return is_read and is_slice(hu, pixels)


def _write_slices(
    file: h5py.File, slices: Iterable[Int16Image], compression: Compression, kind: Values
) -> tuple[list[StoredPixels], list[Shape]]:
    """Write the slices and return where each lies, and its shape."""
    datasets: dict[Shape, h5py.Dataset] = {}
    counts: Counter[Shape] = Counter()
    written: list[tuple[Shape, int, int, int]] = []
    for hu in slices:
        rows, columns = hu.shape
        shape = rows, columns
        number, counts[shape] = counts[shape], counts[shape] + 1
        if number == 0:
            datasets[shape] = _new_dataset(file, f"{kind}_{rows}x{columns}", shape, compression)
        if number % _ROOM == 0:
            datasets[shape].id.set_extent((number + _ROOM, *shape))
        values = np.ascontiguousarray(hu, dtype="<i2").reshape(-1)
        stored = as_stored(values, compression)
        datasets[shape].id.write_direct_chunk((number, 0, 0), stored.data)
        checksum = xxhash.xxh3_64_intdigest(values.data)
        written.append((shape, number, checksum, _packed_checksum(stored, compression)))
        if len(written) % _BEGIN_SYNC == 0:
            begin_sync(file.id.get_vfd_handle())
    for shape, dataset in datasets.items():
        dataset.id.set_extent((counts[shape], *shape))
    flush(file)
    pixels = []
    for shape, number, *checksums in written:
        info = datasets[shape].id.get_chunk_info_by_coord((number, 0, 0))
        pixels.append(StoredPixels(info.byte_offset, info.size, *checksums))
    return pixels, [shape for shape, *_ in written]


def _new_dataset(file: h5py.File, name: str, shape: Shape, compression: Compression) -> h5py.Dataset:
    rows, columns = shape
    return file.create_dataset(
        name,
        shape=(0, rows, columns),
        maxshape=(None, rows, columns),  # so that the file does not depend on how many slices were foreseen
        chunks=(1, rows, columns),
        dtype="<i2",
        **hdf5_filter(compression),
    )


def _packed_checksum(stored: Bytes, compression: Compression) -> int:
    return 0 if compression == "none" else xxhash.xxh3_64_intdigest(stored.data)


def _verify(path: Path, stored: Sequence[StoredPixels], shapes: Sequence[Shape], compression: Compression) -> None:
    sizes = [rows * columns for rows, columns in shapes]
    buffer = np.empty(max(sizes, default=0), dtype="<i2")  # for one after the other
    if read_pixels(path, [(p, buffer[:n]) for p, n in zip(stored, sizes, strict=True)], compression=compression):
        raise StoreError(f"{path}: what was written does not read back. Check the disk")
