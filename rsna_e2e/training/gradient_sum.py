"""Sums gradients over ranks during the backward pass: those that are final are sent while the rest is computed."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.hooks import RemovableHandle

from rsna_e2e.training.buckets import BucketQueue, make_buckets
from rsna_e2e.training.distributed import Ranks


class GradientSum:
    """Replaces the gradients of the trainable among `parameters` by their sums over the ranks, in buckets.

    Between `begin` and `finish` comes the backward pass that completes the gradients: a bucket is sent as soon as it is
    full, those of the last layers first. All ranks send the same buckets in the same order, however many passes they
    make; a rank that makes none does not call `begin`. A missing gradient counts as zeros and becomes zeros.
    """

    def __init__(self, ranks: Ranks, parameters: Iterable[nn.Parameter], *, bucket_mib: int) -> None:
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        last_first = self._parameters[::-1] if ranks.n_ranks > 1 else []
        self._buckets = list(make_buckets(last_first, limit=bucket_mib * 2**20))
        self._n_missing = [len(bucket) for bucket in self._buckets]
        self._bucket_of = {p: number for number, bucket in enumerate(self._buckets) for p in bucket}
        self._n_sent = 0
        self._queue = BucketQueue(lambda flat: dist.all_reduce(flat, async_op=True))
        self._hooks: list[RemovableHandle] = []

    def begin(self) -> None:
        """Send what becomes final from now on."""
        self._hooks = [
            p.register_post_accumulate_grad_hook(self._arrived)  # type: ignore[no-untyped-call]
            for p in self._bucket_of
        ]

    def finish(self) -> None:
        """Send the rest, and put the sums in their places."""
        for hook in self._hooks:
            hook.remove()
        fill_missing(self._parameters)
        while self._n_sent < len(self._buckets):
            self._send()
        self._queue.drain()

    def _arrived(self, parameter: torch.Tensor) -> None:
        assert isinstance(parameter, nn.Parameter)
        self._n_missing[self._bucket_of[parameter]] -= 1
        while self._n_sent < len(self._buckets) and self._n_missing[self._n_sent] == 0:
            self._send()

    def _send(self) -> None:
        gradients = [parameter.grad for parameter in self._buckets[self._n_sent]]
        self._queue.put([gradient for gradient in gradients if gradient is not None])
        self._n_sent += 1


def fill_missing(parameters: Iterable[nn.Parameter]) -> list[torch.Tensor]:
    """Return the gradients of the trainable parameters; one that is missing becomes zeros.

    So the optimiser does the same with any number of ranks.
    """
    gradients = []
    for parameter in parameters:
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
    return gradients
