"""Counts of right and wrong slices, apart for positive and negative ones, as the source of the embolism system prints
them after every epoch of a slice classifier."""

# N slices

from dataclasses import asdict, dataclass
from typing import Self

import numpy as np

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tasks.metrics import log_loss_cells

THRESHOLD = 0.5  # EC601


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """Slices of one label by truth and prediction: called positive above `THRESHOLD`.

    loss, probability: mean log loss and mean predicted probability of the positive and of the negative slices, NaN
    where there are none.
    """

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int
    positive_loss: float
    negative_loss: float
    positive_probability: float
    negative_probability: float

    @classmethod
    def of(cls, truth_N: Float64Array, probability_N: Float64Array) -> Self:
        """Count slices. truth_N: 0 or 1, NaN where it is unknown: such slices are left out."""
        is_positive, is_negative, is_called = truth_N == 1, truth_N == 0, probability_N > THRESHOLD
        loss_N = log_loss_cells(np.nan_to_num(truth_N), probability_N)
        return cls(
            true_positives=int((is_positive & is_called).sum()),
            false_positives=int((is_negative & is_called).sum()),
            false_negatives=int((is_positive & ~is_called).sum()),
            true_negatives=int((is_negative & ~is_called).sum()),
            positive_loss=_mean(loss_N[is_positive]),
            negative_loss=_mean(loss_N[is_negative]),
            positive_probability=_mean(probability_N[is_positive]),
            negative_probability=_mean(probability_N[is_negative]),
        )

    def plain(self) -> dict[str, float]:
        """Return the numbers by name."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"TP {self.true_positives:,}, FP {self.false_positives:,}, FN {self.false_negatives:,}, TN "
            f"{self.true_negatives:,}; loss of positives {self.positive_loss:.4f}, of negatives "
            f"{self.negative_loss:.4f}; mean probability of positives {self.positive_probability:.3f}, of negatives "
            f"{self.negative_probability:.3f}"
        )


def _mean(values_N: Float64Array) -> float:
    return float(values_N.mean()) if values_N.size else float("nan")
