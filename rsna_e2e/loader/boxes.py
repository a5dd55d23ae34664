"""Boxes of slices in the pixels of the images that the network sees, and back."""

# K boxes, n slices of a rank

import numpy as np
import numpy.typing as npt
import torch

from rsna_e2e.core.records import Float64Array
from rsna_e2e.loader.batch import BatchBoxes
from rsna_e2e.loader.batch_plan import BatchPlan
from rsna_e2e.store import Store
from rsna_e2e.tasks.boxes import HALF_PX

LEAST_SHARE = 0.3  # of a box that must be left in the image: of less, nobody could say from the image that it is there


def transform_boxes(
    edges_K4: Float64Array, affine_23: npt.NDArray[np.floating], *, size: int
) -> tuple[Float64Array, npt.NDArray[np.bool_]]:
    """Return boxes in the pixels of images of the side `size`, without those of which less than `LEAST_SHARE` of the
    area lies in it; and which [K] those are that are left.

    edges_K4: x0, y0, x1, y1, as of `ImageBoxes`. affine_23: of the slice, or [K, 2, 3], of that of each box; it maps
    pixels of the image to those of the slice, as of `SliceParams`. A box that is turned becomes the smallest one round
    it, so that turns enlarge boxes and flips do not.
    """
    matrix = np.zeros((*affine_23.shape[:-2], 3, 3))
    matrix[..., :2, :], matrix[..., 2, 2] = affine_23, 1.0
    whole = source_boxes(edges_K4, np.linalg.inv(matrix)[..., :2, :])
    edges = whole.clip(-HALF_PX, size - HALF_PX)
    areas, whole_areas = ((each[:, 2:] - each[:, :2]).prod(axis=1) for each in (edges, whole))
    is_left_K = np.asarray(areas >= LEAST_SHARE * whole_areas)
    return edges[is_left_K], is_left_K


def source_boxes(edges_K4: Float64Array, affine_23: npt.NDArray[np.floating]) -> Float64Array:
    """Return boxes of images in the pixels of their slices: the smallest ones round them, as in `transform_boxes`."""
    corners_K42 = np.stack([edges_K4[:, [0, 2, 0, 2]], edges_K4[:, [1, 1, 3, 3]]], axis=2)
    linear, shift = affine_23[..., :2].astype(np.float64), affine_23[..., 2].astype(np.float64)
    mapped_K42 = corners_K42 @ np.swapaxes(linear, -1, -2) + shift[..., None, :]
    return np.hstack([mapped_K42.min(axis=1), mapped_K42.max(axis=1)])


def batch_boxes(store: Store, plan: BatchPlan, *, size: int, device: torch.device) -> BatchBoxes | None:
    """Return the boxes of the images of a plan, of the side `size`; None where the task of the store has no boxes.

    An image that has lost a box, because too little of it is left, is known all the same.
    """
    if not store.box_names:
        return None
    found, _ = store.boxes.of_images(plan.rows)
    edges, is_left_K = transform_boxes(found.edges, plan.affine[found.images], size=size)
    return BatchBoxes(
        edges=torch.from_numpy(edges.astype(np.float32)).to(device),
        classes=torch.from_numpy(found.classes[is_left_K]).to(device),
        images=torch.from_numpy(found.images[is_left_K]).to(device),
        known=torch.from_numpy(store.boxes_known[plan.rows]).to(device),
    )
