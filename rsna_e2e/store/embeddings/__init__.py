"""Stored embeddings of a store's slices by an image classifier, in a folder that says what they were made from.

In go vectors [n, D] with the rows of the store that they belong to; out come the vectors of any rows, checked. The
folder:

FOLDER/manifest.json       what this is: format version, source, views, width, every shard with its checksum; last
FOLDER/<view>-<block>.h5   one view of up to 50,000 slices: embedding [n, D] float32, and beside it store_row, image_id,
                           series_key and the checksum of every row

A shard appears whole or not at all, and says which source it belongs to, so a folder that was not finished is gone on
with and never mixed. A row is read by byte offset, without the HDF5 library or its global lock, and checked.
"""

from rsna_e2e.store.embeddings.folder import EmbeddingFolder
from rsna_e2e.store.embeddings.layout import MANIFEST, EmbeddingsError, EmbeddingSource, Manifest, read_manifest
from rsna_e2e.store.embeddings.reader import Embeddings
from rsna_e2e.store.embeddings.writer import SHARD_SLICES, EmbeddingWriter

__all__ = [
    "MANIFEST",
    "SHARD_SLICES",
    "EmbeddingFolder",
    "EmbeddingSource",
    "EmbeddingWriter",
    "Embeddings",
    "EmbeddingsError",
    "Manifest",
    "read_manifest",
]
