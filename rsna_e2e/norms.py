"""Norms that keep running statistics: which there are, how they are frozen, and what of a model they move."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

_STATISTICS = ("running_mean", "running_var")  # torch's names, and timm's


def running_norms(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules that normalise by the slices they see together in training, and by running statistics later."""
    for child in module.modules():
        if any(getattr(child, name, None) is not None for name in _STATISTICS):
            yield child


def mixes_slices(module: nn.Module) -> bool:
    """Whether what comes out for a slice depends on those that go through `module` with it, in train mode."""
    return next(running_norms(module), None) is not None


def freeze_norms(module: nn.Module) -> None:
    """Make all of them use their running statistics, which then stay as they are."""
    for norm in running_norms(module):
        norm.eval()


def moving_buffers(module: nn.Module) -> list[torch.Tensor]:
    """Return the buffers that a forward pass may change: all but those of norms that are frozen."""
    frozen = {id(b) for norm in running_norms(module) if not norm.training for b in norm.buffers(recurse=False)}
    return [buffer for buffer in module.buffers() if id(buffer) not in frozen]


@contextmanager
def buffers_kept(module: nn.Module) -> Iterator[None]:
    """Undo what forward passes inside the block do to buffers."""
    buffers = moving_buffers(module)
    before = copied(buffers)
    try:
        yield
    finally:
        copy_back(buffers, before)


@torch.no_grad()
def copied(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return copies of many small tensors, made together."""
    copies = [torch.empty_like(tensor) for tensor in tensors]
    copy_back(copies, tensors)
    return copies


@torch.no_grad()
def copy_back(tensors: Sequence[torch.Tensor], before: Sequence[torch.Tensor]) -> None:
    """Copy `before` into `tensors`, all together."""
    if tensors:
        torch._foreach_copy_(list(tensors), list(before))
