"""Parameters of the image transform, constant for a run."""

from dataclasses import dataclass

import torch

from rsna_e2e.config import ImageConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSettings:
    """Parameters of the image transform.

    windows_hu: (center, width) of each channel. mean, std: of the windowed values. image: size, crop and kind of
    values, as configured. border, dtype: see `torch_ops`. device: of the images.
    """

    windows_hu: tuple[tuple[float, float], ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image: ImageConfig
    border: str
    dtype: torch.dtype
    device: torch.device


def empty_images(settings: ImageSettings) -> torch.Tensor:
    """The images of a batch without slices."""
    shape = (0, len(settings.windows_hu), settings.image.size, settings.image.size)
    return torch.empty(shape, dtype=settings.dtype, device=settings.device, memory_format=torch.channels_last)
