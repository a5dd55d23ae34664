"""Division of a batch over ranks: every slice once, evenly; by whole chunks where norms mix the slices of a chunk."""

import numpy as np
import pytest

from rsna_e2e.loader.division import WHOLE, Chunk, Division, busy_share, rank_shares
from rsna_e2e.loader.sampler import global_batches

LENGTHS = [int(n) for n in np.random.default_rng(0).integers(1, 61, 40)]
MIXES = ([1], [7, 1, 6], [400], [3] * 50, LENGTHS)


def shares_of(lengths: list[int], *, n_ranks: int, chunk_size: int | None, keeps_series: bool) -> list[list[Chunk]]:
    whole = Division(n_ranks=n_ranks, chunk_size=chunk_size, keeps_series=keeps_series)
    divisions = [
        Division(rank=rank, n_ranks=n_ranks, chunk_size=chunk_size, keeps_series=keeps_series)
        for rank in range(n_ranks)
    ]
    shares = [list(division.chunks(lengths)) for division in divisions]
    assert max(sum(map(len, share)) for share in shares) == whole.largest_share(lengths)
    return shares


def test_chunks_of_a_rank_by_hand() -> None:
    by_slices = Division(rank=1, n_ranks=2, chunk_size=3)  # slices 7 to 13 of 14, over the borders of series
    assert by_slices.chunks([7, 1, 6]) == (Chunk(7, 9, 0), Chunk(9, 11, 2), Chunk(11, 14, 4))
    # Chunks of 2, 2, 3 | 1 | 3, 3 slices. The largest first, to the rank with the least: 3 to 0, 3 to 1, 3 to 0, both 2
    # to 1, and 1 to 0
    by_chunks = [Division(rank=rank, n_ranks=2, chunk_size=3, keeps_series=True).chunks([7, 1, 6]) for rank in (0, 1)]
    assert by_chunks == [
        (Chunk(4, 7, 0), Chunk(7, 8, 3), Chunk(11, 14, 4)),
        (Chunk(0, 2, 0), Chunk(2, 4, 2), Chunk(8, 11, 4)),
    ]
    assert WHOLE.chunks([7, 1, 6]) == (Chunk(0, 14, 0),)
    assert WHOLE.chunks([]) == ()


@pytest.mark.parametrize("keeps_series", [False, True])
@pytest.mark.parametrize("chunk_size", [1, 4, 16, 64, None])
@pytest.mark.parametrize("n_ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("lengths", MIXES, ids=str)
def test_every_slice_is_in_one_chunk_of_one_rank_and_loads_are_even(
    lengths: list[int], n_ranks: int, chunk_size: int | None, keeps_series: bool
) -> None:
    shares = shares_of(lengths, n_ranks=n_ranks, chunk_size=chunk_size, keeps_series=keeps_series)
    rows = [row for share in shares for chunk in share for row in range(chunk.start, chunk.stop)]
    assert sorted(rows) == list(range(sum(lengths)))
    sizes = [len(chunk) for share in shares for chunk in share]
    assert max(sizes) <= (chunk_size or max(sizes))
    loads = [sum(map(len, share)) for share in shares]
    assert max(loads) - min(loads) <= (max(sizes) if keeps_series else 1)
    for share in shares:  # images lie in the order of the batch
        assert [row for chunk in share for row in range(chunk.first, chunk.first + len(chunk))] == list(
            range(sum(map(len, share)))
        )
        assert share == sorted(share, key=lambda chunk: chunk.start)


@pytest.mark.parametrize("chunk_size", [1, 4, 16, 64])
def test_chunks_that_norms_are_defined_by_are_the_same_with_any_number_of_ranks(chunk_size: int) -> None:
    alone, *shared = (
        sorted(
            (chunk.start, chunk.stop)
            for share in shares_of(LENGTHS, n_ranks=n_ranks, chunk_size=chunk_size, keeps_series=True)
            for chunk in share
        )
        for n_ranks in (1, 2, 5)
    )
    assert shared == [alone, alone]
    borders = np.cumsum(LENGTHS).tolist()
    assert set(borders) <= {stop for _, stop in alone}
    for length, border in zip(LENGTHS, borders, strict=True):
        own = [stop - start for start, stop in alone if border - length <= start < border]
        assert max(own) - min(own) <= 1
        assert len(own) == -(-length // chunk_size)


@pytest.mark.parametrize(("start", "stop"), [(0, 100), (17, 44)])
def test_chunks_of_a_share_are_equal_to_within_a_slice(start: int, stop: int) -> None:
    n = stop - start
    for chunk_size in range(1, n + 2):
        sizes = [len(chunk) for chunk in Division(chunk_size=chunk_size).chunks([n])]
        assert max(sizes) - min(sizes) <= 1


def test_shares_of_whole_members_by_hand() -> None:
    # 40 to rank 0, 30 to rank 1, 20 to rank 1, 10 to rank 0
    assert rank_shares([10, 40, 20, 30], n_ranks=2) == [[0, 1], [2, 3]]
    assert rank_shares([50], n_ranks=2) == [[0], []]


@pytest.mark.parametrize("n_ranks", [1, 2, 3, 4])
def test_every_member_goes_to_one_rank_and_loads_are_balanced(n_ranks: int) -> None:
    shares = rank_shares(LENGTHS, n_ranks=n_ranks)
    assert sorted(member for share in shares for member in share) == list(range(len(LENGTHS)))
    loads = [sum(LENGTHS[member] for member in share) for share in shares]
    assert max(loads) - min(loads) <= max(LENGTHS)


def test_busy_share_by_hand() -> None:
    division = Division(n_ranks=4, chunk_size=8)
    # 10 slices: the busiest has 3, so 12 would have fitted; 7: the busiest has 2, so 8 would have
    assert busy_share([[10], [3, 4]], division) == pytest.approx(17 / 20)
    whole_chunks = Division(n_ranks=4, chunk_size=8, keeps_series=True)
    # chunks of 5 and 5: the busiest has 5 of 20; of 3 and 4: the busiest has 4 of 16
    assert busy_share([[10], [3, 4]], whole_chunks) == pytest.approx(17 / 36)
    assert busy_share([[10]], WHOLE) == 1
    assert busy_share([], division) == 1


@pytest.mark.parametrize(("n_ranks", "least"), [(4, 0.95), (8, 0.9)])
def test_ranks_are_busy_with_small_batches_of_series_of_real_lengths(n_ranks: int, least: float) -> None:
    """Series of 20 to 60 slices with a mean of 34.5, as in RSNA ICH 2019, in batches of 64 slices."""
    drawn = np.random.default_rng(1).triangular(20, 23.5, 60, 20000).round().astype(int).tolist()
    assert np.mean(drawn) == pytest.approx(34.5, abs=0.2)
    batches = [[drawn[i] for i in batch] for batch in global_batches(drawn, slice_budget=64, seed=1, epoch=1)]
    assert busy_share(batches, Division(n_ranks=n_ranks, chunk_size=64)) >= least
