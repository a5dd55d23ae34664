"""Buckets of tensors for communication between ranks: many packed into few flat ones, sent, and unpacked again."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TypeVar

import torch
import torch.distributed as dist

IN_FLIGHT = 4  # buckets under way at a time: while some travel, others are filled

T = TypeVar("T", bound=torch.Tensor)
Send = Callable[[torch.Tensor], dist.Work | None]


class BucketQueue:
    """Sends buckets of tensors and puts what comes back into their places, `IN_FLIGHT` of them under way at most."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._under_way: deque[tuple[torch.Tensor, Sequence[torch.Tensor], dist.Work | None]] = deque()

    @torch.no_grad()
    def put(self, bucket: Sequence[torch.Tensor]) -> None:
        """Send tensors of one dtype and device; they must stay until `drain`."""
        if len(self._under_way) == IN_FLIGHT:
            self._receive()
        flat = torch.empty(sum(t.numel() for t in bucket), dtype=bucket[0].dtype, device=bucket[0].device)
        torch._foreach_copy_(parts(flat, bucket), list(bucket))
        self._under_way.append((flat, bucket, self._send(flat)))

    @torch.no_grad()
    def drain(self) -> None:
        """Wait for all that is under way."""
        while self._under_way:
            self._receive()

    def _receive(self) -> None:
        flat, bucket, work = self._under_way.popleft()
        assert work is not None
        work.wait()
        torch._foreach_copy_(list(bucket), parts(flat, bucket))


def parts(flat: torch.Tensor, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the piece of `flat` that is each tensor's own, in its shape."""
    pieces = torch.split(flat, [tensor.numel() for tensor in tensors])
    return [piece.view(tensor.shape) for piece, tensor in zip(pieces, tensors, strict=True)]


def make_buckets(tensors: Sequence[T], *, limit: int) -> Iterator[list[T]]:
    """Split tensors into runs of one dtype and device, of at most `limit` bytes or a single tensor."""
    for _, alike in groupby(tensors, key=lambda tensor: (tensor.dtype, tensor.device)):
        bucket: list[T] = []
        n_bytes = 0
        for tensor in alike:
            if bucket and n_bytes + tensor.nbytes > limit:
                yield bucket
                bucket, n_bytes = [], 0
            bucket.append(tensor)
            n_bytes += tensor.nbytes
        yield bucket
