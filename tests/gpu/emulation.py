"""The CUDA kernels on the emulated runtime, called from Python."""

import ctypes
from pathlib import Path
from typing import Any

import on_host
import torch
from transform_cases import TYPES, options, windows

GUARD = 64  # bytes before and after the output that must stay as they were
SOURCES = ("tests/gpu/emulate_cuda.cpp", "csrc/ct_params.cpp", on_host.SCHEDULER)


def load(folder: Path, root: Path = on_host.ROOT) -> ctypes.CDLL:
    """Compile the tree `root` and load the result."""
    objects = on_host.compile_all(folder, *SOURCES, root=root)
    return ctypes.CDLL(str(on_host.link(folder / "emulated.so", objects, "-shared")))


def pointer(tensor: torch.Tensor | None, offset: int = 0) -> ctypes.c_void_p | None:
    """Address of a tensor's memory, or of a byte in it."""
    return None if tensor is None else ctypes.c_void_p(tensor.data_ptr() + offset)


def transform(
    emulated: ctypes.CDLL, hu: torch.Tensor, affine: torch.Tensor, *, shift: int = 0, fill: int = 0xA5, **chosen: Any
) -> torch.Tensor:
    """What the emulated launch gives; nothing beside the output is written.

    shift: the output begins so many values after a multiple of 16 bytes. fill: every byte of it before the launch.
    chosen: arguments of ops.transform_slices, and n_channels.
    """
    n_channels, dtype, size = chosen["n_channels"], chosen["dtype"], chosen["size"]
    channels_last = chosen.get("channels_last", False)
    lowest_hu, pairs = options(n_channels, dtype, hu).get("lowest_hu"), windows(n_channels)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    result = torch.empty(hu.shape[0], n_channels, size, size, dtype=dtype, memory_format=layout)
    memory = torch.full((result.nbytes + 2 * GUARD,), fill, dtype=torch.uint8)
    begin = GUARD // 2 - memory.data_ptr() % 16 + shift * result.element_size()
    failure = emulated.emulate(
        *(pointer(hu), ctypes.c_int64(hu.shape[0]), *hu.shape[1:], pointer(affine)),
        *(pointer(chosen.get("source_box")), n_channels, pointer(pairs)),
        *(size, chosen.get("supersample", 1), chosen.get("border") == "replicate", TYPES.index(dtype)),
        *(channels_last, pointer(lowest_hu), pointer(memory, begin)),
    )
    assert failure == 0
    ctypes.memmove(result.data_ptr(), memory.data_ptr() + begin, result.nbytes)
    assert (memory[:begin] == fill).all()
    assert (memory[begin + result.nbytes :] == fill).all()
    return result
