import numpy as np
import pytest

from rsna_e2e.sampler import global_batches, rank_share, slice_batches

LENGTHS = [int(n) for n in np.random.default_rng(0).integers(1, 61, 200)]


def test_batches_by_hand_without_shuffling() -> None:
    assert global_batches([30, 40, 20, 100, 5], slice_budget=70, seed=None) == [(0, 1), (2,), (3,), (4,)]


def test_every_series_comes_once_and_batches_keep_the_budget() -> None:
    batches = global_batches(LENGTHS, slice_budget=96, seed=3, epoch=5)
    assert sorted(s for batch in batches for s in batch) == list(range(len(LENGTHS)))
    assert all(sum(LENGTHS[s] for s in batch) <= 96 for batch in batches)


def test_order_depends_on_seed_and_epoch_and_nothing_else() -> None:
    first = global_batches(LENGTHS, slice_budget=96, seed=3, epoch=5)
    assert first == global_batches(LENGTHS, slice_budget=96, seed=3, epoch=5)
    assert first != global_batches(LENGTHS, slice_budget=96, seed=3, epoch=6)
    assert first != global_batches(LENGTHS, slice_budget=96, seed=4, epoch=5)


def test_a_series_longer_than_the_budget_is_a_batch_of_its_own() -> None:
    assert (1,) in global_batches([10, 500, 10], slice_budget=96, seed=None)


def test_slices_are_mixed_and_what_is_left_over_waits() -> None:
    rows = list(range(100, 200))
    batches = slice_batches(rows, batch_size=32, seed=1, epoch=1)
    drawn = [row for batch in batches for row in batch]
    assert [len(batch) for batch in batches] == [32, 32, 32]
    assert len(set(drawn)) == 96
    assert set(drawn) <= set(rows)
    assert drawn != sorted(drawn)
    assert batches != slice_batches(rows, batch_size=32, seed=1, epoch=2)
    assert slice_batches(rows[:5], batch_size=32, seed=1, epoch=1)[0] != ()


def test_shares_of_the_ranks_by_hand() -> None:
    lengths = [10, 40, 20, 30]  # 40 to rank 0, 30 to rank 1, 20 to rank 1, 10 to rank 0
    assert rank_share(lengths, rank=0, n_ranks=2) == [0, 1]
    assert rank_share(lengths, rank=1, n_ranks=2) == [2, 3]


@pytest.mark.parametrize("n_ranks", [1, 2, 3, 4])
def test_every_series_of_a_batch_goes_to_one_rank_and_loads_are_balanced(n_ranks: int) -> None:
    shares = [rank_share(LENGTHS, rank=rank, n_ranks=n_ranks) for rank in range(n_ranks)]
    assert sorted(i for share in shares for i in share) == list(range(len(LENGTHS)))
    loads = [sum(LENGTHS[i] for i in share) for share in shares]
    assert max(loads) - min(loads) <= max(LENGTHS)


def test_a_rank_may_have_nothing() -> None:
    assert [rank_share([50], rank=rank, n_ranks=2) for rank in (0, 1)] == [[0], []]
