"""Input of the data report: slices of a store or of raw files, as columns of a store's index."""

# N slices, S series, L labels

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.records import Float32Array, Float64Array, Refusal
from rsna_e2e.evaluation.inspection.tally import common, plain
from rsna_e2e.store import Store
from rsna_e2e.store.series_order import run_starts
from rsna_e2e.tasks.task import Task

Column = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Slices:
    """Slices [N] of a store or of raw files, series after series, each in geometric order.

    columns: of a store's index by name; what only pixels tell is absent where there is no store. labels: [N, L], NaN
    where there is none. box_rows [K]: the slice of each box; box_edges [K, 4]: x0 y0 x1 y1, in px.
    """

    task: Task
    columns: dict[str, Column]
    labels: Float32Array
    refusals: Sequence[Refusal]
    store: Store | None = None
    box_rows: Rows = field(default_factory=lambda: np.empty(0, np.int64))
    box_edges: Float64Array = field(default_factory=lambda: np.empty((0, 4)))

    def __len__(self) -> int:
        return len(self.columns["series_key"])

    def __getitem__(self, name: str) -> Column:
        return self.columns[name]

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    @property
    def are_radiographs(self) -> bool:
        """Whether these are X-rays, each a series by itself."""
        return self.task.inputs.values == "grey"

    @cached_property
    def first(self) -> Rows:
        """The first row of each series [S]."""
        return run_starts(self["series_key"])

    @cached_property
    def lengths(self) -> Rows:
        """Slices of each series [S]."""
        return np.diff(np.append(self.first, len(self)))

    @cached_property
    def series_of_row(self) -> Rows:
        """The series that each slice belongs to [N]."""
        return np.repeat(np.arange(len(self.first)), self.lengths)

    @cached_property
    def is_train(self) -> npt.NDArray[np.bool_]:
        """Series with any label [S]; of a store, those in its split "train"."""
        if "split" in self:
            return np.asarray(self["split"][self.first] == "train")
        return np.asarray(self.per_series(np.asarray(~np.isnan(self.labels).all(axis=1))) > 0)

    def per_series(self, values_N: Column) -> Column:
        """Return the sum over each series [S, ...]."""
        if not len(self.first):
            return np.zeros((0, *values_N.shape[1:]))
        return np.asarray(np.add.reduceat(values_N.astype(np.float64), self.first, axis=0))

    def each(self) -> Iterator[slice]:
        """Yield the rows of each series."""
        for first, length in zip(self.first.tolist(), self.lengths.tolist(), strict=True):
            yield slice(first, first + length)

    def place(self, row: int) -> dict[str, Any]:
        """Return where a row is, by the name a series has in reports."""
        return {"series": self["series_key"][row][:8], "slice_index": int(self["slice_index"][row])}

    def prevalence_by(self, *columns: Column) -> list[dict[str, Any]]:
        """Return the most common combinations of values, each with the share of labelled slices that have a label."""
        found = common(*columns)["values"]
        for one in found:
            is_such = np.logical_and.reduce(
                [column == value for column, value in zip(columns, one["value"], strict=True)]
            )
            labels_NL = self.labels[is_such].astype(np.float64)
            known_L = (~np.isnan(labels_NL)).sum(axis=0)
            rates = np.nansum(labels_NL, axis=0) / np.where(known_L > 0, known_L, np.nan)
            one["prevalence"] = dict(zip(self.task.slices.names, map(plain, rates), strict=True))
        return found  # type: ignore[no-any-return]
