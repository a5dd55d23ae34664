"""What loaders of images and of stored embeddings share: batches of whole series, and the interface to training."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from rsna_e2e.config import RunConfig
from rsna_e2e.loader.batch import SeriesBatch
from rsna_e2e.loader.division import Division
from rsna_e2e.loader.sampler import Batch, global_batches, series_batches
from rsna_e2e.store import Store

_UNLEARNED_FACTOR = 4  # series in a batch when nothing is learned: darraghdog/rsna, trainlstm.py


class SeriesLoader(ABC):
    """Groups series, given by their positions in `store.series`, into batches, and loads one rank's share of each.

    backend: dali, torch or embeddings. division: how a batch is divided over ranks and chunks.
    """

    backend: str

    def __init__(self, store: Store, config: RunConfig, *, division: Division) -> None:
        self._store, self._config = store, config
        self.division = division

    def group(self, positions: Sequence[int], *, epoch: int | None = None) -> list[Batch]:
        """Group series into batches; shuffled when an epoch is given.

        By `loader.series_per_batch` where it is set, by `loader.slices_per_batch` otherwise.
        """
        loader = self._config.loader
        seed, number = (None, 0) if epoch is None else (self._config.seed, epoch)
        if loader.series_per_batch is None:
            lengths = self.lengths(tuple(positions))
            batches = global_batches(lengths, slice_budget=loader.slices_per_batch, seed=seed, epoch=number)
        else:
            size = loader.series_per_batch * (_UNLEARNED_FACTOR if epoch is None else 1)
            batches = series_batches(len(positions), batch_size=size, seed=seed, epoch=number)
        return [tuple(positions[i] for i in batch) for batch in batches]

    def lengths(self, batch: Batch) -> list[int]:
        """Number of slices of each series in a batch."""
        return [self._store.series[position].n_slices for position in batch]

    def n_slices(self, batch: Batch) -> int:
        """Number of slices in a batch."""
        return sum(self.lengths(batch))

    @abstractmethod
    def load(self, batches: Sequence[Batch], *, epoch: int | None = None) -> Iterator[SeriesBatch]:
        """Yield the batches in the given order, with this rank's share of their images.

        epoch: whose augmentation is drawn, where the loader augments; None for none.
        """
