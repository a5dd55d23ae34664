"""From line integrals to the image that a radiograph shows: scatter, photons, processing of the grey values."""

# h x w pixels of the rendering grid, H x W of the image

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from rsna_e2e.core.records import Float32Array
from rsna_e2e.tools.synth.common.resample import cubic_matrix

Mask = npt.NDArray[np.bool_]

SCATTER_MM = 40.0  # standard deviation of how far scattered photons go


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """How one image is taken and processed.

    scatter: share of the photons behind the lungs that were scattered. photons: per mm2 of the open beam. sharpen:
    strength of the unsharp masks, wide (which evens the image out) and narrow. gamma: curve of the grey values.
    """

    scatter: float
    photons: float
    sharpen: tuple[float, float]
    gamma: float


def draw_exposure(rng: np.random.Generator, view: str) -> Exposure:
    """Draw one; without a grid and with a weaker machine, as at a bedside, there is more scatter and more noise."""
    is_fixed = view == "PA"
    return Exposure(
        scatter=float(rng.uniform(0.15, 0.28) if is_fixed else rng.uniform(0.22, 0.35)),
        photons=float(np.exp(rng.normal(np.log(2.0e6 if is_fixed else 0.9e6), 0.35))),
        sharpen=(float(rng.uniform(0.2, 0.5)), float(rng.uniform(0.3, 0.9))),
        gamma=float(np.exp(rng.normal(0.0, 0.12))),
    )


def enlarged(image: Float32Array, rows: int, columns: int) -> Float32Array:
    """Interpolate an image [h, w] to [rows, columns]."""
    if image.shape == (rows, columns):
        return image
    over_rows, over_columns = (
        cubic_matrix((np.arange(n) + 0.5) * (m / n) - 0.5, m)
        for n, m in ((rows, image.shape[0]), (columns, image.shape[1]))
    )
    return np.asarray(over_rows @ np.ascontiguousarray((over_columns @ np.ascontiguousarray(image.T)).T))


def _blurred(image: Float32Array, sigma_pixels: float) -> Float32Array:
    """A wide blur, computed on cells of so many pixels that it is still smooth."""
    cell = max(int(sigma_pixels / 2.5), 1)
    rows, columns = (n // cell * cell for n in image.shape)
    small = image[:rows, :columns].reshape(rows // cell, cell, columns // cell, cell).mean(axis=(1, 3))
    small = ndimage.gaussian_filter(small, sigma_pixels / cell, mode="nearest")
    whole = enlarged(small.astype(np.float32), rows, columns)
    return np.pad(whole, [(0, n - m) for n, m in zip(image.shape, whole.shape, strict=True)], mode="edge")


def scatter_of(path: Float32Array, exposure: Exposure, pixel_mm: float, lungs: Mask) -> Float32Array:
    """Scattered photons [h, w], as a share of the open beam, for line integrals `path`; `lungs` is a mask."""
    primary = np.exp(-path)
    spread = _blurred(primary, SCATTER_MM / pixel_mm)
    behind = float(primary[lungs].mean()) if lungs.any() else float(primary.mean())
    among = float(spread[lungs].mean()) if lungs.any() else float(spread.mean())
    return spread * np.float32(exposure.scatter / (1.0 - exposure.scatter) * behind / among)


def signal_of(path: Float32Array, scatter: Float32Array) -> Float32Array:
    """Photons that arrive, as a share of the open beam."""
    return np.asarray(np.exp(-path) + scatter)


def exposed(
    path: Float32Array, scatter: Float32Array, exposure: Exposure, pixel_mm: float, rng: np.random.Generator
) -> Float32Array:
    """Logarithm of what the detector counts, bones high; pixel_mm is that of `path` [H, W]."""
    signal = signal_of(path, scatter)
    counts = signal * np.float32(exposure.photons * pixel_mm**2)
    noise = rng.standard_normal(signal.shape, dtype=np.float32)
    noise *= np.sqrt(counts)
    counts += ndimage.gaussian_filter(noise, 0.45)
    np.maximum(counts, 1.0, out=counts)
    return np.asarray(-np.log(counts / np.float32(exposure.photons * pixel_mm**2)))


def processed(image: Float32Array, exposure: Exposure, pixel_mm: float, lungs: Mask) -> Float32Array:
    """Grey values around 0 (as dark as shown) to 1 (as bright), not clipped, of a logarithmic image."""
    wide, narrow = exposure.sharpen
    base = np.minimum(np.maximum(image, np.float32(0.35)), np.float32(6.0))
    result = base - np.float32(wide) * _blurred(base, 22.0 / pixel_mm)
    result += np.float32(narrow) * (base - ndimage.gaussian_filter(base, max(1.3 / pixel_mm, 0.6)))
    dark = float(np.percentile(result[lungs], 1.5)) if lungs.any() else float(np.percentile(result, 5.0))
    bright = float(np.percentile(result[::4, ::4], 98.0))
    result -= np.float32(dark - 0.14 * (bright - dark))
    result *= np.float32(0.86 / (bright - dark))
    np.maximum(result, np.float32(-0.2), out=result)
    return np.asarray(np.sign(result) * np.abs(result) ** np.float32(exposure.gamma))
