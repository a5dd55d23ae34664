"""What all loaders of whole series have in common."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from rsna_e2e.batch import StudyBatch
from rsna_e2e.sampler import Batch


class SeriesLoader(Protocol):
    """Groups series, given by their positions in a store, into batches, and loads those. backend: by what means."""

    backend: str

    def group(self, positions: Sequence[int], *, epoch: int | None = None) -> list[Batch]:
        """Group series into batches; shuffled when an epoch is given."""

    def n_slices(self, batch: Batch) -> int:
        """Number of slices in a batch."""

    def load(self, batches: Sequence[Batch], *, epoch: int | None) -> Iterator[StudyBatch]:
        """Yield this rank's share of the batches, in the given order; augmented where that is done and wanted."""
