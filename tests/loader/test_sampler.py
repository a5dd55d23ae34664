import numpy as np
import pytest

from rsna_e2e.core.errors import UsageError
from rsna_e2e.loader.sampler import balanced_rows, balanced_shard_rows, global_batches, slice_batches

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


POSITIVES, NEGATIVES = list(range(1000, 1007)), list(range(2000, 2025))  # 7 and 25


@pytest.mark.parametrize("epoch", range(1, 30))
def test_balanced_epochs_have_all_positives_and_as_many_negatives_once_each(epoch: int) -> None:
    shards = balanced_shard_rows(POSITIVES, NEGATIVES, n_shards=3, seed=5, epoch=epoch)
    for rows in (balanced_rows(POSITIVES, NEGATIVES, seed=5, epoch=epoch), shards):
        assert sorted(rows)[:7] == POSITIVES
        assert len(set(rows)) == len(rows) == 14
        assert set(rows) <= {*POSITIVES, *NEGATIVES}


def test_no_negative_comes_again_before_all_have_come() -> None:
    drawn = [row for epoch in range(1, 26) for row in balanced_rows(POSITIVES, NEGATIVES, seed=5, epoch=epoch)[7:]]
    for start in range(0, len(drawn), 25):  # 25 epochs of 7 are 7 rounds of 25
        assert sorted(drawn[start : start + 25]) == NEGATIVES
    assert drawn[:25] != NEGATIVES


def test_shards_come_in_turn_from_the_second_on() -> None:
    # as published: epoch 1 draws from shard 1 of 0, 1, 2; parts of 25 are 9, 8 and 8
    parts = [set(range(2000, 2009)), set(range(2009, 2017)), set(range(2017, 2025))]
    for epoch, part in ((1, 1), (2, 2), (3, 0), (4, 1)):
        assert set(balanced_shard_rows(POSITIVES, NEGATIVES, n_shards=3, seed=5, epoch=epoch)[7:]) <= parts[part]


def test_the_numbers_of_the_published_rotation() -> None:
    # EC601: 70,000 positives, and as many negatives of one of six shards, make 140,000 samples of an epoch
    rows = balanced_shard_rows(range(70_000), range(10**6, 10**6 + 6 * 94_000), n_shards=6, seed=1, epoch=6)
    assert len(set(rows)) == 140_000
    assert max(rows) < 10**6 + 94_000


def test_balance_is_a_function_of_seed_and_epoch() -> None:
    def draw(seed: int, epoch: int) -> tuple[list[int], list[int]]:
        shard = balanced_shard_rows(POSITIVES, NEGATIVES, n_shards=3, seed=seed, epoch=epoch)
        return balanced_rows(POSITIVES, NEGATIVES, seed=seed, epoch=epoch), shard

    assert draw(1, 4) == draw(1, 4)
    for other in (draw(2, 4), draw(1, 7)):  # epoch 7 draws from the same shard
        assert all(first != second for first, second in zip(draw(1, 4), other, strict=True))


def test_what_cannot_be_balanced_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no training slice is positive.*slice_phase\.sampling=all"):
        balanced_rows([], NEGATIVES, seed=1, epoch=1)
    with pytest.raises(UsageError, match="25 training slices are positive and only 7 negative"):
        balanced_rows(NEGATIVES, POSITIVES, seed=1, epoch=1)
    with pytest.raises(UsageError, match=r"7 .* positive and only 6 in each of 4 shards negative.* or fewer .*_shards"):
        balanced_shard_rows(POSITIVES, NEGATIVES, n_shards=4, seed=1, epoch=1)
    assert len(balanced_rows(POSITIVES, NEGATIVES[:7], seed=1, epoch=9)) == 14
