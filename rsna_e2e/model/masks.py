"""Masks of boxes, and boxes of masks."""

# K boxes, S image side

import torch


def filled(edges_K4: torch.Tensor, size: int) -> torch.Tensor:
    """Return the mask [K, S, S] bool of each box: the pixels whose centres lie in it."""
    centres_S = torch.arange(size, device=edges_K4.device)
    low_K2, high_K2 = edges_K4[:, :2, None], edges_K4[:, 2:, None]
    inside_K2S = (centres_S >= low_K2) & (centres_S <= high_K2)
    return inside_K2S[:, 1, :, None] & inside_K2S[:, 0, None, :]
