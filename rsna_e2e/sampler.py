"""Who comes when: batches of whole series, or of single slices from all of them.

Batches are a pure function of (seed, epoch, batch size); a position in the data is therefore one integer, the number of
batches consumed.
"""

from collections.abc import Sequence

import numpy as np

Batch = tuple[int, ...]


def global_batches(lengths: Sequence[int], *, slice_budget: int, seed: int | None, epoch: int = 0) -> list[Batch]:
    """Group series into batches of at most `slice_budget` slices, every series in exactly one batch.

    lengths: number of slices of each series. seed: order is shuffled by (seed, epoch), or kept when None.
    A series longer than the budget is a batch of its own.
    """
    order = np.arange(len(lengths))
    if seed is not None:
        order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(len(lengths))
    batches: list[Batch] = []
    current: list[int] = []
    used = 0
    for series in map(int, order):
        if current and used + lengths[series] > slice_budget:
            batches.append(tuple(current))
            current, used = [], 0
        current.append(series)
        used += lengths[series]
    if current:
        batches.append(tuple(current))
    return batches


def rank_share(lengths: Sequence[int], *, rank: int, n_ranks: int) -> list[int]:
    """Return which members of a global batch rank `rank` of `n_ranks` works on, in ascending order; may be none.

    lengths: number of slices of each member. The longest go first, each to the rank with the fewest slices so far
    (Graham 1969, LPT), so that every rank knows every share without a word between them.
    """
    load = [0] * n_ranks
    mine: list[int] = []
    for member in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        chosen = load.index(min(load))
        load[chosen] += lengths[member]
        if chosen == rank:
            mine.append(member)
    return sorted(mine)


def slice_batches(rows: Sequence[int], *, batch_size: int, seed: int, epoch: int) -> list[Batch]:
    """Group single slices, drawn from all series alike, into batches of `batch_size`; what is left over waits.

    rows: store rows. The order is a pure function of (seed, epoch).
    """
    order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(len(rows))
    whole = len(rows) // batch_size * batch_size if len(rows) >= batch_size else len(rows)
    return [tuple(rows[i] for i in order[start : start + batch_size]) for start in range(0, whole, batch_size)]
