"""What one of several ranks does in test_distributed.py: meets the others on gloo and writes down what it saw.

Usage: torchrun's variables in the environment, python rank_checks.py FOLDER
"""

import os
import sys
from pathlib import Path

import torch
from torch import nn

from rsna_e2e.training.distributed import Ranks, joined
from rsna_e2e.training.gradient_sum import GradientSum

WEIGHTS = (3.0, 1.0, 0.0, 5.0)  # of the ranks, when buffers are averaged
N_LAYERS = 10
IDLE = 1  # the rank that has one backward pass less than the others


def values(rank: int, *shape: int) -> torch.Tensor:
    """Numbers of many magnitudes, so that the order of a sum shows in its last bits."""
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(*shape, generator=generator) * 10.0 ** torch.randint(-4, 5, shape, generator=generator)


class Net(nn.Module):
    """Parameters of two dtypes and two memory layouts, one frozen, one without gradient on odd ranks; buffers."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.wide = nn.Parameter(values(rank, 300, 1000))  # 1.1 MiB: over the bucket of 1 MiB
        self.images = nn.Parameter(values(rank + 1, 8, 3, 5, 5).to(memory_format=torch.channels_last))
        self.precise = nn.Parameter(values(rank + 2, 7).double())
        self.sometimes = nn.Parameter(values(rank + 3, 11))
        self.frozen = nn.Parameter(values(rank + 4, 2), requires_grad=False)
        self.register_buffer("mean", values(rank + 5, 13))
        self.register_buffer("same", values(99, 13))  # equal on all ranks
        self.register_buffer("count", torch.tensor(10 + rank))
        self.register_buffer("flag", torch.tensor([rank == 1, False]))

    def fill_gradients(self, rank: int) -> None:
        """Set a gradient that names its rank; none for `sometimes` on odd ranks."""
        for index, parameter in enumerate((self.wide, self.images, self.precise)):
            parameter.grad = values(10 * rank + index, *parameter.shape).to(parameter.dtype)
        self.sometimes.grad = None if rank % 2 else values(10 * rank + 3, 11)


def backward(net: nn.ModuleList, rank: int) -> None:
    """Leave gradients of rank + 1, rank + 2, ... in the layers, from the last to the first."""
    sum((rank + number) * layer(torch.ones(1, 512)).sum() for number, layer in enumerate(net, start=1)).backward()


def sent_early(ranks: Ranks) -> dict[str, torch.Tensor]:
    """Sums of gradients that travel during the last backward pass, and how many buckets had left when it was over."""
    net = nn.ModuleList(nn.Linear(512, 512, bias=False) for _ in range(N_LAYERS))  # of 1 MiB: a bucket each
    sums = GradientSum(ranks, net.parameters(), bucket_mib=1)
    backward(net, ranks.rank)
    if ranks.rank != IDLE:
        sums.begin()
        backward(net, ranks.rank)
    n_sent = torch.tensor(sums._n_sent)
    sums.finish()
    return {"n_sent": n_sent} | {f"early.{number}": layer.weight.grad for number, layer in enumerate(net, start=1)}


def check(ranks: Ranks) -> dict[str, torch.Tensor]:
    """Call every collective once and return what came out."""
    seen = {
        "sum": ranks.sum_(values(ranks.rank, 1000)),
        "max": ranks.max_(values(ranks.rank, 10)),
        "min": ranks.min_(values(ranks.rank, 10)),
        "count": ranks.sum_(torch.tensor(ranks.rank + 1)),
        "transposed": ranks.sum_(values(ranks.rank, 4, 6).T),
    }
    net = Net(ranks.rank)
    net.fill_gradients(ranks.rank)
    GradientSum(ranks, net.parameters(), bucket_mib=1).finish()
    assert net.frozen.grad is None
    seen |= {f"gradient.{name}": p.grad for name, p in net.named_parameters() if p.grad is not None}
    seen |= sent_early(ranks)
    same, other = values(7, 100), values(8, 100)
    assert ranks.agree_([same, other])
    other[50] = torch.nextafter(other[50], torch.tensor(float(ranks.rank)))
    other[51] = torch.nextafter(other[51], torch.tensor(-float(ranks.rank)))
    seen |= {"agreed": torch.tensor(ranks.agree_([same, other])), "same": same, "of_rank_0": other}
    ranks.average_buffers_(net, weight=0.0)
    seen |= {f"unweighted.{name}": buffer.clone() for name, buffer in net.named_buffers()}
    ranks.average_buffers_(net, weight=WEIGHTS[ranks.rank])
    seen |= {f"averaged.{name}": buffer.clone() for name, buffer in net.named_buffers()}
    only_rank_1 = Net(ranks.rank)
    ranks.average_buffers_(only_rank_1, weight=7.0 * (ranks.rank == 1))
    seen["only_rank_1"] = only_rank_1.mean.clone()
    ranks.barrier()
    other = Net(ranks.rank)
    ranks.broadcast_(other)
    return seen | {f"broadcast.{name}": tensor for name, tensor in other.state_dict().items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    with joined(os.environ, "cpu", timeout_s=60.0) as me:
        torch.save(check(me), Path(sys.argv[1]) / f"{me.rank}.pt")
