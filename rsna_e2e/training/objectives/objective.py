"""What the trainer asks of an objective, whatever it minimises."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from rsna_e2e.loader.batch import SeriesBatch


class Objective(Protocol):
    """What one phase minimises. names: of the losses to report, the first is `loss`."""

    names: tuple[str, ...]

    @property
    def has_series_loss(self) -> bool:
        """Whether there is a loss of series to report."""

    @property
    def summed(self) -> Iterable[nn.Parameter]:
        """The weights whose gradients come from this rank's images alone, and are summed over ranks."""

    def set_modes(self, *, frozen: Sequence[nn.Module]) -> None:
        """Put the model into the mode of a step. frozen: the modules that do not learn."""

    def totals(self, batches: Sequence[SeriesBatch]) -> Any:
        """Return what the losses of each of these batches are to be divided by, so that they add up."""

    def backward(
        self,
        batch: SeriesBatch,
        totals: Any,
        *,
        step: int,
        scaler: torch.amp.GradScaler,
        before_last: Callable[[], None],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add this batch's gradients; return its parts of the losses to report, and the error of recomputation.

        Every rank takes part, also those without slices. before_last: called before the pass that leaves the gradients
        of `summed` final.
        """

    def of_all_ranks(self, reported: torch.Tensor) -> torch.Tensor:
        """Return the losses to report of all ranks."""
