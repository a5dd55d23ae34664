"""Batches of whole series with stored embeddings instead of images."""

# N slices (packed), D width of an embedding

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from rsna_e2e.config import RunConfig
from rsna_e2e.core.records import Float32Array, Rows
from rsna_e2e.loader.batch import SeriesBatch
from rsna_e2e.loader.division import WHOLE, Division
from rsna_e2e.loader.label_file_order import label_file_places
from rsna_e2e.loader.rank_share import RankShare, make_series_batch, series_share
from rsna_e2e.loader.read_ahead import work_ahead
from rsna_e2e.loader.sampler import Batch
from rsna_e2e.loader.series_loader import SeriesLoader
from rsna_e2e.store import Store
from rsna_e2e.store.embeddings import Embeddings


class EmbeddingLoader(SeriesLoader):
    """Loads stored embeddings [n, D, 1, 1] of one rank's share of each batch.

    The same embeddings come in every epoch: nothing is augmented. With `loader.slice_order` published the slices of a
    series come by x, then y, then z of ImagePositionPatient, then image id; with csv as in the label file. A batch's
    `rows` say which they are.
    """

    backend = "embeddings"

    def __init__(
        self,
        store: Store,
        embeddings: Embeddings,
        config: RunConfig,
        *,
        device: torch.device,
        division: Division = WHOLE,
    ) -> None:
        super().__init__(store, config, division=division)
        self._embeddings, self._device = embeddings, device
        places = {"published": published_places, "csv": label_file_places}.get(config.loader.slice_order)
        self._place_N = None if places is None else places(store)

    def load(self, batches: Sequence[Batch], *, epoch: int | None = None) -> Iterator[SeriesBatch]:
        """Yield the batches, each of positions in `store.series`, in the given order."""
        # Threads only read: one operator that a thread runs by OpenMP slows all those of the model down threefold.
        for share, embeddings_ND in work_ahead(self._read, batches, self._config.loader):
            images_ND11 = torch.from_numpy(embeddings_ND)[:, :, None, None].to(self._device)
            yield make_series_batch(self._store, share, images_ND11, self._device)

    def _read(self, batch: Batch) -> tuple[RankShare, Float32Array]:
        share = self._in_order(series_share(self._store, batch, self.division))
        return share, self._embeddings.read(share.rows)

    def _in_order(self, share: RankShare) -> RankShare:
        """The same share, with the slices of each series in the configured order."""
        if self._place_N is None:
            return share
        series_N = np.repeat(np.arange(len(share.lengths)), share.lengths)
        return replace(share, batch_rows=share.batch_rows[np.lexsort((self._place_N[share.batch_rows], series_N))])


def published_places(store: Store) -> Rows:
    """Return the rank of each slice [N] in the published solution's order; it is used within a series."""
    index = store.index
    by_position = (index["image_id"].astype(str), index["ipp_z_mm"], index["ipp_y_mm"], index["ipp_x_mm"])
    place_N: Rows = np.empty(len(store), dtype=np.int64)
    place_N[np.lexsort(by_position)] = np.arange(len(store))
    return place_N
