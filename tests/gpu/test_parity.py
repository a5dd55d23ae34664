"""transform_slices on a GPU: the bits of the CPU, on the caller's stream, with the same complaints."""

# N slices, C channels, H, W input, S output size

import math
from typing import Any

import pytest
import torch

from rsna_e2e import ops
from rsna_e2e.tasks import ICH

pytestmark = pytest.mark.needs_cuda

BOX = torch.tensor([[30, -20, 400], [0, 0, 512], [500, 100, 300], [7, 7, 1]], dtype=torch.int32)


def arguments(n: int = 4, *, height: int = 512, width: int = 500, size: int = 301) -> tuple[torch.Tensor, torch.Tensor]:
    """int16 noise [n, height, width], and a rotation, scale and shift of each slice."""
    generator = torch.Generator().manual_seed(n)
    hu = torch.randint(-2000, 3000, (n, height, width), dtype=torch.int16, generator=generator)
    angle = torch.rand(n, generator=generator) * 2 * math.pi
    scale = width / size * (0.7 + 0.6 * torch.rand(n, generator=generator))
    linear = (
        torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).reshape(n, 2, 2) * scale[:, None, None]
    )
    shift = torch.tensor([width / 2, height / 2]) - linear.sum(2) * (size - 1) / 2
    return hu, torch.cat([linear, shift[:, :, None]], 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("border", ["zero", "replicate"])
@pytest.mark.parametrize(("box", "supersample", "n_channels"), [(None, 1, 3), (BOX, 1, 3), (BOX, 3, 5), (None, 2, 1)])
def test_gpu_gives_the_bits_of_the_cpu(
    dtype: torch.dtype,
    channels_last: bool,
    border: str,
    box: torch.Tensor | None,
    supersample: int,
    n_channels: int,
) -> None:
    hu, affine = arguments()
    windows = [(40.0 + 9 * c, 80.0 + 33 * c) for c in range(n_channels)]
    options: dict[str, Any] = {
        "size": 301,
        "mean": [0.2 + 0.01 * c for c in range(n_channels)],
        "std": [0.3] * n_channels,
        "border": border,
        "source_box": box,
        "dtype": dtype,
        "channels_last": channels_last,
        "supersample": supersample,
    }
    on_gpu = ops.transform_slices(hu.cuda(), affine, windows, **options)
    on_cpu = ops.transform_slices(hu, affine, windows, **options)
    assert on_gpu.is_cuda
    assert on_gpu.stride() == on_cpu.stride()
    assert torch.equal(on_gpu.cpu(), on_cpu)


def test_work_goes_to_the_callers_stream() -> None:
    """A long wait is queued before the input is written: only work that queues behind it sees the input."""
    hu, affine = arguments()
    expected = ops.transform_slices(hu, affine, ICH.windows_hu, size=301)
    hu_gpu = torch.zeros_like(hu, device="cuda")
    pinned = hu.pin_memory()
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        hu_gpu.copy_(pinned, non_blocking=True)
        result = ops.transform_slices(hu_gpu, affine, ICH.windows_hu, size=301)
    stream.synchronize()
    assert torch.equal(result.cpu(), expected)


def test_empty_batch() -> None:
    hu = torch.empty(0, 64, 64, dtype=torch.int16, device="cuda")
    assert ops.transform_slices(hu, torch.empty(0, 2, 3), ICH.windows_hu, size=32).shape == (0, 3, 32, 32)


def test_parameters_must_stay_on_the_host() -> None:
    hu, affine = arguments()
    with pytest.raises(ValueError, match=r"affine must be .* on the CPU"):
        ops.transform_slices(hu.cuda(), affine.cuda(), ICH.windows_hu, size=32)
    with pytest.raises(ValueError, match="values must be on the GPU"):
        ops.transform_slices(hu, affine.cuda(), ICH.windows_hu, size=32)


def test_opcheck() -> None:
    hu, affine = arguments(2, height=40, width=40, size=20)
    extents = torch.full((2,), 40, dtype=torch.int32)
    packed = (hu.reshape(-1).cuda(), torch.tensor([0, 1600]), extents, extents, affine, torch.tensor(ICH.windows_hu))
    torch.library.opcheck(torch.ops.rsna_e2e.transform_slices.default, packed, {"size": 20, "dtype": torch.float16})
