"""Exact gradients through whole series in the activation memory of a few chunks of slices.

The backbone embeds chunk after chunk, keeping the graphs of the last ones only; the loss of all embeddings gives the
gradient there; then the kept graphs take their part of it, and every earlier chunk is embedded again, with a graph, for
its own. Nothing is approximated: the sum over chunks is the chain rule. A rank does so for its own chunks of a batch,
and the heads see the embeddings of all. BatchNorm in train mode normalises by its chunk, by definition; its running
statistics move once per chunk.
"""

# N slices of a batch (packed), n of them this rank's own, C windows, S image side, D embedding width

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from rsna_e2e.loader.batch import SliceImages
from rsna_e2e.loader.division import Chunk
from rsna_e2e.model.norms import buffers_kept

Embed = Callable[[torch.Tensor, Chunk], torch.Tensor]
Gather = Callable[[torch.Tensor], torch.Tensor]
Loss = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backward:
    """What a backward pass found: scalars on the device, so that nothing waits for it.

    recompute_error: the largest difference between the two passes' embeddings, as a part of the largest embedding.
    What is more than rounding says that a layer does not do the same twice.
    """

    loss: torch.Tensor
    recompute_error: torch.Tensor


def derive_seed(*parts: int | str) -> int:
    """Return a seed of 63 bits that is a pure function of `parts`, such as run seed, step, and what it is for."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1  # torch takes 63 bits


def backward_in_chunks(
    module: nn.Module,
    embed: Embed,
    images: SliceImages,
    chunks: Sequence[Chunk],
    loss: Loss,
    *,
    seed: int,
    graph_slices: int,
    gather: Gather | None = None,
    before_last: Callable[[], None] = lambda: None,
) -> Backward:
    """Add the gradients of loss(embeddings) to `.grad`: of the parameters in `loss` whole, of those in `embed` the part
    of this rank's chunks.

    module: what holds the buffers that `embed` moves, such as running statistics. embed: [n, C, S, S] and the chunk
    that they are to [n, D] in float32; autocast is inside of it, since its cache, shared with the pass without graphs,
    would lose gradients. images: of this rank's slices. chunks: where in the batch those are; of a rank that shares,
    maybe none. gather: own embeddings [n, D] to all of the batch [N, D]; None where they are all. loss: [N, D] to a
    scalar, scaled as needed. seed: of what the heads draw, and of what the backbone draws chunk by chunk.
    graph_slices: the last chunks keep their graphs while they have no more slices than this together; the very last
    always does. Gradients do not depend on it, by a bit. before_last: called before the last pass through the backbone,
    which leaves its gradients final.
    """
    assert chunks or gather is not None, "a batch without slices has no gradient"
    assert not any(map(torch.is_autocast_enabled, ("cpu", "cuda"))), "autocast belongs inside `embed`"
    n_dropped = _count_dropped(chunks, graph_slices)
    earlier, kept = chunks[:n_dropped], chunks[n_dropped:]

    def embed_chunk(chunk: Chunk) -> torch.Tensor:
        torch.manual_seed(derive_seed(seed, chunk.start))
        return embed(images[chunk.images], chunk)

    with torch.no_grad():
        dropped = [embed_chunk(chunk) for chunk in earlier]
    graphs = [embed_chunk(chunk) for chunk in kept]
    own_nD = torch.cat([*dropped, *(embeddings.detach() for embeddings in graphs)] or [torch.empty(0)])
    all_ND = own_nD if gather is None else gather(own_nD)
    torch.manual_seed(derive_seed(seed, "head"))
    value, gradient_ND = _backward_to_embeddings(loss, all_ND)
    difference = torch.zeros_like(all_ND[0, 0])
    if graphs and graphs[-1].requires_grad:  # a frozen backbone has nothing to learn
        for chunk in reversed(kept):
            if chunk is chunks[0]:
                before_last()
            graphs.pop().backward(gradient_ND[chunk.rows])  # type: ignore[no-untyped-call]
        with buffers_kept(module):
            for chunk in reversed(earlier):
                second = embed_chunk(chunk)
                if chunk is chunks[0]:
                    before_last()
                second.backward(gradient_ND[chunk.rows])  # type: ignore[no-untyped-call]
                difference = torch.maximum(difference, (second.detach() - own_nD[chunk.images]).abs().amax())
    scale = all_ND.abs().amax().clamp(min=torch.finfo(all_ND.dtype).tiny)
    return Backward(loss=value, recompute_error=difference / scale)


def _count_dropped(chunks: Sequence[Chunk], graph_slices: int) -> int:
    """How many chunks from the first on do without a graph, so that the others fit; the last is never among them."""
    room = graph_slices - len(chunks[-1]) if chunks else 0
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
