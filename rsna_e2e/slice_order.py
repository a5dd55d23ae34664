"""Do slices lie in the order of the body? Neighbours are alike, so positive slices come in few runs.

The labels of a series that was shuffled fall apart into many runs. In RSNA ICH 2019, right order gives 1.4 runs in a
positive series, shuffling 7.2 (counted by others; see `OrderCheck`).
"""

# N slices, S series

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rsna_e2e.records import Float32Array

_LEAST_SERIES = 5  # with fewer that could tell, chance could be at work


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
        """Whether the runs are nearer to those of shuffled series than to the one that a series cannot go below."""
        return self.n_series >= _LEAST_SERIES and self.runs - 1.0 > (self.shuffled_runs - 1.0) / 2 > 0.0

    def __str__(self) -> str:
        if self.n_series == 0:
            return "no series with positive slices"
        said = f"{self.runs:.2f} runs of positive slices in a positive series, {self.shuffled_runs:.2f} if shuffled"
        return f"{said}: LOOKS SHUFFLED" if self.looks_shuffled else said


def check_order(labels_N: Float32Array, lengths: Sequence[int]) -> OrderCheck:
    """Count runs. labels_N: of one label, NaN where unknown, slices of a series together in their order; lengths: [S].

    A series with an unknown slice does not take part.
    """
    runs, shuffled = [], []
    for label_T in np.split(labels_N, np.cumsum(lengths)[:-1]):
        n, k = len(label_T), float(label_T.sum())
        if np.isnan(k) or k == 0:
            continue
        is_positive = label_T > 0
        runs.append(int(is_positive[0]) + int(np.count_nonzero(is_positive[1:] & ~is_positive[:-1])))
        shuffled.append(k * (n - k + 1) / n)
    if not runs:
        return OrderCheck(n_series=0, runs=float("nan"), shuffled_runs=float("nan"))
    return OrderCheck(n_series=len(runs), runs=float(np.mean(runs)), shuffled_runs=float(np.mean(shuffled)))
