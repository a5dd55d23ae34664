"""The scanner's part of an image of a head: headrest, beam hardening, noise."""

import numpy as np
from scipy.ndimage import gaussian_filter

from rsna_e2e.core.records import Float32Array
from rsna_e2e.tools.synth.common.resample import double
from rsna_e2e.tools.synth.common.scanner import Scanner, photon_noise, smooth_rows
from rsna_e2e.tools.synth.common.series import FINE, Series
from rsna_e2e.tools.synth.common.shapes import coverage
from rsna_e2e.tools.synth.head.render import AIR_HU

REFERENCE_PATH = 3.8  # line integral through the middle of a head, at which the noise is what was asked for
BONE_HU = 300.0
CORRECTED_BONE_MM = 11.0  # bone on both sides that the scanner's own beam-hardening correction copes with
HARDENING_HU_PER_MM = 1.6
SCATTER_SHARE = 0.012  # of the bone within a centimetre: brain under the skull reads a few HU too high
SCATTER_PIXELS = 1.7  # standard deviation of that centimetre, in groups of 4 rendering pixels


def draw_scanner(rng: np.random.Generator, series: Series) -> Scanner:
    """Draw one scanner; thinner slices are noisier, though less than by the square root (dose is raised for them)."""
    signed = bool(rng.random() < 0.52)  # 341,679 of 674,258 images of the competition's data
    n_values = 1 if rng.random() < 0.5 else 2  # 332,579 of 674,258 hold two values each, nearly always equal
    return Scanner(
        noise_hu=float(rng.uniform(2.4, 4.4) * (5.0 / series.thickness_mm) ** 0.3),
        hardening=float(rng.uniform(0.5, 1.3)),
        is_signed=signed,
        window_center_hu=(int(rng.choice((30, 36, 40))),) * n_values,
        window_width_hu=(80,) * n_values,
    )


def headrest(series: Series) -> Float32Array:
    """HU [FINE, FINE] of the headrest, the same in every slice: a shell of plastic filled with foam."""
    fine = (np.arange(FINE) + 0.25) * 2.0 * series.spacing_mm
    cosine = series.column_direction[1]
    x = (fine + series.origins_mm[0, 0]).astype(np.float32)
    y = (fine * cosine + series.origins_mm[0, 1]).astype(np.float32)[:, None]
    radius = 116.0
    distance = np.hypot(x, y - (series.table_y_mm - radius)) - radius
    arms = series.table_y_mm - 78.0 - y
    shell = coverage(np.maximum(np.abs(distance - 1.2) - 1.2, arms), 1.0)
    foam = coverage(np.maximum(distance, arms + 18.0), 2.0) * 20.0
    return np.asarray(AIR_HU + np.maximum(foam, shell * 900.0), np.float32)


def _hardening(hu: Float32Array, scanner: Scanner, pixel_mm: float, rng: np.random.Generator) -> Float32Array | None:
    """Dark and bright bands between thick bones of one row (the petrous bones, above all); None where bone is thin."""
    bone = np.clip(hu - BONE_HU, 0.0, 1500.0)
    bone *= pixel_mm / 1000.0
    left = np.cumsum(bone, axis=1)
    total = left[:, -1:]
    rows = np.flatnonzero(total[:, 0] > 4.0 * CORRECTED_BONE_MM)
    profile = smooth_rows(rng, len(hu))
    if len(rows) == 0:
        return None
    part = left[rows]
    band = part * (total[rows] - part) / total[rows]
    band -= CORRECTED_BONE_MM
    np.maximum(band, 0.0, out=band)
    band *= (-HARDENING_HU_PER_MM * scanner.hardening) * (0.55 + 0.75 * profile[rows])[:, None]
    streaks = np.zeros_like(hu)
    streaks[rows] = band
    streaks[1:-1] = 0.25 * streaks[:-2] + 0.5 * streaks[1:-1] + 0.25 * streaks[2:]
    streaks[bone > 0.2] *= 0.3
    streaks[hu < -800.0] *= 0.3
    return streaks


def _scatter(hu: Float32Array) -> Float32Array:
    """Scatter and hardening by the nearest bone that remain after the scanner's correction, HU."""
    bone = np.clip(hu - BONE_HU, 0.0, 1500.0)
    coarse = bone.reshape(FINE // 4, 4, FINE // 4, 4).mean(axis=(1, 3))
    return double(double(gaussian_filter(coarse, SCATTER_PIXELS) * np.float32(SCATTER_SHARE)))


def acquire(
    hu: Float32Array, rest_hu: Float32Array, *, series: Series, scanner: Scanner, rng: np.random.Generator
) -> Float32Array:
    """Image [ROWS, COLUMNS] in HU, not yet rounded, of a noiseless rendering [FINE, FINE]."""
    pixel_mm = 2.0 * series.spacing_mm
    seen = np.maximum(hu, rest_hu)
    streaks = _hardening(seen, scanner, pixel_mm, rng)
    noise = photon_noise(seen, scanner, pixel_mm, rng, reference_path=REFERENCE_PATH, starvation=0.8)
    if streaks is not None:
        noise += streaks
    noise += seen
    noise += _scatter(seen)
    return double(noise)
