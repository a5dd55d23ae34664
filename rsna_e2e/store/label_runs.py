"""Checks the order of slices by their labels: in anatomical order, positive slices of a series form few runs.

In a shuffled series they form many. In RSNA ICH 2019, right order gives 1.4 runs in a
positive series, shuffling 7.2 (counted by others; see `OrderCheck`).
"""

# N slices, S series

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.records import Float32Array

_LEAST_SERIES = 5  # fewer could look shuffled by chance


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderCheck:
    """Runs of positive slices in series that have any.

    n_series: with positive slices, all known. runs: their mean number of runs. shuffled_runs: the mean to be expected
    if each series were shuffled: k (n - k + 1) / n for k positive of n slices, as each positive slice begins a run when
    the one before it is negative or absent.
    """

    n_series: int
    runs: float
    shuffled_runs: float

    @property
    def looks_shuffled(self) -> bool:
        """Whether the number of runs is nearer to that of shuffled series than to 1, the least possible."""
        return self.n_series >= _LEAST_SERIES and self.runs - 1.0 > (self.shuffled_runs - 1.0) / 2 > 0.0

    def __str__(self) -> str:
        if self.n_series == 0:
            return "no series with positive slices"
        can_be_told = self.n_series >= _LEAST_SERIES and self.shuffled_runs > 1.0
        looks = "LOOKS SHUFFLED" if self.looks_shuffled else "looks right" if can_be_told else "too little to tell"
        return (
            f"{looks} (positive slices form {self.runs:.1f} runs a series; shuffled they would form "
            f"{self.shuffled_runs:.1f})"
        )


def check_order(labels_N: Float32Array, lengths: Sequence[int]) -> OrderCheck:
    """Count runs. labels_N: of one label, NaN where unknown, slices of a series together in their order; lengths: [S].

    A series with an unknown slice does not take part.
    """
    n_S, positive_S = np.asarray(lengths), _sums(labels_N.astype(np.float64), lengths)
    takes_part_S = positive_S > 0  # NaN is not
    if not takes_part_S.any():
        return OrderCheck(n_series=0, runs=float("nan"), shuffled_runs=float("nan"))
    n, k, runs = n_S[takes_part_S], positive_S[takes_part_S], positive_runs(labels_N > 0, lengths)[takes_part_S]
    return OrderCheck(n_series=len(n), runs=float(runs.mean()), shuffled_runs=float((k * (n - k + 1) / n).mean()))


def positive_runs(is_positive_N: npt.NDArray[np.bool_], lengths: Sequence[int]) -> npt.NDArray[np.int64]:
    """Return the number of runs of positive slices in each series [S]. lengths: [S], each above 0."""
    first_S = _first(lengths)
    begins_N = is_positive_N.copy()
    begins_N[1:] &= ~is_positive_N[:-1]
    begins_N[first_S] = is_positive_N[first_S]
    return np.asarray(_sums(begins_N.astype(np.int64), lengths))


def _first(lengths: Sequence[int]) -> npt.NDArray[np.int64]:
    return np.cumsum([0, *lengths], dtype=np.int64)[:-1]


def _sums(values_N: npt.NDArray[Any], lengths: Sequence[int]) -> npt.NDArray[Any]:
    """Sum over each series; of no series at all there is nothing to sum."""
    return np.asarray(np.add.reduceat(values_N, _first(lengths))) if len(lengths) else values_N[:0]
