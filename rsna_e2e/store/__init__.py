"""The study store: a folder of int16 HU shards, a slice index, labels and refusals, that is whole or not there.

STORE/store.json        what this is: format version, task, hashes, sizes; written last
STORE/index.parquet     one row per slice, series after series, slices in geometric order
STORE/labels.parquet    the labels of the same rows, NaN where there is none
STORE/refusals.parquet  every file or slice not taken, with a stable reason code
STORE/shards/*.h5       HU, one chunk per slice, found by byte offset without the HDF5 library
"""

from rsna_e2e.store.layout import FORMAT_VERSION, StoreError
from rsna_e2e.store.reader import SeriesSpan, Store, is_store, rows_of
from rsna_e2e.store.shards import StoredPixels, write_shard
from rsna_e2e.store.writer import StoreWriter

__all__ = [
    "FORMAT_VERSION",
    "SeriesSpan",
    "Store",
    "StoreError",
    "StoreWriter",
    "StoredPixels",
    "is_store",
    "rows_of",
    "write_shard",
]
