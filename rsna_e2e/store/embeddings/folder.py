"""A folder of embeddings, opened: returns the vectors of rows of the store, averaged over the views."""

# n rows asked for, D width

from itertools import pairwise
from pathlib import Path

import numpy as np

from rsna_e2e.config import View
from rsna_e2e.core.records import Float32Array, Rows
from rsna_e2e.store import Store
from rsna_e2e.store.embeddings.layout import EmbeddingsError, Manifest, damaged, read_manifest
from rsna_e2e.store.embeddings.shards import Shard, open_shard

_NOWHERE = -1


class EmbeddingFolder:
    """The embeddings of one classifier; open them with `EmbeddingFolder.open`. Threads may share it."""

    def __init__(self, path: Path, manifest: Manifest, store: Store, shards: dict[View, list[Shard]]) -> None:
        self.path, self.manifest, self._store, self._shards = path, manifest, store, shards
        self._places = {view: _places(shards[view], len(store)) for view in manifest.views}

    @classmethod
    def open(cls, path: Path, store: Store) -> "EmbeddingFolder":
        """Open a folder of embeddings of `store`.

        Raises EmbeddingsError when it is missing, unfinished, of another version or store, or damaged, or when its
        views are not of the same slices.
        """
        manifest = read_manifest(path)
        if manifest.source.store_hash != store.data_hash:
            raise EmbeddingsError(
                f"{path}: embeddings of another store than {store.path}. Give the store that they were made from"
            )
        shards: dict[View, list[Shard]] = {view: [] for view in manifest.views}
        for entry in manifest.shards:
            shard = open_shard(path / entry.name, store)
            is_ours = shard.source_sha256 == manifest.source.sha256 and shard.width == manifest.width
            if shard.entry != entry or not is_ours:
                raise damaged(shard.path)
            shards[entry.view].append(shard)
        opened = cls(path, manifest, store, shards)
        opened._check_views()
        return opened

    def read(self, rows: Rows) -> Float32Array:
        """Return the embeddings [n, D] of these rows of the store, the mean over the views.

        Raises EmbeddingsError for a row that has none, and when they are damaged.
        """
        total_nD, *others = (self._read_view(view, rows) for view in self.manifest.views)
        for values_nD in others:
            total_nD += values_nD
        return total_nD / np.float32(1 + len(others)) if others else total_nD

    def _read_view(self, view: View, rows: Rows) -> Float32Array:
        shard, position = (place[rows] for place in self._places[view])
        if (shard == _NOWHERE).any():
            key = self._store.index["series_key"][rows[np.argmin(shard)]]
            raise EmbeddingsError(f"{self.path}: no embeddings of series {key[:8]}. Run embed with --split all")
        order = np.lexsort((position, shard))
        sorted_nD = np.empty((len(rows), self.manifest.width), dtype="<f4")
        shard, position = shard[order], position[order]
        breaks = np.flatnonzero((np.diff(shard) != 0) | (np.diff(position) != 1)) + 1
        for start, stop in pairwise([0, *breaks.tolist(), len(rows)]):
            self._shards[view][shard[start]].read(int(position[start]), sorted_nD[start:stop])
        values_nD = np.empty_like(sorted_nD)
        values_nD[order] = sorted_nD
        return values_nD

    def _check_views(self) -> None:
        first, *others = ((view, shard != _NOWHERE) for view, (shard, _) in self._places.items())
        for view, is_there in others:
            n_lacking = int((first[1] != is_there).sum())
            if n_lacking:
                raise EmbeddingsError(
                    f"{self.path}: {n_lacking} slices have only one of the views {first[0]} and {view}. Add the other"
                )


def _places(shards: list[Shard], n_slices: int) -> tuple[Rows, Rows]:
    """For every row of the store: which of the shards its embedding is in, and at which position. Raises for two."""
    shard_N = np.full(n_slices, _NOWHERE, dtype=np.int64)
    position_N = np.full(n_slices, _NOWHERE, dtype=np.int64)
    for index, shard in enumerate(shards):
        if (shard_N[shard.rows] != _NOWHERE).any():
            raise EmbeddingsError(f"{shard.path}: holds slices that another shard also holds. Remove one of the two")
        shard_N[shard.rows] = index
        position_N[shard.rows] = np.arange(len(shard.rows))
    return shard_N, position_N
