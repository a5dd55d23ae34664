"""Exact gradients through whole series in the activation memory of a few chunks of slices.

The backbone embeds chunk after chunk and keeps the graphs of the last ones only. The loss of all embeddings gives the
gradient of each embedding; the kept graphs propagate theirs to the parameters. Earlier chunks run forward a second
time, with a graph, to do the same (activation checkpointing), so memory does not grow with the series. Nothing is
approximated: the sum over chunks is the chain rule. A rank does this for its own chunks of a batch; the heads see the
embeddings of all ranks. BatchNorm in train mode normalises each chunk by itself; its running statistics are updated
once per chunk.
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

# Images [n, C, S, S] and the chunk that they are to embeddings [n, D] in float32. Autocast is inside of it, since its
# cache, shared with the pass without graphs, would lose gradients.
Embed = Callable[[torch.Tensor, Chunk], torch.Tensor]
Gather = Callable[[torch.Tensor], torch.Tensor]  # own embeddings [n, D] to all of the batch [N, D]
Loss = Callable[[torch.Tensor], torch.Tensor]  # embeddings [N, D] to a scalar, scaled as needed


@dataclass(frozen=True, slots=True, kw_only=True)
class Backward:
    """Result of a chunked backward pass; scalars stay on the device, so that the host does not wait.

    recompute_error: the largest difference between the two passes' embeddings, relative to the largest embedding. More
    than rounding means that a layer is not deterministic.
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

    module: what holds the buffers that `embed` moves, such as running statistics. images: of this rank's slices.
    chunks: where in the batch those are; maybe none, of a rank that shares. gather: None where own embeddings are all.
    seed: of what the heads draw, and of what the backbone draws chunk by chunk. graph_slices: the last chunks keep
    their graphs while they have no more slices than this together; the very last always does. Gradients do not depend
    on it, by a bit. before_last: called before the last pass through the backbone, which leaves its gradients final.
    """
    assert chunks or gather is not None, "a batch without slices has no gradient"
    assert not any(map(torch.is_autocast_enabled, ("cpu", "cuda"))), "autocast belongs inside `embed`"
    backbone = _ChunkedBackbone(module, embed, images, chunks, seed, _count_without_graph(chunks, graph_slices))
    own_nD, graphs = backbone.forward()
    all_ND = own_nD if gather is None else gather(own_nD)
    torch.manual_seed(derive_seed(seed, "head"))
    value, gradient_ND = _backward_to_embeddings(loss, all_ND)
    difference = torch.zeros_like(all_ND[0, 0])
    if graphs and graphs[-1].requires_grad:  # a frozen backbone has nothing to learn
        difference = backbone.backward(graphs, own_nD, gradient_ND, before_last)
    scale = all_ND.abs().amax().clamp(min=torch.finfo(all_ND.dtype).tiny)
    return Backward(loss=value, recompute_error=difference / scale)


@dataclass(frozen=True, slots=True)
class _ChunkedBackbone:
    """The passes through the backbone, chunk by chunk; the first `n_without_graph` chunks go forward twice."""

    module: nn.Module
    embed: Embed
    images: SliceImages
    chunks: Sequence[Chunk]
    seed: int
    n_without_graph: int

    def forward(self) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the embeddings [n, D] without a graph, and those of the last chunks with their graphs."""
        with torch.no_grad():
            dropped = [self._embed(chunk) for chunk in self.chunks[: self.n_without_graph]]
        graphs = [self._embed(chunk) for chunk in self.chunks[self.n_without_graph :]]
        return torch.cat([*dropped, *(embeddings.detach() for embeddings in graphs)] or [torch.empty(0)]), graphs

    def backward(
        self,
        graphs: list[torch.Tensor],
        own_nD: torch.Tensor,
        gradient_ND: torch.Tensor,
        before_last: Callable[[], None],
    ) -> torch.Tensor:
        """Use up `graphs`, embed the other chunks again for theirs; return the largest difference to `own_nD`."""
        difference = torch.zeros_like(gradient_ND[0, 0])
        for chunk in reversed(self.chunks[self.n_without_graph :]):
            if chunk is self.chunks[0]:
                before_last()
            graphs.pop().backward(gradient_ND[chunk.rows])  # type: ignore[no-untyped-call]
        with buffers_kept(self.module):
            for chunk in reversed(self.chunks[: self.n_without_graph]):
                second = self._embed(chunk)
                if chunk is self.chunks[0]:
                    before_last()
                second.backward(gradient_ND[chunk.rows])  # type: ignore[no-untyped-call]
                difference = torch.maximum(difference, (second.detach() - own_nD[chunk.images]).abs().amax())
        return difference

    def _embed(self, chunk: Chunk) -> torch.Tensor:
        torch.manual_seed(derive_seed(self.seed, chunk.start))
        return self.embed(self.images[chunk.images], chunk)


def _count_without_graph(chunks: Sequence[Chunk], graph_slices: int) -> int:
    """Number of leading chunks run without autograd so that the rest fit into `graph_slices`; never the last."""
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
