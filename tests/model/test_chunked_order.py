"""The order in which chunked backprop computes, and the memory that it holds meanwhile."""

# N slices (packed)

import weakref
from collections.abc import Sequence
from typing import ClassVar

import pytest
import torch
from torch import nn

from rsna_e2e.loader.division import Chunk, Division
from rsna_e2e.model.chunked_backward import Backward, backward_in_chunks, derive_seed

LENGTHS = (7, 1, 6)
N = sum(LENGTHS)
CHUNKS = Division(chunk_size=3, keeps_series=True).chunks(LENGTHS)  # of 2, 2, 3, 1, 3 and 3 slices


def test_seeds_differ_by_each_of_their_parts() -> None:
    seeds = {
        derive_seed(1, 2, "a"),
        derive_seed(9, 2, "a"),
        derive_seed(1, 9, "a"),
        derive_seed(1, 2, "b"),
        derive_seed(12, "a"),
        derive_seed(1, 2),
    }
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)


class Images:
    """int16 slices that become images when they are asked for; `asked` keeps for what, and whether with a graph."""

    def __init__(self) -> None:
        self.stored = torch.arange(N * 3 * 2 * 2, dtype=torch.int16).reshape(N, 3, 2, 2)
        self.asked: list[tuple[int, int, bool]] = []

    def __getitem__(self, rows: slice) -> torch.Tensor:
        self.asked.append((rows.start, rows.stop, torch.is_grad_enabled()))
        return self.stored[rows] / 100


def run(
    model: nn.Module,
    images: Images | torch.Tensor,
    *,
    graph_slices: int,
    chunks: Sequence[Chunk] = CHUNKS,
) -> Backward:
    def embed(images: torch.Tensor, chunk: Chunk) -> torch.Tensor:
        return model(images)

    return backward_in_chunks(
        model, embed, images, chunks, lambda e: e.square().mean(), seed=0, graph_slices=graph_slices
    )


def make() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Tanh())


FIRST = [(c.start, c.stop) for c in CHUNKS]


@pytest.mark.parametrize(
    ("graph_slices", "n_kept"), [(0, 1), (1, 1), (3, 1), (5, 1), (6, 2), (7, 3), (9, 3), (10, 4), (13, 5), (14, 6)]
)
def test_the_last_chunks_keep_their_graphs_and_the_others_are_made_again_last_first(
    graph_slices: int, n_kept: int
) -> None:
    images = Images()
    run(make(), images, graph_slices=graph_slices)
    n_dropped = len(CHUNKS) - n_kept
    without = [(*rows, False) for rows in FIRST[:n_dropped]]
    kept = [(*rows, True) for rows in FIRST[n_dropped:]]
    again = [(*rows, True) for rows in reversed(FIRST[:n_dropped])]
    assert images.asked == without + kept + again


def test_images_made_when_asked_for_give_the_same_gradients() -> None:
    lazy, ready = make(), make()
    run(lazy, Images(), graph_slices=3)
    run(ready, Images()[:N], graph_slices=3)
    for parameter, other in zip(lazy.parameters(), ready.parameters(), strict=True):
        assert torch.equal(parameter.grad, other.grad)


class Held:
    """A tensor that a graph keeps."""

    alive: ClassVar["weakref.WeakSet[Held]"] = weakref.WeakSet()

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        self.alive.add(self)


class Watched(nn.Module):
    """tanh, which keeps one tensor a chunk; `slices` counts those that graphs hold, at each of its backward passes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.slices: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scaled = images.flatten(1) * self.weight

        def unpack(held: Held) -> torch.Tensor:
            self.slices.append(sum(len(other.tensor) for other in Held.alive))
            return held.tensor

        with torch.autograd.graph.saved_tensors_hooks(Held, unpack):
            return scaled.tanh()


@pytest.mark.parametrize(
    ("graph_slices", "expected"),
    [
        (3, [3, 3, 1, 3, 2, 2]),
        (7, [7, 4, 1, 3, 2, 2]),
        (14, [14, 11, 8, 7, 4, 2]),
    ],
)
def test_graphs_go_as_soon_as_their_gradient_has_passed(graph_slices: int, expected: list[int]) -> None:
    model = Watched()
    run(model, Images()[:N], graph_slices=graph_slices)
    assert model.slices == expected
    assert not Held.alive


class Forgetful(nn.Module):
    """Embeddings 1 at the first call, and a tenth more at each that follows."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.calls = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.weight.expand(len(images), 2) * (0.9 + 0.1 * self.calls)


def test_passes_that_differ_are_told_by_hand() -> None:
    """Calls 1 to 6 make 1.0 to 1.5; 7 to 11 make 1.6 to 2.0 for chunks 5 to 1, and the last differs most: 2.0 - 1.0."""
    found = run(Forgetful(), Images(), graph_slices=3)
    assert found.recompute_error.item() == pytest.approx((2.0 - 1.0) / 1.5)
    assert run(Forgetful(), Images(), graph_slices=N).recompute_error == 0


def test_the_loss_and_its_gradient_by_hand() -> None:
    """The mean of squares of w (1.0 to 1.5 by chunk) with w = 1; its derivative by w is twice that."""
    model = Forgetful()
    mean = (2 * 1.0 + 2 * 1.1**2 + 3 * 1.2**2 + 1 * 1.3**2 + 3 * 1.4**2 + 3 * 1.5**2) / N
    found = run(model, Images(), graph_slices=N)
    assert found.loss.item() == pytest.approx(mean)
    assert not found.loss.requires_grad
    assert model.weight.grad.item() == pytest.approx(2 * mean)


def test_misuse_is_noticed() -> None:
    with pytest.raises(AssertionError, match="without slices"):
        run(make(), Images(), graph_slices=3, chunks=[])
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(AssertionError, match="inside `embed`"):
        run(make(), Images(), graph_slices=3)
