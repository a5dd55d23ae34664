"""What transform_slices is tried with on a GPU, real or emulated."""

# N slices, H, W input, S output size

import math
from typing import Any

import torch

TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.uint8)  # in the order of csrc's OutputType
# Around the kernels' tiles of 32 pixels, 16 rows and spans of 256, whole and cut, and sizes whose rows are not aligned.
SIZES = (1, 2, 3, 7, 31, 32, 48, 127, 128, 264)
BOX = torch.tensor([[30, -20, 40], [0, 0, 51], [40, 10, 30], [7, 7, 1]], dtype=torch.int32)


def noise(n: int, height: int, width: int) -> torch.Tensor:
    """int16 HU [n, height, width]."""
    generator = torch.Generator().manual_seed(n * height + width)
    return torch.randint(-2000, 3000, (n, height, width), dtype=torch.int16, generator=generator)


def turned(n: int, height: int, width: int, size: int, *, zoom: float = 1.0) -> torch.Tensor:
    """[n, 2, 3]: a rotation, scale and shift of each slice; the first is not turned. A high zoom stays inside."""
    generator = torch.Generator().manual_seed(size)
    angle = torch.rand(n, generator=generator) * 2 * math.pi
    angle[0] = 0
    scale = min(height, width) / size / zoom * (0.7 + 0.6 * torch.rand(n, generator=generator))
    linear = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).reshape(n, 2, 2)
    linear = linear * scale[:, None, None]
    shift = torch.tensor([width / 2, height / 2]) - linear.sum(2) * (size - 1) / 2
    return torch.cat([linear, shift[:, :, None]], 2)


def options(n_channels: int, dtype: torch.dtype, hu: torch.Tensor) -> dict[str, Any]:
    """Keyword arguments that go with a number of windows and a type: normalisation, or the 8-bit mode's lowest HU."""
    if dtype == torch.uint8:
        return {"lowest_hu": hu.amin((1, 2)).int()}
    return {"mean": [0.2 + 0.01 * c for c in range(n_channels)], "std": [0.3] * n_channels}


def windows(n_channels: int) -> torch.Tensor:
    """[n_channels, 2] center and width in HU."""
    return torch.tensor([[40.0 + 20 * c, 80.0 + 633 * c] for c in range(n_channels)])


def content(n: int, height: int, width: int) -> torch.Tensor:
    """int16 HU [n, height, width]: air, with a rectangle or a single pixel of 40 HU; every fourth slice without."""
    hu = torch.full((n, height, width), -1000, dtype=torch.int16)
    generator = torch.Generator().manual_seed(width)
    for i in range(n):
        if i % 4 == 3:
            continue
        x = torch.randint(width, (2,), generator=generator).sort().values.tolist()
        y = torch.randint(height, (2,), generator=generator).sort().values.tolist()
        hu[i, y[0] : y[1] + 1, x[0] : (x[1] if i % 4 else x[0]) + 1] = 40
    hu[0, :, 0] = hu[0, :, -1] = 40
    return hu
