"""The study store: a folder of int16 HU shards, a slice index and refusals, whole or not there; and sets of labels.

In goes what `prepare` decodes: slices in HU with their records, in the order of their series, and refusals; and label
tables, of any number of tasks. Out come the index and the labels of a task in memory, and the HU of any slice by its
row, checked by a checksum each time. A store may come from anywhere: nothing in it is used before it was checked.

STORE/store.json        what this is: format version, hashes, sizes; written last
STORE/index.parquet     one row per slice, series after series, slices in geometric order
STORE/refusals.parquet  every file or slice not taken, with a stable reason code
STORE/shards/*.h5       HU, one chunk per slice, found by byte offset without the HDF5 library
STORE/tasks/NAME/       a label set: labels of the same rows and series for a task, NaN where there is none, and folds
"""

from rsna_e2e.store.checks import StoreFiles
from rsna_e2e.store.codecs import Compression, check_codec
from rsna_e2e.store.layout import FORMAT_VERSION, StoreError
from rsna_e2e.store.reader import SeriesSpan, Store, is_store, rows_of
from rsna_e2e.store.shards import StoredPixels, bytes_on_disk, is_slice, overwrite, read_pixels, write_shard
from rsna_e2e.store.verify import Damage, Verification, by_series, verify_shard, verify_store
from rsna_e2e.store.writer import StoreWriter

__all__ = [
    "FORMAT_VERSION",
    "Compression",
    "Damage",
    "SeriesSpan",
    "Store",
    "StoreError",
    "StoreFiles",
    "StoreWriter",
    "StoredPixels",
    "Verification",
    "by_series",
    "bytes_on_disk",
    "check_codec",
    "is_slice",
    "is_store",
    "overwrite",
    "read_pixels",
    "rows_of",
    "verify_shard",
    "verify_store",
    "write_shard",
]
