"""Thumbnails of single slices, in one window."""

# H, W rows and columns of a slice

import io
import math
from collections.abc import Sequence

import matplotlib.image
import numpy as np
import torch

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.limits import MAX_SUPERSAMPLE
from rsna_e2e.core.records import Float32Array, Int16Image
from rsna_e2e.evaluation.report.theme import data_uri
from rsna_e2e.loader.kernels import torch_ops
from rsna_e2e.loader.present import shown_slice
from rsna_e2e.store import Store

_SIDE = 224

# Samples per pixel and axis: a slice of 512 is reduced 2.3 times; of larger ones, one for every two of its pixels.
_SUPERSAMPLE = 3

_JPEG_QUALITY = 85


class Thumbnails:
    """Pictures of the slices of a store, by image id. window_hu: center and width."""

    def __init__(self, store: Store, window_hu: tuple[float, float]) -> None:
        self._store, self._window_hu = store, window_hu
        self._row_of = {str(image_id): row for row, image_id in enumerate(store.index["image_id"])}

    def data_uri(self, image_id: str) -> str:
        """Return `picture` as a JPEG data URI."""
        return data_uri("image/jpeg", jpeg(self.picture(image_id)))

    def picture(self, image_id: str) -> Float32Array:
        """Return a slice in the window, fitted into a square of values in [0, 1].

        Raises BadInputError when the store has no such image.
        """
        row = self._row_of.get(image_id)
        if row is None:
            raise BadInputError(f"{self._store.path}: holds no image {image_id}. Give the store that was predicted")
        picture: Float32Array = windowed(shown_slice(self._store, row), [self._window_hu], side=_SIDE)[0]
        return picture


def windowed(hu: Int16Image, windows_hu: Sequence[tuple[float, float]], *, side: int) -> Float32Array:
    """Return a slice [H, W] in windows, (center, width) each, fitted into squares [C, side, side] of 0 to 1.

    hu: or a radiograph as it is shown, with windows of the same values.
    """
    supersample = max(_SUPERSAMPLE, math.ceil(max(hu.shape) / side / 2))
    pictures: Float32Array = torch_ops.transform_slices(
        torch.tensor(hu)[None],
        torch.from_numpy(fitted(*hu.shape, side=side))[None],
        windows_hu,
        size=side,
        supersample=min(supersample, MAX_SUPERSAMPLE),
    )[0].numpy()
    return pictures


def fitted(rows: int, columns: int, *, side: int) -> Float32Array:
    """Return the matrix [2, 3] from a pixel of the square picture that `windowed` makes to one of the slice.

    The centre of the square is the centre of the slice; pixel centres are counted from 0.
    """
    scale = max(rows, columns) / side
    matrix = [[scale, 0, (columns - 1 - scale * (side - 1)) / 2], [0, scale, (rows - 1 - scale * (side - 1)) / 2]]
    return np.array(matrix, dtype=np.float32)


def jpeg(picture: Float32Array) -> bytes:
    """Return a picture of values in [0, 1] as JPEG, in greys."""
    buffer = io.BytesIO()
    options = {"quality": _JPEG_QUALITY}
    matplotlib.image.imsave(buffer, picture, format="jpg", cmap="gray", vmin=0, vmax=1, pil_kwargs=options)
    return buffer.getvalue()
