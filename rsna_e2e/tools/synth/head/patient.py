"""A patient's head: the random numbers by which its anatomy differs from others."""

from dataclasses import dataclass

import numpy as np

from rsna_e2e.tools.synth.common.shapes import Waves

Spot = tuple[float, float, float, float]  # x, y, z and radius in the canonical head, mm


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """One patient's anatomy. Lengths in mm; `scale` is per axis; `atrophy` runs from 0 (young) to 1 (much shrunken)."""

    scale: tuple[float, float, float]
    atrophy: float
    skull_mm: float
    scalp_mm: float
    egg: float  # how much narrower the front is than the back
    ventricle_scale: float
    sulcus_half_mm: float
    gap_mm: float  # fluid between brain and inner table
    falx_half_mm: float
    sinus_scale: float  # dural venous sinuses
    air_scale: float  # frontal sinus and mastoid cells
    warp: tuple[Waves, Waves, Waves]
    warp_mm: float
    folds: Waves
    bends: Waves  # of the Sylvian fissure and of how deep sulci reach
    cells: Waves  # air cells of mastoid and ethmoid, marrow
    dura_hu: float
    worn: float  # how far ageing has thinned the white matter around the ventricles, 0 to 1
    calcified: tuple[Spot, ...]
    scars: tuple[Spot, ...]  # old infarcts
    swelling: Spot  # a bruise of the scalp; its radius is 0 where there is none


def draw_head(rng: np.random.Generator) -> Head:
    """Draw one patient."""
    age = rng.uniform(18.0, 92.0)
    atrophy = float(np.clip((age - 45.0) / 45.0 + rng.normal(0.0, 0.2), 0.0, 1.0))
    size = rng.normal(1.0, 0.03)
    scale = tuple(float(size * rng.normal(1.0, 0.025)) for _ in range(3))
    return Head(
        scale=(scale[0], scale[1], scale[2]),
        atrophy=atrophy,
        skull_mm=float(rng.uniform(4.5, 8.5)),
        scalp_mm=float(rng.uniform(3.5, 7.5)),
        egg=float(rng.normal(0.0012, 0.0004)),
        ventricle_scale=float(0.75 + 0.75 * atrophy * rng.uniform(0.6, 1.3) + rng.uniform(0.0, 0.2)),
        sulcus_half_mm=float(0.35 + 1.1 * atrophy * rng.uniform(0.7, 1.2) + rng.uniform(0.0, 0.25)),
        gap_mm=float(0.6 + 2.2 * atrophy * rng.uniform(0.4, 1.2)),
        falx_half_mm=float(rng.uniform(0.35, 0.9)),
        sinus_scale=float(rng.uniform(0.7, 1.4)),
        air_scale=float(rng.uniform(0.4, 1.3)),
        warp=(
            Waves.draw(rng, n=3, wavelength_mm=130.0),
            Waves.draw(rng, n=3, wavelength_mm=150.0),
            Waves.draw(rng, n=3, wavelength_mm=150.0),
        ),
        warp_mm=float(rng.uniform(0.8, 2.2)),
        folds=Waves.draw(rng, n=8, wavelength_mm=float(rng.uniform(15.0, 19.0))),
        bends=Waves.draw(rng, n=4, wavelength_mm=42.0),
        cells=Waves.draw(rng, n=6, wavelength_mm=9.0),
        dura_hu=float(rng.uniform(46.0, 64.0)),
        worn=float(np.clip(atrophy * rng.uniform(0.0, 1.2), 0.0, 1.0)),
        calcified=_draw_calcified(rng, age=age),
        scars=_draw_scars(rng, age=age),
        swelling=_draw_swelling(rng),
    )


def _draw_calcified(rng: np.random.Generator, *, age: float) -> tuple[Spot, ...]:
    """Choroid plexus, pineal gland and globus pallidus: common harmless calcifications, commoner with age."""
    spots: list[Spot] = []
    often = 0.25 + 0.6 * (age - 18.0) / 74.0
    for side in (-1.0, 1.0):
        if rng.random() < often:
            for _ in range(int(rng.integers(1, 4))):
                x, y, z = rng.normal((24.0 * side, 40.0, 11.0), (1.5, 3.0, 2.5))
                spots.append((float(x), float(y), float(z), float(rng.uniform(1.0, 3.2))))
    if rng.random() < 0.8 * often:
        x, y, z = rng.normal((0.0, 31.0, 3.0), (0.6, 1.5, 1.0))
        spots.append((float(x), float(y), float(z), float(rng.uniform(1.2, 3.0))))
    if rng.random() < 0.2 * often:
        for side in (-1.0, 1.0):
            x, y, z = rng.normal((20.0 * side, -3.0, 1.0), (1.0, 2.0, 1.0))
            spots.append((float(x), float(y), float(z), float(rng.uniform(1.5, 3.5))))
    return tuple(spots)


def _draw_scars(rng: np.random.Generator, *, age: float) -> tuple[Spot, ...]:
    """Old infarcts: a hole in a lobe, or a small one deep in the brain."""
    spots = []
    for _ in range(int(rng.integers(1, 3)) if rng.random() < 0.3 * (age - 18.0) / 74.0 else 0):
        side = 1.0 if rng.random() < 0.5 else -1.0
        if rng.random() < 0.5:
            x, y, z = rng.normal((52.0 * side, 5.0, 18.0), (6.0, 28.0, 14.0))
            radius = rng.uniform(9.0, 22.0)
        else:
            x, y, z = rng.normal((20.0 * side, -2.0, 8.0), (5.0, 10.0, 5.0))
            radius = rng.uniform(2.5, 5.0)
        spots.append((float(x), float(y), float(z), float(radius)))
    return tuple(spots)


def _draw_swelling(rng: np.random.Generator) -> Spot:
    direction = rng.normal((0.0, 0.0, 0.3), 1.0)
    direction /= np.linalg.norm(direction / np.array((75.0, 95.0, 82.0)))
    radius = rng.uniform(12.0, 28.0) if rng.random() < 0.25 else 0.0
    return float(direction[0]), float(direction[1]), float(abs(direction[2])), float(radius)
