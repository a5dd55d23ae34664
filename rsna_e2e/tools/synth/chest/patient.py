"""A patient's chest: the random numbers by which its anatomy differs from others."""

from dataclasses import dataclass

import numpy as np

from rsna_e2e.tools.synth.common.shapes import Waves


@dataclass(frozen=True, slots=True, kw_only=True)
class Chest:
    """One patient's anatomy. Lengths in mm, canonical: `scale` per axis is applied to the whole body."""

    scale: tuple[float, float, float]
    fat_mm: float  # under the skin
    bust_mm: float  # 0 where there is none
    muscle_mm: float
    dome_mm: float  # height of the right dome of the diaphragm
    heart_scale: float
    lv_mm: float  # width of the left ventricle's lumen
    aorta_scale: float
    lung_hu: float
    emphysema: float
    sheets: Waves  # bends fat planes and the lungs' surface
    mosaic: Waves
    bone_hu: float
    liver_hu: float
    has_calcified_aorta: bool


def draw_chest(rng: np.random.Generator) -> Chest:
    """Draw one patient."""
    age = rng.uniform(20.0, 90.0)
    size = rng.normal(1.0, 0.035)
    scale = tuple(float(size * rng.normal(1.0, 0.02)) for _ in range(3))
    return Chest(
        scale=(scale[0], scale[1], scale[2]),
        fat_mm=float(np.clip(rng.normal(15.0, 7.0), 4.0, 34.0)),
        bust_mm=float(rng.uniform(20.0, 42.0)) if rng.random() < 0.5 else 0.0,
        muscle_mm=float(rng.uniform(9.0, 17.0)),
        dome_mm=float(rng.normal(-94.0, 9.0)),
        heart_scale=float(np.clip(rng.normal(1.0, 0.06), 0.88, 1.15)),
        lv_mm=float(np.clip(rng.normal(44.0, 4.0), 35.0, 54.0)),
        aorta_scale=float(np.clip(0.86 + 0.0035 * (age - 20.0) + rng.normal(0.0, 0.05), 0.8, 1.25)),
        lung_hu=float(rng.normal(-862.0, 20.0)),
        emphysema=float(np.clip(rng.normal(-0.2, 0.4), 0.0, 1.0)),
        sheets=Waves.draw(rng, n=4, wavelength_mm=70.0),
        mosaic=Waves.draw(rng, n=5, wavelength_mm=55.0),
        bone_hu=float(rng.uniform(110.0, 250.0)),
        liver_hu=float(rng.uniform(60.0, 110.0)),
        has_calcified_aorta=bool(rng.random() < (age - 40.0) / 70.0),
    )
