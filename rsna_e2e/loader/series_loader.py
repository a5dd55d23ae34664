"""What all loaders of whole series have in common."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from rsna_e2e.loader.batch import SeriesBatch
from rsna_e2e.loader.division import Division
from rsna_e2e.loader.sampler import Batch


class SeriesLoader(Protocol):
    """Groups series, given by their positions in a store, into batches, and loads one rank's share of those.

    backend: by what means. division: how batches are divided.
    """

    backend: str
    division: Division

    def group(self, positions: Sequence[int], *, epoch: int | None = None) -> list[Batch]:
        """Group series into batches; shuffled when an epoch is given."""

    def lengths(self, batch: Batch) -> list[int]:
        """Number of slices of each series in a batch."""

    def n_slices(self, batch: Batch) -> int:
        """Number of slices in a batch."""

    def load(self, batches: Sequence[Batch], *, epoch: int | None) -> Iterator[SeriesBatch]:
        """Yield the batches, with this rank's share of their images, in the given order; augmented where wanted."""
