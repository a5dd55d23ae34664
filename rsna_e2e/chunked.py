"""Exact gradients through whole series in the activation memory of a few chunks of slices.

The backbone embeds chunk after chunk, keeping the graphs of the last ones only; the loss of all embeddings gives the
gradient there; then the kept graphs take their part of it, and every earlier chunk is embedded again, with a graph, for
its own. Nothing is approximated: the sum over chunks is the chain rule. BatchNorm in train mode normalises by its
chunk, by definition; its running statistics move once per chunk.
"""

# N slices (packed), n slices of one chunk, B series, C windows, S image side, D embedding width

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from rsna_e2e.batch import SliceImages

Embed = Callable[[torch.Tensor], torch.Tensor]
Loss = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Slices [start, stop) of a batch that go through the backbone together; `index` counts the chunks of a series.

    series_key: of the series that they belong to, or of the first slice where slices of many series are mixed.
    """

    start: int
    stop: int
    series_key: str
    index: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def rows(self) -> slice:
        """Where these slices are in a packed tensor."""
        return slice(self.start, self.stop)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backward:
    """What a backward pass found: scalars on the device, so that nothing waits for it.

    recompute_error: the largest difference between the two passes' embeddings, as a part of the largest embedding.
    What is more than rounding says that a layer does not do the same twice.
    """

    loss: torch.Tensor
    recompute_error: torch.Tensor


def make_chunks(lengths: Sequence[int], series_keys: Sequence[str], *, chunk_size: int) -> list[Chunk]:
    """Divide each series into as few chunks of at most `chunk_size` slices as possible, equal to within one slice.

    lengths [B]: slices of each series, in the order of the batch. A short remainder would give BatchNorm in train mode
    a poor sample, so there is none.
    """
    chunks: list[Chunk] = []
    first = 0
    for length, key in zip(lengths, series_keys, strict=True):
        n_chunks = -(-length // chunk_size)
        bounds = [first + length * i // n_chunks for i in range(n_chunks + 1)]
        chunks += [Chunk(bounds[i], bounds[i + 1], key, i) for i in range(n_chunks)]
        first += length
    return chunks


def derive_seed(seed: int, step: int, series_key: str, part: int | str) -> int:
    """Seed of the dropout and drop-path of one part of a step, a chunk's index or "head": the same in both passes, on
    any rank and after any resumption."""
    digest = hashlib.sha256(f"{seed}/{step}/{series_key}/{part}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1  # torch takes 63 bits


def backward_in_chunks(
    module: nn.Module,
    embed: Embed,
    images: SliceImages,
    chunks: Sequence[Chunk],
    loss: Loss,
    *,
    seed: int,
    step: int,
    graph_slices: int,
) -> Backward:
    """Add the gradients of loss(embeddings) to `.grad` of every parameter.

    module: what holds the buffers that `embed` moves, such as running statistics. embed: [n, C, S, S] to [n, D] in
    float32; autocast is inside of it, since its cache, shared with the pass without graphs, would lose gradients.
    chunks: at least one; together they are the N slices in order. loss: [N, D] to a scalar, scaled as needed.
    graph_slices: the last chunks keep their graphs while they have no more slices than this together; the very last
    always does. Gradients do not depend on it, by a bit.
    """
    assert chunks, "a batch without slices has no gradient"
    assert not any(map(torch.is_autocast_enabled, ("cpu", "cuda"))), "autocast belongs inside `embed`"
    n_dropped = _count_dropped(chunks, graph_slices)

    def embed_chunk(chunk: Chunk) -> torch.Tensor:
        torch.manual_seed(derive_seed(seed, step, chunk.series_key, chunk.index))
        return embed(images[chunk.rows])

    with torch.no_grad():
        dropped = [embed_chunk(chunk) for chunk in chunks[:n_dropped]]
    graphs = [embed_chunk(chunk) for chunk in chunks[n_dropped:]]
    first_ND = torch.cat([*dropped, *(embeddings.detach() for embeddings in graphs)])
    torch.manual_seed(derive_seed(seed, step, chunks[0].series_key, "head"))
    value, gradient_ND = _backward_to_embeddings(loss, first_ND)
    difference = torch.zeros_like(first_ND[0, 0])
    if graphs[-1].requires_grad:  # a frozen backbone has nothing to learn
        for chunk in reversed(chunks[n_dropped:]):
            graphs.pop().backward(gradient_ND[chunk.rows])  # type: ignore[no-untyped-call]
        with _buffers_kept(module):
            for chunk in reversed(chunks[:n_dropped]):
                second = embed_chunk(chunk)
                second.backward(gradient_ND[chunk.rows])  # type: ignore[no-untyped-call]
                difference = torch.maximum(difference, (second.detach() - first_ND[chunk.rows]).abs().amax())
    scale = first_ND.abs().amax().clamp(min=torch.finfo(first_ND.dtype).tiny)
    return Backward(loss=value, recompute_error=difference / scale)


def _count_dropped(chunks: Sequence[Chunk], graph_slices: int) -> int:
    """How many chunks from the first on do without a graph, so that the others fit; the last is never among them."""
    room = graph_slices - len(chunks[-1])
    for index in range(len(chunks) - 2, -1, -1):
        room -= len(chunks[index])
        if room < 0:
            return index + 1
    return 0


def _backward_to_embeddings(loss: Loss, embeddings_ND: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss, detached, and its gradient [N, D]; parameters on the way get theirs."""
    leaf_ND = embeddings_ND.detach().requires_grad_()
    value = loss(leaf_ND)
    value.backward()  # type: ignore[no-untyped-call]
    assert leaf_ND.grad is not None, "the loss does not depend on the embeddings"
    return value.detach(), leaf_ND.grad


@contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    """Undo what forward passes do to buffers, so that two passes move running statistics once."""
    buffers = list(module.buffers())
    kept = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, before in zip(buffers, kept, strict=True):
            buffer.copy_(before)
