"""Consistency of predictions with a task's tree of labels, and the nearest predictions that are consistent.

A label holds where its probability is above 0.5. Which labels may hold together is `Labels.tree`, and which state of it
goes with positive slices is `Task.state_of_slices`. What is decided in one group of a tree changes no other's cost, so
the cheapest way through each group, from the leaves up, is the cheapest of all.
"""

# N slices, L their labels, S series, M their labels

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.records import Float64Array, Rows
from rsna_e2e.tasks.task import Labels, Task
from rsna_e2e.tasks.tree import Choice, Some

BoolArray = npt.NDArray[np.bool_]
Group = Choice | Some

# What becomes of a probability that must change sides: 0.5 does not hold; the other reads back as more than that from
# any text with three digits or more.
ABOVE, BELOW = 0.5 + 2**-10, 0.5


def violations(slices_NL: Float64Array, series_of_slice_N: Rows, series_SM: Float64Array, task: Task) -> Rows:
    """Return how many values of each series and its slices must change sides for the tree to be obeyed, at least [S].

    Takes probabilities or truth; NaN, which is unknown, is on either side. series_of_slice_N: the row of each slice's
    series. All 0 for a task without a tree.
    """
    if not task.series.tree:
        return np.zeros(len(series_SM), dtype=np.int64)
    slices = _Costs.of_changes(slices_NL[:, task.headline_index])
    way = _cheapest(task, _Costs.of_changes(series_SM), _by_series(slices, series_of_slice_N, len(series_SM)))
    return way.cost.astype(np.int64)


def project(
    slices_NL: Float64Array, series_of_slice_N: Rows, series_SM: Float64Array, task: Task
) -> tuple[Float64Array, Float64Array]:
    """Return the nearest probabilities of slices and series that obey the tree; what obeys it already stays as it is.

    Nearest: by the sum of Kullback-Leibler divergences KL(given || returned) over the labels of the series and the
    headline of its slices, weighted as the score weighs them, with the mean probability of the slices for their share
    of positives. Other labels of slices stay as they are.
    """
    is_broken_S = violations(slices_NL, series_of_slice_N, series_SM, task) > 0
    if not is_broken_S.any():
        return slices_NL, series_SM
    headline, n_series = task.headline_index, len(series_SM)
    slices_N = slices_NL[:, headline]
    sum_S = np.bincount(series_of_slice_N, weights=slices_N, minlength=n_series)
    mean_S = sum_S / np.maximum(np.bincount(series_of_slice_N, minlength=n_series), 1)
    slices = _Costs.of_moves(slices_N, task.slices.weights[headline] * mean_S[series_of_slice_N])
    series = _Costs.of_moves(series_SM, np.array(task.series.weights))
    way = _cheapest(task, series, _by_series(slices, series_of_slice_N, n_series))
    moved_NL = slices_NL.copy()
    if task.state_of_slices:
        is_positive_S = way.branch == task.series.tree[0].branches.index(task.state_of_slices)
        moved_NL[:, headline] = _moved_slices(slices_N, series_of_slice_N, is_positive_S)
    moved_SM = np.where(way.holds, _raised(series_SM), _lowered(series_SM))
    return (
        np.where(is_broken_S[series_of_slice_N, None], moved_NL, slices_NL),
        np.where(is_broken_S[:, None], moved_SM, series_SM),
    )


def divergence(p: Float64Array, q: Float64Array) -> Float64Array:
    """Return the Kullback-Leibler divergence of Bernoulli distributions, KL(p || q), in nats; 0 < q < 1."""
    with np.errstate(divide="ignore", invalid="ignore"):
        present = np.where(p > 0, p * np.log(p / q), 0.0)
        absent = np.where(p < 1, (1 - p) * np.log((1 - p) / (1 - q)), 0.0)
    total: Float64Array = present + absent
    return total


def _raised(probability: Float64Array) -> Float64Array:
    return np.where(probability > BELOW, probability, ABOVE)


def _lowered(probability: Float64Array) -> Float64Array:
    return np.minimum(probability, BELOW)


def _moved_slices(slices_N: Float64Array, series_of_slice_N: Rows, is_positive_S: BoolArray) -> Float64Array:
    """Raise the highest slice of each series that is positive, and lower all slices of the others."""
    moved_N = np.where(is_positive_S[series_of_slice_N], slices_N, _lowered(slices_N))
    order_N = np.lexsort((-slices_N, series_of_slice_N))
    series, firsts = np.unique(series_of_slice_N[order_N], return_index=True)
    highest = order_N[firsts][is_positive_S[series]]
    moved_N[highest] = _raised(slices_N[highest])
    return moved_N


@dataclass(frozen=True, slots=True)
class _Costs:
    """What it costs that a value is above 0.5, and that it is not, of any shape."""

    above: Float64Array
    below: Float64Array

    @classmethod
    def of_changes(cls, values: Float64Array) -> "_Costs":
        """1 for each value that changes sides; NaN is on either."""
        return cls((values <= BELOW).astype(np.float64), (values > BELOW).astype(np.float64))

    @classmethod
    def of_moves(cls, values: Float64Array, weights: Float64Array) -> "_Costs":
        """Weighted divergence of each value from the nearest on either side."""
        above, below = (weights * divergence(values, moved) for moved in (_raised(values), _lowered(values)))
        return cls(above, below)


def _by_series(slices: _Costs, series_of_slice_N: Rows, n_series: int) -> _Costs:
    """Return what it costs that some slice of a series is positive, and that none is [S]; 0 where it has no slices."""
    some_S = np.full(n_series, np.inf)
    np.minimum.at(some_S, series_of_slice_N, slices.above)
    none_S: Float64Array = np.bincount(series_of_slice_N, weights=slices.below, minlength=n_series).astype(np.float64)
    return _Costs(np.where(np.isinf(some_S), 0.0, some_S), none_S)


@dataclass(frozen=True, slots=True)
class _Way:
    """A cheapest way through a part of the tree: its cost [S], which labels hold in it [S, M], and the branch that was
    chosen in its first group [S]."""

    cost: Float64Array
    holds: BoolArray
    branch: Rows


def _cheapest(task: Task, series: _Costs, slices: _Costs) -> _Way:
    """Return the cheapest way through the whole tree, with what its root says of the slices."""
    root, state = task.series.tree[0], task.state_of_slices
    of_slices = [slices.above if branch == state else slices.below for branch in root.branches] if state else []
    return _Walk(task.series, series).choice(root, of_slices)


@dataclass(frozen=True, slots=True)
class _Walk:
    """The way through a tree by what it costs that each label holds, and that it does not, [S, M]."""

    labels: Labels
    costs: _Costs

    def choice(self, group: Group, further: Sequence[Float64Array] = ()) -> _Way:
        """Return the cheapest way in which exactly one branch holds; `further` costs [S] come with each of them."""
        ways = [self._with(branch) for branch in group.branches]
        clear = [self._without(branch) for branch in group.branches]
        costs = [
            way.cost + sum(other for place, other in enumerate(clear) if place != own) for own, way in enumerate(ways)
        ]  # sums, not differences of sums: what costs nothing costs exactly 0
        total_BS = np.array(costs) + (np.array(further) if further else 0.0)
        branch_S = total_BS.argmin(axis=0)
        chosen = (branch_S, np.arange(len(branch_S)))
        return _Way(total_BS[chosen], np.array([way.holds for way in ways])[chosen], branch_S)

    def some(self, group: Group) -> _Way:
        """Return the cheapest way in which at least one branch holds."""
        ways = [self._with(branch) for branch in group.branches]
        with_BS = np.array([way.cost for way in ways])
        without_BS = np.array([self._without(branch) for branch in group.branches])
        takes_BS = with_BS < without_BS
        least_S = (with_BS - without_BS).argmin(axis=0)
        takes_BS[least_S, np.arange(len(least_S))] = True
        holds = np.any(np.array([way.holds for way in ways]) & takes_BS[..., None], axis=0)
        return _Way(np.where(takes_BS, with_BS, without_BS).sum(axis=0), holds, least_S)

    def _with(self, branch: str) -> _Way:
        """Return the cheapest way in which a branch holds, and each group that is given it."""
        cost, holds = np.zeros(len(self.costs.above)), np.zeros(self.costs.above.shape, dtype=bool)
        if branch in self.labels.names:
            label = self.labels.index(branch)
            cost, holds[:, label] = cost + self.costs.above[:, label], True
        for group in self._given(branch):
            way = self.choice(group) if isinstance(group, Choice) else self.some(group)
            cost, holds = cost + way.cost, holds | way.holds
        return _Way(cost, holds, np.zeros(len(cost), dtype=np.int64))

    def _without(self, branch: str) -> Float64Array:
        """Return what it costs [S] that neither a branch holds nor any that hangs on it."""
        cost = np.zeros(len(self.costs.below))
        if branch in self.labels.names:
            cost = cost + self.costs.below[:, self.labels.index(branch)]
        for group in self._given(branch):
            cost = sum((self._without(each) for each in group.branches), cost)
        return cost

    def _given(self, branch: str) -> list[Group]:
        return [group for group in self.labels.tree if group.given == branch]
