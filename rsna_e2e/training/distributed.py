"""Ranks: processes that train one model together, and the collective operations between them.

Plain collectives over torch.distributed, started by torchrun or anything that sets its variables. Only tensors travel;
nothing that another rank sends is ever unpickled.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

from rsna_e2e.core.errors import MissingCapabilityError, RsnaError, UsageError
from rsna_e2e.model.norms import copy_together, moving_buffers
from rsna_e2e.training.buckets import BucketQueue, make_buckets, parts

_BROADCAST_BYTES = 25 * 2**20  # pieces in which a model travels
# The golden ratio, which spreads small numbers over 32 and 64 bits (Knuth, The Art of Computer Programming, 6.4)
_ODD_32, _ODD_64 = 0x9E3779B9 - 2**32, 0x9E3779B97F4A7C15 - 2**64
_PIECES = {"cpu": 2**16, "cuda": 2**22}  # numbers at a time: what a core's cache holds; what keeps a GPU busy
_RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_ADDRESS_VARIABLES = ("MASTER_ADDR", "MASTER_PORT")
_HOW_TO_START = "Start with bin/train.sh or torchrun, or unset RANK, WORLD_SIZE and LOCAL_RANK to train alone"


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that train together; alone, its methods change nothing and cost nothing.

    Every method is a collective: all ranks call it, in the same order and with tensors of the same shapes.
    """

    rank: int = 0
    n_ranks: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes the run."""
        return self.rank == 0

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Replace `tensor`, on any device, by its sum over the ranks; the same bits on all of them."""
        return self._reduce_(tensor, dist.ReduceOp.SUM)

    def max_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Replace `tensor` by its elementwise maximum over the ranks."""
        return self._reduce_(tensor, dist.ReduceOp.MAX)

    def min_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Replace `tensor` by its elementwise minimum over the ranks."""
        return self._reduce_(tensor, dist.ReduceOp.MIN)

    def average_buffers_(self, module: nn.Module, *, weight: float) -> None:
        """Average the module's float buffers over the ranks, and take the maximum of the others.

        weight: of this rank, at least 0; a rank without slices has 0, and if all have, nothing changes. In float64, so
        that buffers that are equal everywhere stay as they are.
        """
        assert weight >= 0
        buffers = [buffer for buffer in moving_buffers(module) if buffer.numel()]
        if self.n_ranks == 1 or not buffers:
            return
        floats = [buffer for buffer in buffers if buffer.is_floating_point()]
        total = torch.ones(1, dtype=torch.float64, device=buffers[0].device)
        sums = self.sum_(weight * torch.cat([total, *(buffer.double().reshape(-1) for buffer in floats)]))
        if not sums[0]:
            return
        copy_together(floats, parts(sums[1:] / sums[0], floats))
        integers = [buffer for buffer in buffers if not buffer.is_floating_point()]
        if integers:
            largest = self.max_(torch.cat([buffer.reshape(-1).long() for buffer in integers]))
            copy_together(integers, parts(largest, integers))

    def agree_(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether all ranks hold the same bits; where they do not, they all get those of rank 0.

        tensors: on one device. Told apart by `fingerprint`.
        """
        if self.n_ranks == 1 or not tensors:
            return True
        own = fingerprint(tensors)
        largest, smallest = self.max_(torch.stack([own, -own])).tolist()
        if largest == -smallest:
            return True
        self._broadcast_(tensors)
        return False

    def broadcast_(self, module: nn.Module) -> None:
        """Give every rank the parameters and buffers of rank 0."""
        self._broadcast_([tensor.detach() for tensor in (*module.parameters(), *module.buffers())])

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.sum_(torch.zeros(()))

    def _reduce_(self, tensor: torch.Tensor, operation: dist.ReduceOp.RedOpType) -> torch.Tensor:
        if self.n_ranks > 1:
            flat = tensor.detach().contiguous()
            dist.all_reduce(flat, operation)
            tensor.detach().copy_(flat)
        return tensor

    def _broadcast_(self, tensors: Sequence[torch.Tensor]) -> None:
        if self.n_ranks > 1:
            queue = BucketQueue(lambda flat: dist.broadcast(flat, src=0, async_op=True))
            for bucket in make_buckets(tensors, limit=_BROADCAST_BYTES):
                queue.put(bucket)
            queue.drain()


def fingerprint(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return 62 bits, in an int64 on the device of `tensors`, that a change of any value in them changes almost surely.

    Every 4 bytes count by their place, so that small changes do not cancel; in pieces, which need hardly any memory.
    """
    device = tensors[0].device
    weights = torch.arange(_PIECES[device.type], dtype=torch.int32, device=device) * _ODD_32 | 1
    sums = []
    for tensor in tensors:
        pieces = torch.split(tensor.detach().reshape(-1).view(torch.int32), len(weights))
        of_pieces = torch.stack([(bits * weights[: len(bits)]).sum() for bits in pieces])
        sums.append((of_pieces * _odd_numbers(len(pieces), device)).sum())
    return (torch.stack(sums) * _odd_numbers(len(sums), device)).sum() & (2**62 - 1)


def _odd_numbers(n: int, device: torch.device) -> torch.Tensor:
    return torch.arange(n, device=device) * _ODD_64 | 1


ALONE = Ranks()


@contextmanager
def joined(environment: Mapping[str, str], device: torch.device | str, *, timeout_s: float) -> Iterator[Ranks]:
    """Join the other ranks for the length of the block; alone when `environment` has none of torchrun's variables.

    device: cpu joins by gloo; cuda by NCCL, on the GPU of this process's local rank (tensors on the CPU go by gloo
    there too). timeout_s: a collective operation fails when another rank does not join it within this time. Raises
    UsageError for variables that are incomplete or contradict each other, MissingCapabilityError when there is no GPU
    for this rank, and RsnaError when the others cannot be reached; starting again may help.
    """
    ranks = _read_ranks(environment)
    if ranks.n_ranks == 1:
        yield ranks
        return
    address = _read_address(environment)
    is_cuda = torch.device(device).type == "cuda"
    if is_cuda:
        _take_gpu(ranks)
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if is_cuda else "gloo",
            init_method=f"tcp://{address}",
            rank=ranks.rank,
            world_size=ranks.n_ranks,
            timeout=timedelta(seconds=timeout_s),
            device_id=torch.device("cuda", ranks.local_rank) if is_cuda else None,
        )
    except RuntimeError as error:
        raise RsnaError(
            f"rank {ranks.rank} of {ranks.n_ranks} cannot join the others at {address}: {str(error).splitlines()[0]}. "
            "Check that every rank was started, and that this host reaches that address"
        ) from error
    yield ranks
    # Not after an error: destroying waits for collectives under way, which the others may never come to.
    dist.destroy_process_group()


def _read_ranks(environment: Mapping[str, str]) -> Ranks:
    given = [name for name in _RANK_VARIABLES if environment.get(name)]
    if not given:
        return Ranks()
    missing = [name for name in _RANK_VARIABLES if name not in given]
    if missing:
        raise UsageError(f"{' and '.join(given)} set without {' and '.join(missing)}. {_HOW_TO_START}")
    rank, n_ranks, local_rank = (_count(environment, name) for name in _RANK_VARIABLES)
    if not (rank < n_ranks and local_rank < n_ranks):
        raise UsageError(f"RANK={rank} and LOCAL_RANK={local_rank} must be below WORLD_SIZE={n_ranks}. {_HOW_TO_START}")
    return Ranks(rank=rank, n_ranks=n_ranks, local_rank=local_rank)


def _read_address(environment: Mapping[str, str]) -> str:
    missing = [name for name in _ADDRESS_VARIABLES if not environment.get(name)]
    if missing:
        raise UsageError(f"WORLD_SIZE is over 1 without {' and '.join(missing)}. {_HOW_TO_START}")
    host, port = environment["MASTER_ADDR"], _count(environment, "MASTER_PORT")
    if port >= 2**16:
        raise UsageError(f"MASTER_PORT={port}: not a port. {_HOW_TO_START}")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _count(environment: Mapping[str, str], name: str) -> int:
    text = environment[name]
    if not (text.isascii() and text.isdecimal()):
        raise UsageError(f"{name}={text!r}: not a whole number. {_HOW_TO_START}")
    return int(text)


def _take_gpu(ranks: Ranks) -> None:
    """Make the GPU of the local rank the one that CUDA and NCCL use by themselves."""
    n_gpus = torch.cuda.device_count()
    if ranks.local_rank >= n_gpus:
        raise MissingCapabilityError(
            f"local rank {ranks.local_rank} has no GPU: torch sees {n_gpus} here. Start one process for each GPU "
            f"(NPROC={max(n_gpus, 1)} bin/train.sh), or use --device cpu"
        )
    torch.cuda.set_device(ranks.local_rank)
