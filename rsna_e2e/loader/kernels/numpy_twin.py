"""NumPy twin of the pixel operations in csrc, by which tests judge them: float64, slow, independent of C++."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.records import Float32Array, Float64Array, Int16Image

# N slices, C channels (windows), S output size.
Windows = Sequence[tuple[float, float]]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


def transform_slices(
    hu: Sequence[Int16Image],
    affine: Float32Array,
    windows_hu: Windows,
    *,
    size: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    border: str = "zero",
    source_box: Sequence[tuple[int, int, int]] | None = None,
    supersample: int = 1,
) -> Float64Array:
    """Return the expected result of `torch_ops.transform_slices`: [N, C, S, S], in float64 throughout.

    hu: N slices [H, W] int16, which may differ in size. affine: [N, 2, 3]. windows_hu: C of (center, width). mean, std:
    C each. border: "zero" or "replicate". source_box: N of (x0, y0, side). Meaning: see torch_ops.py.
    """
    windowed = [_windowed(pixels, windows_hu) for pixels in hu]
    images = _resample(windowed, affine, size=size, border=border, source_box=source_box, supersample=supersample)
    if mean is not None:
        images -= np.reshape(mean, (1, -1, 1, 1))
    if std is not None:
        images /= np.reshape(std, (1, -1, 1, 1))
    return images


def transform_slices_uint8(
    hu: Sequence[Int16Image],
    affine: Float32Array,
    windows_hu: Windows,
    *,
    size: int,
    border: str = "zero",
    source_box: Sequence[tuple[int, int, int]] | None = None,
    supersample: int = 1,
    subtract_lowest: bool = False,
) -> npt.NDArray[np.uint8]:
    """Return the expected result of `torch_ops.transform_slices` with dtype uint8: [N, C, S, S].

    subtract_lowest: grey levels count from each channel's minimum, taken from the windowed image as the published
    solution does; the operator is given the slice's lowest HU instead. The rest: as above.
    """
    levels = []
    for pixels in hu:
        windowed = _windowed(pixels, windows_hu)
        if subtract_lowest:
            windowed -= windowed.min(axis=(1, 2), keepdims=True)
        levels.append(np.trunc(255 * windowed))
    images = _resample(levels, affine, size=size, border=border, source_box=source_box, supersample=supersample)
    return np.floor(images + 0.5).astype(np.uint8)


def _windowed(pixels: Int16Image, windows_hu: Windows) -> Float64Array:
    """[C, H, W] in 0 to 1."""
    return np.stack([np.clip((pixels - (center - width / 2)) / width, 0.0, 1.0) for center, width in windows_hu])


def _resample(
    images: Sequence[Float64Array],
    affine: Float32Array,
    *,
    size: int,
    border: str,
    source_box: Sequence[tuple[int, int, int]] | None,
    supersample: int,
) -> Float64Array:
    """N of [C, H, W] to [N, C, S, S]."""
    resampled = np.empty((len(images), len(images[0]), size, size))
    for n, channels in enumerate(images):
        box = None if source_box is None else source_box[n]
        x, y = _source_coordinates(affine[n].astype(np.float64), size, supersample)
        for c, image in enumerate(channels):
            resampled[n, c] = _pool(_bilinear(image, x, y, border=border, box=box), supersample)
    return resampled


def _source_coordinates(matrix: Float64Array, size: int, supersample: int) -> tuple[Float64Array, Float64Array]:
    """Input x and y of all samples, each [S k, S k]: sample i of k in pixel p is at p + (i + 1/2) / k - 1/2."""
    positions = (np.arange(size * supersample) + 0.5) / supersample - 0.5
    y, x = np.meshgrid(positions, positions, indexing="ij")
    return matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2], matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]


def _bilinear(
    image: Float64Array, x: Float64Array, y: Float64Array, *, border: str, box: tuple[int, int, int] | None
) -> Float64Array:
    """Interpolate image [H, W] at (x, y). Taps outside it, or outside the box, are 0 or repeat the box's edge."""
    height, width = image.shape
    x_low, y_low, x_high, y_high = 0, 0, width - 1, height - 1
    if box is not None:
        x_low, y_low, side = box
        x_high, y_high = x_low + side - 1, y_low + side - 1
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    result = np.zeros_like(x)
    for tap_x, weight_x in ((left, left + 1 - x), (left + 1, x - left)):
        for tap_y, weight_y in ((top, top + 1 - y), (top + 1, y - top)):
            column, row = tap_x, tap_y
            if border == "replicate":
                column, row = np.clip(tap_x, x_low, x_high), np.clip(tap_y, y_low, y_high)
            is_seen = (
                _is_within(column, x_low, x_high)
                & _is_within(row, y_low, y_high)
                & _is_within(column, 0, width - 1)
                & _is_within(row, 0, height - 1)
            )
            result += weight_x * weight_y * np.where(is_seen, image[row * is_seen, column * is_seen], 0.0)
    return result


def _is_within(index: IntArray, low: int, high: int) -> BoolArray:
    return (low <= index) & (index <= high)


def _pool(image: Float64Array, factor: int) -> Float64Array:
    """Mean of factor x factor blocks."""
    size = image.shape[0] // factor
    mean: Float64Array = image.reshape(size, factor, size, factor).mean(axis=(1, 3))
    return mean
