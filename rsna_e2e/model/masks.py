"""Masks of boxes and boxes of masks: filling boxes with pixels, and boxing pixels that are connected."""

# K boxes, S image side, H, W rows and columns of a map

from collections.abc import Iterator

import numpy as np
import torch

from rsna_e2e.core.records import Float32Array
from rsna_e2e.tasks.boxes import HALF_PX

_MOST = 100  # boxes of an image


def filled(edges_K4: torch.Tensor, *, size: int) -> torch.Tensor:
    """Return the mask [K, S, S], bool, of each box on images of the side `size`: pixels whose centre lies in it.

    edges_K4: x0, y0, x1, y1 in px, where whole numbers are the centres of pixels; a centre on x0 or y0 lies in the box,
    one on x1 or y1 does not.
    """
    centres_S = torch.arange(size, device=edges_K4.device)
    low_K2, high_K2 = edges_K4[:, :2, None], edges_K4[:, 2:, None]
    inside_K2S = (low_K2 <= centres_S) & (centres_S < high_K2)
    return inside_K2S[:, 1, :, None] & inside_K2S[:, 0, None, :]


def components(
    probability_HW: Float32Array, *, threshold: float, least_area_px: int = 1, cell_px: int = 1
) -> tuple[Float32Array, Float32Array]:
    """Return edges [K, 4] and scores [K] of the boxes round connected cells of at least this probability.

    Cells that meet at a corner are connected. Edges are in px of the image, of which a cell is `cell_px` wide, whole
    numbers being the centres of pixels; a box's score is the mean probability in it. Boxes of fewer pixels than
    `least_area_px` are dropped; of the others, the 100 with the highest scores are returned, by falling score.
    Source: the "ResNet" of EC601's pneumonia project.
    """
    boxes = np.array(list(_boxed(probability_HW, threshold)), dtype=np.float32).reshape(-1, 5)
    edges_K4, scores_K = boxes[:, :4] * cell_px - np.float32(HALF_PX), boxes[:, 4]
    is_large_K = (edges_K4[:, 2:] - edges_K4[:, :2]).prod(axis=1) >= least_area_px
    edges_K4, scores_K = edges_K4[is_large_K], scores_K[is_large_K]
    order = np.argsort(-scores_K, kind="stable")[:_MOST]
    return edges_K4[order], scores_K[order]


def _boxed(probability_HW: Float32Array, threshold: float) -> Iterator[tuple[float, ...]]:
    """Yield x0, y0, x1, y1 in cells from the corner of the map, and the mean probability."""
    from scipy.ndimage import find_objects, label  # takes a second

    numbers_HW, _ = label(probability_HW >= threshold, structure=np.ones((3, 3)))
    for rows, columns in find_objects(numbers_HW):
        yield columns.start, rows.start, columns.stop, rows.stop, float(probability_HW[rows, columns].mean())
