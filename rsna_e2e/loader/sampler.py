"""Batch sampling: whole series, or single slices drawn across series.

Batches are a pure function of (seed, epoch, batch size); a position in the data is therefore one integer, the number of
batches consumed.
"""

from collections.abc import Sequence

import numpy as np

from rsna_e2e.core.errors import UsageError

Batch = tuple[int, ...]


def global_batches(lengths: Sequence[int], *, slice_budget: int, seed: int | None, epoch: int = 0) -> list[Batch]:
    """Group series into batches of at most `slice_budget` slices, every series in exactly one batch.

    lengths: number of slices of each series. seed: order is shuffled by (seed, epoch), or kept when None.
    A series longer than the budget is a batch of its own.
    """
    batches: list[Batch] = []
    current: list[int] = []
    used = 0
    for series in _order(len(lengths), seed=seed, epoch=epoch):
        if current and used + lengths[series] > slice_budget:
            batches.append(tuple(current))
            current, used = [], 0
        current.append(series)
        used += lengths[series]
    if current:
        batches.append(tuple(current))
    return batches


def series_batches(n_series: int, *, batch_size: int, seed: int | None, epoch: int = 0) -> list[Batch]:
    """Group series into batches of `batch_size`, the last one maybe smaller; the order is as in `global_batches`."""
    order = _order(n_series, seed=seed, epoch=epoch)
    return [tuple(order[start : start + batch_size]) for start in range(0, n_series, batch_size)]


def slice_batches(rows: Sequence[int], *, batch_size: int, seed: int, epoch: int) -> list[Batch]:
    """Group single slices, shuffled across all series, into batches of `batch_size`.

    rows: store rows. A remainder is left out of the epoch, unless it is all there is. The order is a pure function of
    (seed, epoch).
    """
    order = _order(len(rows), seed=seed, epoch=epoch)
    whole = len(rows) // batch_size * batch_size if len(rows) >= batch_size else len(rows)
    return [tuple(rows[i] for i in order[start : start + batch_size]) for start in range(0, whole, batch_size)]


def balanced_rows(positives: Sequence[int], negatives: Sequence[int], *, seed: int, epoch: int) -> list[int]:
    """Return all positives and as many negatives, in rotation: none comes again before all have come.

    epoch: from 1; negatives are in one order of `seed`, and every epoch goes on where the one before it ended. Raises
    UsageError without a positive, or with fewer negatives.
    """
    _check_balance(len(positives), len(negatives), "")
    order = _order(len(negatives), seed=seed)
    first = (epoch - 1) * len(positives)
    turn = (order[i % len(order)] for i in range(first, first + len(positives)))
    return [*positives, *(negatives[i] for i in turn)]


def balanced_shard_rows(
    positives: Sequence[int],
    negatives: Sequence[int],
    *,
    n_shards: int,
    seed: int,
    epoch: int,
    setting: str = "sampling",
) -> list[int]:
    """Return all positives and as many negatives, drawn without repetition from one of `n_shards` parts of them.

    The parts are equal, in the order given, and epoch e, from 1, draws from part e modulo `n_shards`, as the published
    solution of RSNA-STR Pulmonary Embolism 2020 (EC601) did; a negative may come again before all have come. setting:
    of the slice phase that asks for it, sampling or validation_sampling. Raises UsageError without a positive, or with
    fewer negatives in any part.
    """
    _check_balance(len(positives), len(negatives) // n_shards, f" in each of {n_shards} shards", setting=setting)
    part = np.array_split(np.asarray(negatives), n_shards)[epoch % n_shards]
    rng = np.random.Generator(np.random.Philox(key=[seed, epoch]).jumped())  # not the numbers that order the batches
    return [*positives, *map(int, rng.choice(part, len(positives), replace=False))]


def _check_balance(n_positives: int, n_negatives: int, where: str, *, setting: str = "sampling") -> None:
    is_training = setting == "sampling"
    kind = "training" if is_training else "held-out"
    instead = f"--set slice_phase.{setting}=all"
    instead += " or fewer slice_phase.negative_shards" if where and is_training else ""
    if n_positives == 0:
        raise UsageError(f"no {kind} slice is positive: there is nothing to balance. Use {instead}")
    if n_negatives < n_positives:
        raise UsageError(
            f"{n_positives} {kind} slices are positive and only {n_negatives}{where} negative: they cannot be "
            f"balanced without repetition. Use {instead}"
        )


def _order(n: int, *, seed: int | None, epoch: int = 0) -> list[int]:
    order = np.arange(n)
    if seed is not None:
        order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(n)
    return [int(i) for i in order]
