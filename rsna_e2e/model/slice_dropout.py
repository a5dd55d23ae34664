"""Dropout and drop-path with masks by slice: the same in every chunk, pass and rank that computes the slice.

A mask is a pure function of the slice's key and of the number of masks drawn before, so a step has the same masks
however it is divided into chunks and ranks, and after resuming.
"""

# n slices of one chunk

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn

Unit = Literal["element", "channel", "slice"]  # what is dropped as a whole

# The increment and the mixing function of SplitMix64 (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195)
_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_FRACTION_BITS = 24  # of a float32: uniform numbers are exact


class SliceKeys:
    """Keys [n] of the slices that are going through a model; with None, masks come from torch's generator.

    n_drawn: number of masks so far. A module that is called twice in a pass draws two.
    """

    current: torch.Tensor | None = None
    n_drawn: int = 0

    @contextmanager
    def of(self, keys: torch.Tensor) -> Iterator[None]:
        """Set the keys inside the block."""
        self.current, self.n_drawn = keys, 0
        try:
            yield
        finally:
            self.current = None


class SliceDropout(nn.Module):
    """Zeroes elements, channels or whole slices with probability `p` in training, and scales the others by 1 / (1 - p).

    Input: [n, ...], or [n * k, ...] with the k parts of a slice together, such as windows of tokens.
    """

    def __init__(self, p: float, keys: SliceKeys, *, unit: Unit = "element") -> None:
        super().__init__()
        self.p, self._keys, self._unit = p, keys, unit

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return values of the same shape."""
        if not self.training or self.p == 0.0:
            return values
        shape = {"element": values.shape, "channel": values.shape[:2], "slice": values.shape[:1]}[self._unit]
        if self._keys.current is None:
            uniform = torch.rand(shape, device=values.device)
        else:
            n_per_slice = math.prod(shape) // len(self._keys.current)
            self._keys.n_drawn += 1
            uniform = uniform_of(self._keys.current, draw=self._keys.n_drawn, n_per_slice=n_per_slice).view(shape)
        factors = (uniform >= self.p).to(values.dtype) / (1.0 - self.p)
        return values * factors.reshape(*shape, *[1] * (values.ndim - len(shape)))

    def extra_repr(self) -> str:
        """Return the settings that print(module) shows."""
        return f"p={self.p}, unit={self._unit}"


def uniform_of(keys: torch.Tensor, *, draw: int, n_per_slice: int) -> torch.Tensor:
    """Return numbers [n, n_per_slice] float32 in [0, 1), a pure function of the keys [n] int64 and of the draw."""
    states = _mix(keys + _signed(draw * _GOLDEN))[:, None]
    # Mixed, not multiplied: torch's compiler would multiply an index, whose overflow C++ leaves undefined (torch 2.15)
    numbers = _mix(torch.arange(1, n_per_slice + 1, device=keys.device))
    bits = _shifted(_mix(states ^ numbers), 64 - _FRACTION_BITS)
    return bits.float() * 2.0**-_FRACTION_BITS


def slice_keys(seed: int, rows: torch.Tensor) -> torch.Tensor:
    """Return the keys [n] int64 of slices; seed: of the step, of 63 bits. rows: [n] int64, where they are stored."""
    return _mix(rows * _signed(_GOLDEN) + seed)


def drop_by_slice(module: nn.Module, keys: SliceKeys) -> None:
    """Replace every Dropout of torch and DropPath of timm in `module` by a `SliceDropout`.

    Other random layers, such as the dropout inside fused attention, still draw from torch's generator.
    """
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            replacement = _replacement(child, keys)
            if replacement is not None:
                setattr(parent, name, replacement.train(child.training))


def _replacement(module: Any, keys: SliceKeys) -> SliceDropout | None:
    if _is_drop_path(module) and module.scale_by_keep:
        return SliceDropout(module.drop_prob, keys, unit="slice")
    units: dict[type[Any], Unit] = {nn.Dropout: "element", nn.Dropout1d: "channel", nn.Dropout2d: "channel"}
    unit = units.get(type(module))
    return None if unit is None else SliceDropout(module.p, keys, unit=unit)


def _is_drop_path(module: Any) -> bool:
    """Whether it is timm's DropPath. timm takes two seconds to import; where nothing has, no module is of it."""
    layers: Any = sys.modules.get("timm.layers")
    return layers is not None and isinstance(module, layers.DropPath)


def _mix(state: torch.Tensor) -> torch.Tensor:
    for shift, multiplier in zip((30, 27), _MULTIPLIERS, strict=True):
        state = (state ^ _shifted(state, shift)) * _signed(multiplier)
    return state ^ _shifted(state, 31)


def _shifted(bits: torch.Tensor, n: int) -> torch.Tensor:
    """Logical shift to the right: torch's own shift of int64 copies the sign bit."""
    return (bits >> n) & ((1 << (64 - n)) - 1)


def _signed(number: int) -> int:
    """Wrap a number to int64, as sums and products of int64 do."""
    return (number + 2**63) % 2**64 - 2**63
