"""Views of images, over which predictions or embeddings are averaged (test-time augmentation)."""

import torch

from rsna_e2e.config import View


def turned(images_NCSS: torch.Tensor, view: View) -> torch.Tensor:
    """Return a view of images, channels-last as they are: hflip mirrors columns, transpose swaps rows and columns."""
    match view:
        case "plain":
            return images_NCSS
        case "hflip":
            return images_NCSS.flip(-1)
        case "transpose":
            return images_NCSS.transpose(-1, -2).contiguous(memory_format=torch.channels_last)
