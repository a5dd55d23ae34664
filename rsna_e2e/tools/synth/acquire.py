"""The scanner's part of an image: headrest, beam hardening, noise that depends on attenuation, and integer storage."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.ndimage import gaussian_filter

from rsna_e2e.core.records import Float32Array, Int16Image
from rsna_e2e.tools.synth.geometry import COLUMNS, ROWS, Series
from rsna_e2e.tools.synth.render import AIR_HU, FINE
from rsna_e2e.tools.synth.resample import double
from rsna_e2e.tools.synth.shapes import coverage

WATER_PER_MM = 0.019  # attenuation of water at the effective energy of a 120 kV beam, about 70 keV
REFERENCE_PATH = 3.8  # line integral through the middle of a head, at which the noise is what was asked for
BONE_HU = 300.0
CORRECTED_BONE_MM = 11.0  # bone on both sides that the scanner's own beam-hardening correction copes with
HARDENING_HU_PER_MM = 1.6
SCATTER_SHARE = 0.012  # of the bone within a centimetre: brain under the skull reads a few HU too high
SCATTER_PIXELS = 1.7  # standard deviation of that centimetre, in groups of 4 rendering pixels
PEAK_WIDTH = 0.3  # noise kernel [w, 1, w] along rows and columns
OUTSIDE_SIGNED = -2000
RESCALE_INTERCEPT_HU = -1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanner:
    """How one series is acquired and stored. noise_hu: standard deviation in the middle of the brain."""

    noise_hu: float
    hardening: float
    is_signed: bool
    window_center_hu: tuple[int, ...]
    window_width_hu: tuple[int, ...]


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


@lru_cache(maxsize=1)
def _noise_gain() -> float:
    """Standard deviation of white noise of 1 after the kernel and the doubling of the grid."""
    kernel = np.array([PEAK_WIDTH, 1.0, PEAK_WIDTH])
    phase = np.array([-0.0703125, 0.8671875, 0.2265625, -0.0234375])  # cubic weights a quarter pixel off a sample
    return float(np.sum(np.convolve(kernel, phase) ** 2))


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


def _smooth_rows(rng: np.random.Generator, n: int) -> Float32Array:
    """A random profile along n rows, correlated over about 3 of them, standard deviation about 1."""
    raw = rng.standard_normal(n + 4, dtype=np.float32)
    return np.asarray(sum(raw[i : n + i] * w for i, w in enumerate((0.25, 0.6, 0.75, 0.6, 0.25))), np.float32)


def _hardening(hu: Float32Array, scanner: Scanner, pixel_mm: float, rng: np.random.Generator) -> Float32Array | None:
    """Dark and bright bands between thick bones of one row (the petrous bones, above all); None where bone is thin."""
    bone = np.clip(hu - BONE_HU, 0.0, 1500.0)
    bone *= pixel_mm / 1000.0
    left = np.cumsum(bone, axis=1)
    total = left[:, -1:]
    rows = np.flatnonzero(total[:, 0] > 4.0 * CORRECTED_BONE_MM)
    profile = _smooth_rows(rng, len(hu))
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


def _noise(hu: Float32Array, scanner: Scanner, pixel_mm: float, rng: np.random.Generator) -> Float32Array:
    """Noise correlated in plane; its variance is the mean over the two axes of exp(line integral), as of photons."""
    mass = np.maximum(hu + 1000.0, 0.0) * np.float32(WATER_PER_MM * pixel_mm / 1000.0)
    along_rows = np.exp(np.minimum(mass.sum(axis=1) - REFERENCE_PATH, 2.2))
    along_columns = np.exp(np.minimum(mass.sum(axis=0) - REFERENCE_PATH, 2.2))
    sigma = np.sqrt(0.5 * along_rows[:, None] + 0.5 * along_columns)
    raw = rng.standard_normal((FINE + 2, FINE + 2), dtype=np.float32)
    across = raw[:, :-2] + raw[:, 2:]
    across *= PEAK_WIDTH
    across += raw[:, 1:-1]
    noise = across[:-2] + across[2:]
    noise *= PEAK_WIDTH
    noise += across[1:-1]
    noise *= sigma
    noise *= np.float32(scanner.noise_hu / _noise_gain())
    streaky = np.sqrt(np.maximum(along_rows - 1.2, 0.0)) * (0.8 * scanner.noise_hu)
    rows = np.flatnonzero(streaky)
    for start in range(0, FINE, 64):  # a few detectors starve together: noise drawn out along the row
        strength = _smooth_rows(rng, FINE)[rows, None] * streaky[rows, None]
        ramp = np.maximum(1.0 - np.abs(np.arange(FINE) - start - 32.0) / 64.0, 0.0)
        noise[rows] += strength * ramp.astype(np.float32)
    return noise


def acquire(
    hu: Float32Array, rest_hu: Float32Array, *, series: Series, scanner: Scanner, rng: np.random.Generator
) -> Float32Array:
    """Image [ROWS, COLUMNS] in HU, not yet rounded, of a noiseless rendering [FINE, FINE]."""
    pixel_mm = 2.0 * series.spacing_mm
    seen = np.maximum(hu, rest_hu)
    streaks = _hardening(seen, scanner, pixel_mm, rng)
    noise = _noise(seen, scanner, pixel_mm, rng)
    if streaks is not None:
        noise += streaks
    noise += seen
    noise += _scatter(seen)
    return double(noise)


@lru_cache(maxsize=1)
def _outside_circle() -> np.ndarray:
    row = (np.arange(ROWS) - 0.5 * (ROWS - 1)) ** 2
    column = (np.arange(COLUMNS) - 0.5 * (COLUMNS - 1)) ** 2
    return np.asarray(row[:, None] + column > (0.5 * COLUMNS) ** 2)


def to_stored(hu: Float32Array, scanner: Scanner) -> Int16Image:
    """Integers as the file holds them: HU minus the intercept; outside the field of view -2000 (signed) or 0."""
    stored = np.rint(hu - RESCALE_INTERCEPT_HU)
    if scanner.is_signed:
        stored = np.clip(stored, -32768.0, 32767.0)
        stored[_outside_circle()] = OUTSIDE_SIGNED
    else:
        stored = np.clip(stored, 0.0, 4095.0)
        stored[_outside_circle()] = 0.0
    return stored.astype(np.int16)
