"""Crop squares for libraries without such a concept: the cut-out itself, and matrices relative to it."""

# N slices

import numpy as np

from rsna_e2e.core.records import Float64Array, Int16Image
from rsna_e2e.loader.geometry import Boxes
from rsna_e2e.tools.bench.job import Job

AIR_HU = np.int16(-1024)  # below every window


def cut(hu: Int16Image, box: Boxes) -> Int16Image:
    """Return the square (x0, y0, side) of a slice: a view where it lies within, else a copy with air beyond."""
    x0, y0, side = map(int, box)
    height, width = hu.shape
    inside = hu[max(y0, 0) : min(y0 + side, height), max(x0, 0) : min(x0 + side, width)]
    if inside.shape == (side, side):
        return inside
    square = np.full((side, side), AIR_HU)
    top, left = max(-y0, 0), max(-x0, 0)
    square[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return square


def crop_matrices(job: Job) -> Float64Array:
    """[N,2,3] from an output pixel to a pixel of the crop square, at pixel centres from 0."""
    matrices = job.params(job.boxes).affine.astype(np.float64)
    matrices[:, :, 2] -= job.boxes[:, :2]
    return matrices
