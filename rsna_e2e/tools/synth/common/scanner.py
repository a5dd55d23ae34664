"""What every scanner does to an image: noise that depends on attenuation, and integer storage."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from rsna_e2e.core.records import Float32Array, Int16Image
from rsna_e2e.tools.synth.common.series import COLUMNS, FINE, ROWS

WATER_PER_MM = 0.019  # attenuation of water at the effective energy of a 120 kV beam, about 70 keV
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


@lru_cache(maxsize=1)
def _noise_gain() -> float:
    """Standard deviation of white noise of 1 after the kernel and the doubling of the grid."""
    kernel = np.array([PEAK_WIDTH, 1.0, PEAK_WIDTH])
    phase = np.array([-0.0703125, 0.8671875, 0.2265625, -0.0234375])  # cubic weights a quarter pixel off a sample
    return float(np.sum(np.convolve(kernel, phase) ** 2))


def smooth_rows(rng: np.random.Generator, n: int) -> Float32Array:
    """A random profile along n rows, correlated over about 3 of them, standard deviation about 1."""
    raw = rng.standard_normal(n + 4, dtype=np.float32)
    return np.asarray(sum(raw[i : n + i] * w for i, w in enumerate((0.25, 0.6, 0.75, 0.6, 0.25))), np.float32)


def photon_noise(
    hu: Float32Array,
    scanner: Scanner,
    pixel_mm: float,
    rng: np.random.Generator,
    *,
    reference_path: float,
    starvation: float,
) -> Float32Array:
    """Noise correlated in plane; its variance is the mean over the two axes of exp(line integral), as of photons.

    reference_path: line integral at which the noise is what was asked for. starvation: strength, as a share of the
    noise, of what is drawn out along rows that much lies in.
    """
    mass = np.maximum(hu + 1000.0, 0.0) * np.float32(WATER_PER_MM * pixel_mm / 1000.0)
    along_rows = np.exp(np.minimum(mass.sum(axis=1) - reference_path, 2.2))
    along_columns = np.exp(np.minimum(mass.sum(axis=0) - reference_path, 2.2))
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
    streaky = np.sqrt(np.maximum(along_rows - 1.2, 0.0)) * (starvation * scanner.noise_hu)
    rows = np.flatnonzero(streaky)
    for start in range(0, FINE, 64):  # a few detectors starve together: noise drawn out along the row
        strength = smooth_rows(rng, FINE)[rows, None] * streaky[rows, None]
        ramp = np.maximum(1.0 - np.abs(np.arange(FINE) - start - 32.0) / 64.0, 0.0)
        noise[rows] += strength * ramp.astype(np.float32)
    return noise


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
