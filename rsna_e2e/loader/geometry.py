"""Geometry of a series: crop square, resize and random augmentation, composed to one 2x3 matrix per slice.

A matrix maps an output pixel (x, y) to an input pixel, both counted at pixel centres from 0. Draws are a pure
function of (seed, epoch, series key), so a resumed or redistributed run sees the same pixels.
"""

# N slices of one series

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rsna_e2e.config import AugmentConfig, Crop
from rsna_e2e.core.records import Float32Array, Float64Array

Boxes = npt.NDArray[np.int32]

_SMALLEST_SIDE = 3  # darraghdog/rsna, trainorig.py: the largest of an image's three numbers, its channels among them


@dataclass(frozen=True, slots=True)
class SliceParams:
    """Geometry of N slices for `transform_slices`: affine [N,2,3] f32, source_box [N,3] i32 (x0, y0, side).

    augmentation [N,3,3]: the part of `affine` that does not depend on the crop.
    """

    affine: Float32Array
    source_box: Boxes
    augmentation: Float64Array

    def __getitem__(self, rows: slice, /) -> "SliceParams":
        return SliceParams(self.affine[rows], self.source_box[rows], self.augmentation[rows])


def series_generator(seed: int, epoch: int, series_key: str) -> np.random.Generator:
    """Return the random generator of one series in one epoch: counter-based, keyed by a hash of all three."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{series_key}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def draw_augmentation(rng: np.random.Generator, config: AugmentConfig, *, size: int) -> Float64Array:
    """Draw a 3x3 matrix from output pixels to un-augmented output pixels of a `size` x `size` image.

    The image is flipped, then shifted, scaled and rotated about its centre, then transposed: the order of the
    published 2nd-place solution. Every draw consumes the same number of random values; what was added later is drawn
    last, so that earlier draws keep their values.
    """
    flip, transpose, affine = rng.random(3) < (
        config.hflip_probability,
        config.transpose_probability,
        config.affine_probability,
    )
    shift_x, shift_y, scale, rotate = rng.uniform(-1.0, 1.0, 4)
    vflip = rng.random() < config.vflip_probability
    matrix = np.eye(3)
    if flip:
        matrix = np.array([[-1.0, 0.0, size - 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    if vflip:
        matrix = matrix @ np.array([[1.0, 0.0, 0.0], [0.0, -1.0, size - 1.0], [0.0, 0.0, 1.0]])
    if affine:
        forward = _shift_scale_rotate(
            shift_px=(shift_x * config.shift_limit * size, shift_y * config.shift_limit * size),
            scale=1.0 + scale * config.scale_limit,
            angle_rad=np.deg2rad(rotate * config.rotate_limit_deg),
            centre_px=(size - 1) / 2,
        )
        matrix = matrix @ np.linalg.inv(forward)
    if transpose:
        matrix = matrix @ np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    return matrix


def cut_window(rng: np.random.Generator | None, *, margin_px: int) -> Float64Array:
    """Return the 3x3 matrix from a window's pixels to those of the square that it is cut out of, `margin_px` larger.

    rng: draws the place of the window, every whole pixel alike; None puts it in the middle.
    """
    x, y = (margin_px // 2, margin_px // 2) if rng is None else rng.integers(margin_px, endpoint=True, size=2)
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def slice_params(
    boxes: Boxes, augmentation: Float64Array | None, *, size: int, extents: npt.NDArray[np.int64] | None = None
) -> SliceParams:
    """Compose each slice's crop square, its resize to the side `size` and its augmentation.

    boxes: [N,3] i32 (x0, y0, side) in input pixels. augmentation: [3,3] for all, or [N,3,3]; None for none. The resize
    keeps the corners of the square at the corners of the output (pixel x covers [x - 0.5, x + 0.5]), as OpenCV's does.
    extents: [N,2] width and height of what fills the output instead of the whole square, stretched, from its corner on.
    """
    scale = (boxes[:, [2, 2]] if extents is None else extents) / size
    resize = np.zeros((len(boxes), 3, 3))
    resize[:, 0, 0], resize[:, 1, 1] = scale[:, 0], scale[:, 1]
    resize[:, :2, 2] = boxes[:, :2] + (0.5 * scale - 0.5)
    resize[:, 2, 2] = 1.0
    augmentations = np.broadcast_to(np.eye(3) if augmentation is None else augmentation, resize.shape)
    matrix = resize if augmentation is None else resize @ augmentations
    return SliceParams(np.ascontiguousarray(matrix[:, :2], dtype=np.float32), boxes, augmentations)


def crop_squares(
    content: npt.NDArray[np.int64], shapes: npt.NDArray[np.int64], crop: str, *, square: str = "center"
) -> Boxes:
    """Return the square (x0, y0, side) that each slice of a series is cropped to.

    content: [N,4] x0, y0, x1, y1 (exclusive) of what is not background, x1 <= x0 where there is none.
    shapes: [N,2] rows, columns. crop: "none" (the whole slice), "series" (one square round the content of all
    slices, so that the head sees no jumps of scale) or "slice". A square is centred on what it holds, or has it in its
    upper left corner, with `square` upper_left; and may reach beyond the slice, where there is nothing.
    """
    whole = np.stack([np.zeros(len(shapes)), np.zeros(len(shapes)), shapes[:, 1], shapes[:, 0]], axis=1).astype(
        np.int64
    )
    filled = content[:, 2] > content[:, 0]
    extent = whole.copy()
    if crop == "slice":
        extent[filled] = content[filled]
    elif crop == "series" and filled.any():
        # In shares of each slice's own matrix: all show the same field of view. Exact where matrices are equal.
        sides, sides_filled = whole[:, None, 2:], whole[filled, 2:]
        extent[:, :2] = (content[filled, :2] * sides // sides_filled).min(axis=1)
        extent[:, 2:] = (-(-content[filled, 2:] * sides // sides_filled)).max(axis=1)
    width, height = extent[:, 2] - extent[:, 0], extent[:, 3] - extent[:, 1]
    side = np.maximum(width, height)
    if square == "upper_left":
        return np.stack([extent[:, 0], extent[:, 1], np.maximum(side, _SMALLEST_SIDE)], axis=1).astype(np.int32)
    x0 = extent[:, 0] - (side - width) // 2
    y0 = extent[:, 1] - (side - height) // 2
    return np.stack([x0, y0, side], axis=1).astype(np.int32)


def crop_affine(content: npt.ArrayLike, shape: Sequence[int], *, size: int, crop: Crop = "series") -> Float32Array:
    """Return matrices [N,2,3] that crop the slices of a series and resize them to `size`, for `transform_slices`.

    content: [N,4], as `content_box` returns it, on the CPU. shape: rows and columns of every slice. crop: as for
    `crop_squares`.
    """
    boxes = np.asarray(content, dtype=np.int64)
    shapes = np.broadcast_to(np.asarray(shape, dtype=np.int64), (len(boxes), 2))
    return slice_params(crop_squares(boxes, shapes, crop), None, size=size).affine


def _shift_scale_rotate(
    *, shift_px: tuple[float, float], scale: float, angle_rad: float, centre_px: float
) -> Float64Array:
    """3x3 matrix that scales and rotates about the centre (counter-clockwise on screen) and then shifts."""
    cos, sin = scale * np.cos(angle_rad), scale * np.sin(angle_rad)
    return np.array(
        [
            [cos, sin, (1.0 - cos) * centre_px - sin * centre_px + shift_px[0]],
            [-sin, cos, sin * centre_px + (1.0 - cos) * centre_px + shift_px[1]],
            [0.0, 0.0, 1.0],
        ]
    )
