"""Tensors in safetensors files, copied into a module only when all of them fit.

The format holds numbers and nothing that could run; pickled files (.pt, .pth, .npy of objects) are refused unread.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from rsna_e2e.core.errors import BadInputError

_LENGTH_BYTES = 8  # of the header, a little-endian uint64 (huggingface.co/docs/safetensors, Format)


def encode(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Return the content of a safetensors file."""
    return safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def decode(content: bytes, *, path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors in the content of a safetensors file. Raises BadInputError naming `path`."""
    try:
        tensors = safetensors.torch.load(content)
        _check_names(content)
    except (SafetensorError, KeyError, ValueError, RuntimeError, AssertionError):
        raise BadInputError(f"{path}: not a readable safetensors file (pickled .pth files are not loaded)") from None
    return tensors


def read_file(path: Path) -> bytes:
    """Return the bytes of a regular file. Raises BadInputError."""
    if not path.is_file():  # a pipe would be waited for
        raise BadInputError(f"{path}: no such file. Give a safetensors file, or the folder of a run")
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror}") from error


def load_weights(module: nn.Module, path: Path) -> None:
    """Copy the tensors of a safetensors file into `module`, all of them and nothing else.

    Raises BadInputError naming the file when it is missing, not safetensors, or does not fit.
    """
    copy_into(module, decode(read_file(path), path=path), path=path)


def copy_into(module: nn.Module, tensors: Mapping[str, torch.Tensor], *, path: Path) -> None:
    """Copy tensors into the parameters and buffers of their names, on whatever device those are.

    Raises BadInputError naming `path`, where they come from, when names, shapes or kinds of number differ.
    """
    wanted = module.state_dict()
    for name, tensor in tensors.items():
        if name in wanted and wanted[name].is_floating_point() != tensor.is_floating_point():
            raise _unfit(path, f"{name} is {tensor.dtype} in the file and {wanted[name].dtype} in the model")
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise _unfit(path, str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)) from None


def _unfit(path: Path, reason: str) -> BadInputError:
    return BadInputError(f"{path}: weights do not fit this model: {reason}")


def _check_names(content: bytes) -> None:
    """Raise ValueError when a name occurs twice in the header, as it is unknown which of the two is meant."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) < len(pairs):
            raise ValueError("a name appears twice")
        return dict(pairs)

    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    json.loads(content[_LENGTH_BYTES : _LENGTH_BYTES + length], object_pairs_hook=unique)
