"""The fused pixel kernel as torch operators: int16 HU slices to normalised network input, in one pass.

Shapes: N slices, C channels (windows), S output size. Only the HU values may be on a GPU; all other tensors are small
and stay on the host, so that checking them never waits for a device. All functions raise ValueError for an argument
that is out of range, MissingCapabilityError for values on a GPU when the extension was built without CUDA.

windows: [C, 2] center and width in HU (LINEAR_EXACT, PS3.3 C.11.2.1.3.2). A packed form takes slices of any sizes, one
after another: values, flat int16 in HU, and offsets [N] int64, heights [N] int32, widths [N] int32, the place and size
of each slice among them.

`transform_slices` and its packed form take, beside the fields of `Transform`, which are the same for all slices:

affine: [N, 2, 3] float32, maps an output pixel (x, y) to an input pixel, both counted at pixel centres from 0.
source_box: [N, 3] int32, (x0, y0, side) of a square: taps outside the slice's part of it are 0, and border "replicate"
clamps to the square; None is the whole slice.
lowest_hu: [N] int32, the lowest HU of each slice, for dtype uint8 only, see below.
out: a tensor to write to and return, with the shape, type, device and memory format of the result. Its content does not
matter.

They return [N, C, S, S]. On a CPU, memory of results is used again once no tensor holds it: fresh pages cost more than
filling them. At most 1 GiB is kept for that, see `idle_memory_bytes` and `release_idle_memory`. On a GPU torch keeps
memory, and a CUDA graph does not capture these functions, because a replay would read parameters that are gone: call
them beside it, with `out`.

dtype uint8 makes the 8-bit images of the published solution, which quantised before it resized: every tap becomes a
grey level trunc(255 * windowed) in float64, and the interpolated grey level is rounded to the nearest. The published
solution subtracts each channel's minimum before it truncates: `lowest_hu` asks for that; None subtracts nothing. The
zero border is level 0. mean and std must be None.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rsna_e2e.core.errors import BUILD_COMMAND, MissingCapabilityError

Floats = torch.Tensor | Sequence[float]
Pairs = torch.Tensor | Sequence[tuple[float, float]]

_LIBRARY = Path(__file__).with_name("_C.abi3.so")
_BAD_ARGUMENT = ("transform_slices: ", "content_box: ")  # how csrc begins its messages about arguments

if not _LIBRARY.exists():
    raise MissingCapabilityError(f"the compiled extension {_LIBRARY.name} is missing; build it with: {BUILD_COMMAND}")
torch.ops.load_library(str(_LIBRARY))  # type: ignore[no-untyped-call]  # torch has no types for it
IS_CUDA_BUILT = bool(torch.ops.rsna_e2e.is_cuda_built())


@dataclass(frozen=True, slots=True, kw_only=True)
class Transform:
    """How slices become images [N, C, S, S], the same for all slices of a call.

    windows: every tap is clipped to [0, 1] by its window before the bilinear interpolation. size: S. mean, std: [C] of
    the windowed values; None is 0 and 1. border: "zero" (0 before normalisation) or "replicate". dtype: float32,
    float16, bfloat16 or uint8. channels_last: memory format of the images. supersample: k x k samples per output pixel,
    against aliasing.
    """

    windows: Pairs
    size: int
    mean: Floats | None = None
    std: Floats | None = None
    border: str = "zero"
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    supersample: int = 1


def transform_slices(
    hu: torch.Tensor,
    affine: torch.Tensor,
    windows: Pairs,
    *,
    size: int,
    mean: Floats | None = None,
    std: Floats | None = None,
    border: str = "zero",
    source_box: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    supersample: int = 1,
    lowest_hu: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Window, resample and normalise N slices of one size. hu: [N, H, W] int16 in HU; the rest is explained above."""
    transform = Transform(
        windows=windows,
        size=size,
        mean=mean,
        std=std,
        border=border,
        dtype=dtype,
        channels_last=channels_last,
        supersample=supersample,
    )
    return transform_slices_packed(*_packed(hu), affine, transform, source_box=source_box, lowest_hu=lowest_hu, out=out)


def transform_slices_packed(
    values: torch.Tensor,
    offsets: torch.Tensor,
    heights: torch.Tensor,
    widths: torch.Tensor,
    affine: torch.Tensor,
    transform: Transform,
    *,
    source_box: torch.Tensor | None = None,
    lowest_hu: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Window, resample and normalise N slices of any sizes; the arguments are explained above."""
    tensors = (values, offsets, heights, widths, affine, _float32(transform.windows))
    options: dict[str, Any] = {
        "size": transform.size,
        "source_box": None if source_box is None else source_box.contiguous(),
        "mean": None if transform.mean is None else _float32(transform.mean),
        "std": None if transform.std is None else _float32(transform.std),
        "border": transform.border,
        "dtype": transform.dtype,
        "channels_last": transform.channels_last,
        "supersample": transform.supersample,
        "lowest_hu": None if lowest_hu is None else lowest_hu.contiguous(),
    }
    if out is None:
        images: torch.Tensor = _call(torch.ops.rsna_e2e.transform_slices, *tensors, **options)
        return images
    if out.requires_grad:
        raise ValueError("transform_slices: out must not require a gradient, because there is none. Give out.detach()")
    _call(torch.ops.rsna_e2e.transform_slices_out, *tensors, **options, out=out)
    if not torch.compiler.is_compiling() and not out.is_inference():
        torch.autograd.graph.increment_version(out)  # so that autograd complains if it still needed the old values
    return out


def content_box(hu: torch.Tensor, windows: Pairs) -> torch.Tensor:
    """Bounding box of the pixels that reach grey level 1 of 255 in any window. hu: [N, H, W] int16 in HU.

    Returns [N, 4] int32 on the device of hu: x0, y0, x1, y1 (x1 and y1 exclusive), all 0 for a slice without content.
    """
    return content_box_packed(*_packed(hu), windows)


def content_box_packed(
    values: torch.Tensor, offsets: torch.Tensor, heights: torch.Tensor, widths: torch.Tensor, windows: Pairs
) -> torch.Tensor:
    """`content_box` of slices of any sizes; the arguments are explained above."""
    boxes: torch.Tensor = _call(torch.ops.rsna_e2e.content_box, values, offsets, heights, widths, _float32(windows))
    return boxes


def _packed(hu: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values, offsets, heights and widths of slices of one size."""
    if hu.dim() != 3:
        raise ValueError(f"hu must have shape [N, H, W], not {list(hu.shape)}")
    n, height, width = hu.shape
    return (
        hu.reshape(-1),
        torch.arange(n, dtype=torch.int64) * (height * width),
        torch.full((n,), height, dtype=torch.int32),
        torch.full((n,), width, dtype=torch.int32),
    )


def _call(op: Callable[..., Any], values: torch.Tensor, *tensors: torch.Tensor, **options: Any) -> Any:
    """Call an operator; raise its errors as ValueError or MissingCapabilityError."""
    if values.is_cuda and not IS_CUDA_BUILT:
        raise MissingCapabilityError(
            f"the extension was built without CUDA; build it with: RSNA_WITH_CUDA=1 {BUILD_COMMAND}"
        )
    try:
        return op(*(tensor.contiguous() for tensor in (values, *tensors)), **options)
    except RuntimeError as error:
        # Newer torch turns every C++ exception of an operator into a RuntimeError (2.11 does not).
        if str(error).startswith(_BAD_ARGUMENT):
            raise ValueError(str(error)) from None
        raise


def cpu_instruction_sets() -> tuple[str, ...]:
    """Names of the compiled CPU kernels that this machine can run, the one in use first; all give the same bits."""
    return tuple(torch.ops.rsna_e2e.cpu_instruction_sets().split())


def idle_memory_bytes() -> int:
    """Return the bytes of CPU memory kept for the next results, which no tensor holds any more."""
    return int(torch.ops.rsna_e2e.idle_memory_bytes())


def release_idle_memory() -> int:
    """Free that memory, and return how many bytes it was."""
    return int(torch.ops.rsna_e2e.release_idle_memory())


def _float32(numbers: Floats | Pairs) -> torch.Tensor:
    return torch.as_tensor(numbers, dtype=torch.float32).contiguous()


@torch.library.register_fake("rsna_e2e::transform_slices")  # type: ignore[untyped-decorator]
def _transform_slices_fake(
    values: torch.Tensor,
    offsets: torch.Tensor,
    heights: torch.Tensor,
    widths: torch.Tensor,
    affine: torch.Tensor,
    windows: torch.Tensor,
    *,
    size: int,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    **options: Any,
) -> torch.Tensor:
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    shape = (offsets.shape[0], windows.shape[0], size, size)
    return torch.empty(shape, dtype=dtype, device=values.device, memory_format=memory_format)


@torch.library.register_fake("rsna_e2e::transform_slices_out")  # type: ignore[untyped-decorator]
def _transform_slices_out_fake(values: torch.Tensor, *tensors: torch.Tensor, out: torch.Tensor, **options: Any) -> None:
    torch._check(out.device == values.device, lambda: "transform_slices: out must be on the device of the values")


@torch.library.register_fake("rsna_e2e::content_box")  # type: ignore[untyped-decorator]
def _content_box_fake(
    values: torch.Tensor, offsets: torch.Tensor, heights: torch.Tensor, widths: torch.Tensor, windows: torch.Tensor
) -> torch.Tensor:
    return torch.empty((offsets.shape[0], 4), dtype=torch.int32, device=values.device)
