"""How a slice is stored in its shard: as it is, or compressed like HDF5's filter 32008 does (bitshuffle, then LZ4).

Packing and unpacking are done here and not by HDF5, whose global lock admits one thread at a time, and whose filter
trusts the lengths inside a chunk, so that a flipped bit can crash the process. The library is the one that hdf5plugin
brings; its functions are those of bitshuffle.h. Layout of a chunk: length of the values in bytes (8 bytes, big endian),
length of a block in bytes (4), then each block as its packed length (4) and LZ4; what is left of less than 8 values
stands at the end as it is. Source: github.com/kiyo-masui/bitshuffle, README and src/bshuf_h5filter.c.
"""

import ctypes
import struct
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.errors import MissingCapabilityError
from rsna_e2e.core.records import Int16Array

Compression = Literal["none", "bitshuffle-lz4"]
Bytes = npt.NDArray[np.uint8]

BITSHUFFLE_FILTER = 32008  # registered with The HDF Group
BLOCK_VALUES = 8192  # of int16: of 4096 to 32768 the best ratio on noisy slices, at the same speed
MOST_PACKED = 255  # LZ4 cannot make less than one byte of so many (lz4_Block_format.md)

_VALUE_BYTES = 2
_HEAD = struct.Struct(">QI")
_LENGTH = struct.Struct(">I")
_MULTIPLE = 8  # values; bitshuffle turns 8 at a time
_INSTALL = "hdf5plugin is missing; install it with: pip install 'rsna_e2e[compress]'"


def check_codec(compression: Compression) -> None:
    """Raise MissingCapabilityError when slices of this compression can be neither read nor written here."""
    if compression != "none":
        _library()


def hdf5_filter(compression: Compression) -> dict[str, Any]:
    """Return what `h5py.Group.create_dataset` takes so that any HDF5 tool with the filter reads what `pack` makes."""
    if compression == "none":
        return {}
    _library()
    import hdf5plugin

    return dict(hdf5plugin.Bitshuffle(nelems=BLOCK_VALUES, cname="lz4"))


def longest_packed(n_values: int, compression: Compression) -> int:
    """Return how many bytes `n_values` take at most; noise may grow when it is packed."""
    n_bytes = _VALUE_BYTES * n_values
    if compression == "none":
        return n_bytes
    n_blocks = n_values // BLOCK_VALUES + 1
    return _HEAD.size + n_bytes + n_bytes // 255 + n_blocks * (16 + _LENGTH.size)  # LZ4_COMPRESSBOUND of lz4.h


def as_stored(values: Int16Array, compression: Compression) -> Bytes:
    """Return flat int16 as the bytes that a shard holds of them; the same values always give the same bytes."""
    return values.view(np.uint8) if compression == "none" else _pack(values)


def _pack(values: Int16Array) -> Bytes:
    chunk = np.empty(longest_packed(len(values), "bitshuffle-lz4"), dtype=np.uint8)
    _HEAD.pack_into(chunk.data, 0, values.nbytes, BLOCK_VALUES * _VALUE_BYTES)
    n_bytes = _library().bshuf_compress_lz4(
        values.ctypes.data, chunk[_HEAD.size :].ctypes.data, len(values), _VALUE_BYTES, BLOCK_VALUES
    )
    assert n_bytes > 0, n_bytes
    return chunk[: _HEAD.size + n_bytes]


def unpack(chunk: Bytes, values: Int16Array) -> bool:
    """Unpack a chunk into `values`, flat and of its size. False when it cannot be one of so many values.

    Bytes from anywhere are safe: lengths inside the chunk are followed to its end before the library sees it.
    """
    if not _lengths_fit(chunk, len(values)):
        return False
    n_bytes = _library().bshuf_decompress_lz4(
        chunk[_HEAD.size :].ctypes.data, values.ctypes.data, len(values), _VALUE_BYTES, BLOCK_VALUES
    )
    return bool(n_bytes == len(chunk) - _HEAD.size)


def _lengths_fit(chunk: Bytes, n_values: int) -> bool:
    """Whether the blocks of a chunk, each as long as it says, fill the chunk."""
    if len(chunk) < _HEAD.size or _HEAD.unpack_from(chunk.data) != (
        n_values * _VALUE_BYTES,
        BLOCK_VALUES * _VALUE_BYTES,
    ):
        return False
    n_blocks = n_values // BLOCK_VALUES + (n_values % BLOCK_VALUES >= _MULTIPLE)
    place = _HEAD.size
    end = len(chunk) - n_values % _MULTIPLE * _VALUE_BYTES
    for _ in range(n_blocks):
        if place + _LENGTH.size > end:
            return False
        place += _LENGTH.size + _LENGTH.unpack_from(chunk.data, place)[0]
    return place == end


@cache
def _library() -> ctypes.CDLL:
    try:
        from hdf5plugin import PLUGIN_PATH
    except ImportError:
        raise MissingCapabilityError(_INSTALL) from None
    (path,) = Path(PLUGIN_PATH).glob("libh5bshuf.*")
    library = ctypes.CDLL(str(path))
    for function in (library.bshuf_compress_lz4, library.bshuf_decompress_lz4):
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_size_t]
        function.restype = ctypes.c_int64
    return library
