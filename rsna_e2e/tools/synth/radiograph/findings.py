"""What is found on one radiograph: opacities, other abnormal findings, and what looks like them."""

from dataclasses import dataclass

import numpy as np

from rsna_e2e.core.records import Float64Array

VIEWS = ("PA", "AP")
# P(opacity) by view: natural, demo. In the competition's data 0.093 and 0.383; here the view says as much
OPACITY_RATE = {"PA": (0.12, 0.24), "AP": (0.45, 0.65)}
BALANCED_RATE = (0.3, 0.45)  # in both views, so that the view says nothing
OTHER_RATE = {"PA": 0.45, "AP": 0.7}  # of images without an opacity; 11,821 of 20,672 in the competition's data
OTHER_BESIDE = 0.25  # of those with one
N_OPACITIES = (0.45, 0.45, 0.1)  # one, two, three; boxes in the competition's data: 2,614, 3,266, 132 images
OTHERS = ("effusion", "atelectasis", "cardiomegaly", "mass", "hyperinflation", "congestion")
OTHER_WEIGHTS = {"PA": (0.2, 0.15, 0.2, 0.2, 0.2, 0.05), "AP": (0.3, 0.2, 0.2, 0.08, 0.04, 0.18)}
NIPPLE_RATE = 0.08
DIAMETER_MM = (32.0, 125.0)
# Density, of water's: natural, demo. +250 to +850 HU; in `demo` the faint ones are left out
ADDED = ((0.25, 0.85), (0.55, 0.95))


@dataclass(frozen=True, slots=True, kw_only=True)
class Opacity:
    """One opacity, canonical mm. added: density at its core, of water's. edge: width of its edge, of its radius.

    is_lobar: it ends at the fissures. seed: of its ragged outline.
    """

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    added: float
    edge: float
    is_lobar: bool
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Everything on one image but anatomy, devices and noise. others: names, of OTHERS.

    effusion_mm: how high fluid stands on the right and left; masses: x, y, z, radius; plates: bands of collapsed lung,
    x, y, z, length and thickness.
    """

    opacities: tuple[Opacity, ...]
    others: tuple[str, ...]
    effusion_mm: tuple[float, float]
    masses: tuple[tuple[float, float, float, float], ...]
    plates: tuple[tuple[float, float, float, float, float], ...]
    has_nipples: bool


def draw_findings(
    rng: np.random.Generator, view: str, points: Float64Array, *, opacity_rate: float, added: tuple[float, float]
) -> Findings:
    """Draw one image's findings; `points` [n, 3] lie evenly in the lungs; `added`: range of opacities' density."""
    has_opacity = rng.random() < opacity_rate
    opacities = _draw_opacities(rng, points, added) if has_opacity else ()
    has_other = rng.random() < (OTHER_BESIDE if has_opacity else OTHER_RATE[view])
    n = (1 + int(rng.random() < 0.25)) if has_other else 0
    others = tuple(str(v) for v in rng.choice(OTHERS, n, replace=False, p=OTHER_WEIGHTS[view]))
    effusion = [float(rng.uniform(32.0, 75.0)) if rng.random() < 0.6 else 0.0 for _ in range(2)]
    if not any(effusion):
        effusion[int(rng.integers(2))] = 40.0
    return Findings(
        opacities=opacities,
        others=others,
        effusion_mm=(effusion[0], effusion[1]) if "effusion" in others else (0.0, 0.0),
        masses=_draw_masses(rng, points) if "mass" in others else (),
        plates=_draw_plates(rng) if "atelectasis" in others else (),
        has_nipples=bool(rng.random() < NIPPLE_RATE),
    )


def _draw_opacities(rng: np.random.Generator, points: Float64Array, added: tuple[float, float]) -> tuple[Opacity, ...]:
    """Places where pneumonia is common: low and in the middle more than at the top, often on both sides."""
    found: list[Opacity] = []
    inner = points[(np.abs(points[:, 0]) > 38.0) & (points[:, 2] < 70.0) & (points[:, 2] > -112.0)]
    for _ in range(1 + int(rng.choice(3, p=N_OPACITIES))):
        chance = np.where(inner[:, 2] < -20.0, 2.0, 1.0)
        if found:
            near = np.sign(inner[:, 0]) == np.sign(found[-1].centre[0])
            chance = chance * np.where(near, 0.3, 1.0)
        x, y, z = inner[int(rng.choice(len(inner), p=chance / chance.sum()))]
        low, high = np.log(DIAMETER_MM)
        half = 0.5 * float(np.exp(rng.uniform(low, high)))
        found.append(
            Opacity(
                centre=(float(x), float(y), float(z)),
                radii=(
                    half * float(rng.uniform(0.7, 1.0)),
                    half * float(rng.uniform(0.8, 1.0)),
                    half * float(rng.uniform(1.0, 1.25)),
                ),
                added=float(rng.uniform(*added)),
                edge=float(rng.uniform(0.5, 1.1)),
                is_lobar=bool(rng.random() < 0.5),
                seed=int(rng.integers(2**32)),
            )
        )
    return tuple(found)


def _draw_masses(rng: np.random.Generator, points: Float64Array) -> tuple[tuple[float, float, float, float], ...]:
    n = 1 if rng.random() < 0.6 else int(rng.integers(2, 7))
    largest = 32.0 if n == 1 else 18.0
    return tuple(
        (float(x), float(y), float(z), float(rng.uniform(9.0, largest)))
        for x, y, z in points[rng.choice(len(points), n, replace=False)]
    )


def _draw_plates(rng: np.random.Generator) -> tuple[tuple[float, float, float, float, float], ...]:
    """Bands near the diaphragm, nearly level."""
    found = []
    for _ in range(int(rng.integers(1, 4))):
        side = 1.0 if rng.random() < 0.5 else -1.0
        x, y, z = rng.normal((side * 75.0, 0.0, -78.0), (12.0, 20.0, 14.0))
        found.append((float(x), float(y), float(z), float(rng.uniform(28.0, 70.0)), float(rng.uniform(1.6, 4.0))))
    return tuple(found)
