"""The scanner's part of an image of a chest: couch, streaks from dense contrast, noise."""

import numpy as np

from rsna_e2e.core.records import Float32Array
from rsna_e2e.tools.synth.chest.canvas import AIR_HU
from rsna_e2e.tools.synth.chest.render import Scene
from rsna_e2e.tools.synth.chest.vessels import SVC
from rsna_e2e.tools.synth.common.resample import double
from rsna_e2e.tools.synth.common.scanner import WATER_PER_MM, Scanner, photon_noise
from rsna_e2e.tools.synth.common.series import FINE, Series
from rsna_e2e.tools.synth.common.shapes import coverage

MODULATION = 0.6  # how far the tube current follows the attenuation of a slice
TYPICAL_PATH = 4.2  # line integral through the lungs and the heart from side to side
DENSE_HU = 500.0  # above which contrast in the superior vena cava makes streaks
STREAK_WAVES = (3, 5, 7, 8, 11, 13)  # of a turn around the vein
STREAK_REACH_MM = 42.0
WINDOWS_HU = ((40, 400), (50, 350), (100, 700))


def draw_scanner(rng: np.random.Generator, series: Series) -> Scanner:
    """Draw one scanner; thinner slices are noisier. hardening: of streaks."""
    center, width = WINDOWS_HU[int(rng.integers(len(WINDOWS_HU)))]
    return Scanner(
        noise_hu=float(np.clip(rng.uniform(15.0, 27.0) * (1.5 / series.thickness_mm) ** 0.35, 12.0, 28.0)),
        hardening=float(rng.uniform(0.5, 1.2)),
        is_signed=bool(rng.random() < 0.5),
        window_center_hu=(center,),
        window_width_hu=(width,),
    )


def couch(series: Series) -> Float32Array:
    """HU [FINE, FINE] of the couch under the patient, the same in every slice: a hollow, slightly curved plate."""
    fine = (np.arange(FINE) + 0.25) * 2.0 * series.spacing_mm
    x = (fine + series.origins_mm[0, 0]).astype(np.float32)
    y = (fine + series.origins_mm[0, 1]).astype(np.float32)[:, None]
    below = y - (series.table_y_mm - 0.0006 * x * x)
    side = np.abs(x) - 205.0
    shell = coverage(np.maximum(np.abs(below - 1.0) - 1.0, side), 1.0)
    bottom = coverage(np.maximum(np.abs(below - 34.0 + 0.0012 * x * x) - 1.0, side), 1.0)
    foam = coverage(np.maximum(np.abs(below - 17.0) - 16.0, side + 4.0), 2.0) * 30.0
    return np.asarray(AIR_HU + np.maximum(foam, np.maximum(shell, bottom) * 820.0), np.float32)


def _streaks(scene: Scene, k: int, scanner: Scanner, rng: np.random.Generator) -> Float32Array | None:
    """Bright and dark rays around dense contrast in the superior vena cava; None where there are none."""
    phases, strength = rng.uniform(0.0, 2.0 * np.pi, len(STREAK_WAVES)), rng.uniform(0.5, 1.0)
    series = scene.series
    dense = scene.findings.svc_hu - DENSE_HU
    at = (np.array(SVC[0], np.float64) * scene.chest.scale) @ series.rotation.T + series.centre_mm
    x0, y0, z0 = series.origins_mm[k]
    if dense <= 0.0 or not at[-1, 2] < z0 < at[0, 2] + 12.0:
        return None
    place = [np.interp(z0, at[::-1, 2], at[::-1, axis]) for axis in (0, 1)]
    half = (np.arange(FINE // 2) * 4.0 + 1.5) * series.spacing_mm
    x, y = (half + (x0 - place[0])).astype(np.float32), (half + (y0 - place[1])).astype(np.float32)[:, None]
    turn, radius = np.arctan2(y, x), np.hypot(x, y)
    rays = np.zeros_like(radius)
    for waves, phase in zip(STREAK_WAVES, phases, strict=True):
        rays += np.cos(waves * turn + np.float32(phase))
    rays *= np.exp(radius * (-1.0 / STREAK_REACH_MM)) * np.clip(radius * (1.0 / 14.0), 0.0, 1.0)
    rays *= np.float32(scanner.hardening * strength * min(dense / 500.0, 1.2) * 42.0)
    return double(rays)


def _reference_path(seen: Float32Array, pixel_mm: float) -> float:
    """Line integral at which the noise is what was asked for, given that the tube current follows the body."""
    across = float(np.maximum(seen + 1000.0, 0.0).sum(axis=1).max()) * (WATER_PER_MM * pixel_mm / 1000.0)
    return TYPICAL_PATH + MODULATION * (across - TYPICAL_PATH)


def acquire(
    hu: Float32Array, couch_hu: Float32Array, k: int, *, scene: Scene, scanner: Scanner, rng: np.random.Generator
) -> Float32Array:
    """Image [ROWS, COLUMNS] in HU, not yet rounded, of a noiseless rendering [FINE, FINE] of slice `k`."""
    seen = np.maximum(hu, couch_hu)
    streaks = _streaks(scene, k, scanner, rng)
    pixel_mm = 2.0 * scene.series.spacing_mm
    path = _reference_path(seen, pixel_mm)
    image = photon_noise(seen, scanner, pixel_mm, rng, reference_path=path, starvation=0.3)
    image += seen
    if streaks is not None:
        streaks[seen < -300.0] *= 0.4
        image += streaks
    return double(image)
