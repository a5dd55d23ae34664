"""Division of a batch: the slices of each rank, and the chunks in which they go through its backbone.

The backbone works slice by slice, so a batch is divided by slices, not by series: ranks get equal shares, however few
series there are. If normalisation layers mix the slices of a chunk, results depend on which slices a chunk holds, so
ranks get whole chunks, the same ones for any number of ranks.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Chunk:
    """Slices [start, stop) of a batch that go through the backbone together.

    first: position of slice `start` among the images of its rank, which holds its own slices only.
    """

    start: int
    stop: int
    first: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def rows(self) -> slice:
        """These slices in tensors packed for the whole batch."""
        return slice(self.start, self.stop)

    @property
    def images(self) -> slice:
        """These slices among the images of their rank."""
        return slice(self.first, self.first + len(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """The rule by which a batch is divided; the default leaves it whole.

    chunk_size: the most slices of a chunk, None for any number. keeps_series: no chunk has slices of two series, and
    chunks do not depend on ranks: for norms that mix the slices of a chunk. Otherwise shares are equal to within a
    slice.
    """

    rank: int = 0
    n_ranks: int = 1
    chunk_size: int | None = None
    keeps_series: bool = False

    def chunks(self, lengths: Sequence[int]) -> tuple[Chunk, ...]:
        """Return this rank's chunks of a batch of series of these lengths, in the order of the batch; may be none."""
        return tuple(_placed(self._shares(lengths)[self.rank]))

    def largest_share(self, lengths: Sequence[int]) -> int:
        """Return how many slices the busiest rank has, for which all others wait."""
        if not self.keeps_series:
            return -(-sum(lengths) // self.n_ranks)
        return max(sum(stop - start for start, stop in share) for share in self._shares(lengths))

    def smallest_chunk(self, lengths: Sequence[int]) -> int:
        """Return how many slices the smallest chunk of any rank has."""
        return min(stop - start for share in self._shares(lengths) for start, stop in share)

    def by_slices(self) -> "Division":
        """The same rule for batches of single slices, which norms may mix: shares are equal to within a slice."""
        return replace(self, keeps_series=False)

    def _shares(self, lengths: Sequence[int]) -> list[list[tuple[int, int]]]:
        """The chunks of every rank."""
        if not self.keeps_series:
            bounds = [sum(lengths) * rank // self.n_ranks for rank in range(self.n_ranks + 1)]
            return [self._cut(*bounds[rank : rank + 2]) for rank in range(self.n_ranks)]
        chunks, start = [], 0
        for length in lengths:
            chunks += self._cut(start, start + length)
            start += length
        sizes = [stop - start for start, stop in chunks]
        return [[chunks[i] for i in share] for share in rank_shares(sizes, n_ranks=self.n_ranks)]

    def _cut(self, start: int, stop: int) -> list[tuple[int, int]]:
        """As few chunks as possible, equal to within a slice: norms would have a poor sample in a short one."""
        n = stop - start
        n_chunks = -(-n // (self.chunk_size or max(n, 1)))
        bounds = [start + n * i // n_chunks for i in range(n_chunks + 1)] if n_chunks else []
        return list(pairwise(bounds))


WHOLE = Division()


def rank_shares(sizes: Sequence[int], *, n_ranks: int) -> list[list[int]]:
    """Return which members each rank works on, in ascending order; may be none.

    sizes: what each member costs. The largest go first, each to the rank with the least so far (Graham 1969, LPT), so
    that every rank computes every share without communication, and no two differ by more than a member.
    """
    loads, shares = [0] * n_ranks, [[] for _ in range(n_ranks)]  # type: tuple[list[int], list[list[int]]]
    for member in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        least = loads.index(min(loads))
        loads[least] += sizes[member]
        shares[least].append(member)
    return [sorted(share) for share in shares]


def busy_share(batches: Iterable[Sequence[int]], division: Division) -> float:
    """Return the average share of time that ranks are busy, if every slice takes equally long.

    batches: the lengths of each batch's series. 1 for a single rank, and where there is nothing to do.
    """
    done = waited_for = 0
    for lengths in batches:
        done += sum(lengths)
        waited_for += division.n_ranks * division.largest_share(lengths)
    return done / waited_for if waited_for else 1.0


def _placed(chunks: Iterable[tuple[int, int]]) -> Iterable[Chunk]:
    first = 0
    for start, stop in chunks:
        yield Chunk(start, stop, first)
        first += stop - start
