"""Cubic interpolation between pixel grids by sparse matrices: one thread, so always the same bits."""

from functools import lru_cache
from typing import Any

import numpy as np
from scipy import sparse

from rsna_e2e.core.records import Float32Array, Float64Array

MARGIN = 2  # coarse samples beyond the first and last fine one, as the cubic kernel needs


def _catmull_rom(t: Float32Array) -> Float32Array:
    """Weights [n, 4] of the four neighbours at fraction `t` [n]. Source: Catmull and Rom, 1974."""
    t2, t3 = t * t, t * t * t
    return np.stack(
        [
            -0.5 * t3 + t2 - 0.5 * t,
            1.5 * t3 - 2.5 * t2 + 1.0,
            -1.5 * t3 + 2.0 * t2 + 0.5 * t,
            0.5 * t3 - 0.5 * t2,
        ],
        axis=1,
    )


def cubic_matrix(at: Float64Array, n: int) -> Any:
    """Matrix [m, n] that interpolates n samples at the places `at` [m], in samples; the ends are repeated."""
    first = np.floor(at).astype(np.int32)
    weights = _catmull_rom((at - first).astype(np.float32)).astype(np.float32)
    columns = np.clip(first[:, None] + np.arange(-1, 3, dtype=np.int32), 0, n - 1)
    starts = np.arange(0, 4 * len(at) + 1, 4, dtype=np.int32)
    matrix = sparse.csr_matrix((weights.ravel(), columns.ravel(), starts), shape=(len(at), n))
    if len(at) and (first.min() < 1 or first.max() > n - 3):
        matrix.sum_duplicates()
    return matrix


@lru_cache(maxsize=256)
def refine_matrix(n_coarse: int, factor: int) -> Any:
    """Matrix [n_fine, n_coarse]; coarse sample MARGIN + i sits on the centre of fine pixel i * factor.

    n_fine = (n_coarse - 2 MARGIN) * factor.
    """
    n_fine = (n_coarse - 2 * MARGIN) * factor
    return cubic_matrix(MARGIN + np.arange(n_fine) / factor, n_coarse)


@lru_cache(maxsize=4)
def double_matrix(n: int) -> Any:
    """Matrix [2 n, n] that doubles a grid; pixel i becomes pixels 2 i and 2 i + 1, edges are repeated."""
    return cubic_matrix(np.asarray((np.arange(2 * n) - 0.5) / 2.0), n)


def refine(coarse: Float32Array, factor: int) -> Float32Array:
    """Interpolate planes [..., a, b] to [..., (a - 2 MARGIN) factor, (b - 2 MARGIN) factor]."""
    lead, (a, b) = coarse.shape[:-2], coarse.shape[-2:]
    over_a, over_b = refine_matrix(a, factor), refine_matrix(b, factor)
    planes = coarse.reshape(-1, a, b)
    fine = np.empty((len(planes), over_a.shape[0], over_b.shape[0]), np.float32)
    for index, plane in enumerate(planes):
        fine[index] = over_a @ np.ascontiguousarray((over_b @ np.ascontiguousarray(plane.T)).T)
    return fine.reshape(*lead, *fine.shape[1:])


def double(image: Float32Array) -> Float32Array:
    """Interpolate a square image [n, n] to [2 n, 2 n]."""
    matrix = double_matrix(len(image))
    return np.asarray(matrix @ np.ascontiguousarray((matrix @ np.ascontiguousarray(image.T)).T))
