"""transform_slices on the CPU at the sizes where its kernel takes another path."""

# N slices

from typing import Any

import pytest
import torch

from rsna_e2e.loader.kernels import torch_ops
from rsna_e2e.tasks.ich import ICH

STREAMED_BYTES = 2**22  # outputs from here on go past the caches


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("channels_last", [False, True])
def test_large_outputs_equal_small_ones(dtype: torch.dtype, channels_last: bool) -> None:
    """Whole lines of 64 bytes go past the caches; the rows of this output begin anywhere in a line."""
    n, height, width, size = 16, 60, 50, 301
    generator = torch.Generator().manual_seed(1)
    hu = torch.randint(-200, 300, (n, height, width), dtype=torch.int16, generator=generator)
    affine = torch.tensor([[0.15, -0.1, 20.0], [0.1, 0.15, -9.0]]) * (1 + 0.02 * torch.arange(n)[:, None, None])
    extents = (torch.full((n,), extent, dtype=torch.int32) for extent in (height, width))
    packed = (hu.reshape(-1), torch.arange(n) * height * width, *extents, affine, torch.tensor(ICH.inputs.windows_hu))
    options: dict[str, Any] = {"size": size, "dtype": dtype, "channels_last": channels_last}
    alone = [
        torch_ops.transform_slices(hu[k : k + 1], affine[k : k + 1], ICH.inputs.windows_hu, **options) for k in range(n)
    ]
    assert alone[0].nbytes < STREAMED_BYTES <= n * alone[0].nbytes
    for name in torch_ops.cpu_instruction_sets():
        together = torch.ops.rsna_e2e.transform_slices(*packed, **options, instruction_set=name)
        assert torch.equal(together, torch.cat(alone)), name


def test_slices_too_large_for_an_index_in_fp32() -> None:
    """Rows of 32767 pixels, 700 up and down from the anchor: indices to 2.3e7, of which fp32 holds only the even."""
    x, y = torch.arange(8) * 3001 + 4001, torch.arange(8) * 201 + 1
    hu = torch.zeros(1, 1409, 32767, dtype=torch.int16)
    hu[0, y[:, None], x] = torch.arange(1, 65, dtype=torch.int16).reshape(8, 8)
    affine = torch.tensor([[[3001.0, 0, 4001], [0, 201, 1]]])
    image = torch_ops.transform_slices(hu, affine, [(32.0, 64.0)], size=8)
    assert torch.equal(image, torch.arange(1, 65).reshape(1, 1, 8, 8) / 64)
