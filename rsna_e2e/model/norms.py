"""Norm layers with running statistics: finding them, freezing them, and restoring the buffers that they change."""

from collections.abc import Callable, Iterator, Sequence
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
    """Whether in train mode the output for a slice depends on the other slices that go through `module` with it."""
    return next(running_norms(module), None) is not None


def freeze_norms(module: nn.Module) -> None:
    """Make all norms of `module` use their running statistics, which then do not change."""
    for norm in running_norms(module):
        norm.eval()


@torch.no_grad()
def refuses_one(module: nn.Module, *, n_channels: int, size: int) -> bool:
    """Whether torch refuses a single slice in train mode, because a norm would see one value per channel: no variance.

    Found by trying; `module` is left as it was. size: side of the image. Other errors are raised.
    """
    image_1CSS = torch.zeros(1, n_channels, size, size, device=next(module.parameters()).device)
    was_training = module.training
    module.train()
    with buffers_kept(module):
        try:
            module(image_1CSS)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            return True
        finally:
            module.train(was_training)
    return False


def moving_buffers(module: nn.Module) -> list[torch.Tensor]:
    """Return the buffers that a forward pass may change: all but those of norms that are frozen."""
    frozen = {id(b) for norm in running_norms(module) if not norm.training for b in norm.buffers(recurse=False)}
    return [buffer for buffer in module.buffers() if id(buffer) not in frozen]


@contextmanager
def buffers_kept(module: nn.Module) -> Iterator[None]:
    """Undo what forward passes inside the block do to buffers."""
    restore = snapshot(moving_buffers(module))
    try:
        yield
    finally:
        restore()


def snapshot(tensors: Sequence[torch.Tensor]) -> Callable[[], None]:
    """Copy many small tensors, together; return a function that gives them the values that they have now."""
    copies = [torch.empty_like(tensor) for tensor in tensors]
    copy_together(copies, tensors)
    return lambda: copy_together(tensors, copies)


@torch.no_grad()
def copy_together(tensors: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> None:
    """Copy `sources` into `tensors`, all in one operation."""
    if tensors:
        torch._foreach_copy_(list(tensors), list(sources))
