"""What takes the place of air in the lungs, as fields on the grid: opacities, masses, fluid."""

# Y depths, Z heights, X places from side to side

from dataclasses import dataclass

import numpy as np

from rsna_e2e.core.records import Float32Array
from rsna_e2e.tools.synth.chest.organs import fissure_height
from rsna_e2e.tools.synth.common.shapes import Field, Points, Waves, coverage, ellipsoid, intersection
from rsna_e2e.tools.synth.radiograph.body import Body
from rsna_e2e.tools.synth.radiograph.findings import Findings, Opacity
from rsna_e2e.tools.synth.radiograph.patient import Person

FISSURE_MM = 2.5  # width of an edge at a fissure
RAGGED = ((46.0, 0.2), (19.0, 0.1))  # wavelengths (mm) of an opacity's outline, and how far they move it, of its radius
FLUID, MASS = 1.0, 0.95  # density, of water's


@dataclass(frozen=True, slots=True, kw_only=True)
class Filling:
    """Density (of water's) that is added to lung within `soft` [Y, Z, X], with an edge of `edge_mm`, and `hard`."""

    is_opacity: bool
    added: float
    soft: Float32Array
    edge_mm: float
    hard: Float32Array

    def share(self, soft: Field, hard: Field) -> Field:
        """Share of the place that is filled, for values of both fields."""
        return coverage(soft, self.edge_mm) * coverage(hard, FISSURE_MM)


def fillings(findings: Findings, person: Person, body: Body) -> list[Filling]:
    """All of one image; opacities come last, and fill what others have left."""
    p = body.places
    everywhere = np.full_like(p.x, -FISSURE_MM)
    found = [
        Filling(is_opacity=False, added=MASS, soft=ellipsoid(p, (x, y, z), (r, r, r)), edge_mm=3.0, hard=everywhere)
        for x, y, z, r in findings.masses
    ]
    for side, height in zip((-1.0, 1.0), findings.effusion_mm, strict=True):
        if height > 0.0:
            found.append(_fluid(person, body, side, height))
    return [*found, *(_opacity(one, p) for one in findings.opacities)]


def _opacity(opacity: Opacity, p: Points) -> Filling:
    """A ragged ellipsoid, cut at the fissures where it keeps to a lobe."""
    rng = np.random.default_rng(opacity.seed)
    smallest = min(opacity.radii)
    soft = ellipsoid(p, opacity.centre, opacity.radii)
    for wavelength, share in RAGGED:
        soft += Waves.draw(rng, n=6, wavelength_mm=wavelength)(p) * np.float32(share * smallest)
    soft += np.float32(0.15 * smallest)
    hard = _lobe(opacity, p) if opacity.is_lobar else np.full_like(p.x, -FISSURE_MM)
    return Filling(
        is_opacity=True, added=opacity.added, soft=soft, edge_mm=max(opacity.edge * smallest, 6.0), hard=hard
    )


def _lobe(opacity: Opacity, p: Points) -> Float32Array:
    """Distance to the lobe that an opacity is in."""
    x, y, z = (np.array([v]) for v in opacity.centre)
    own = fissure_height(Points(x, y, z))
    oblique, horizontal = fissure_height(p)
    is_upper = float(own[0][0]) > 0.0
    lobe = -oblique if is_upper else oblique
    if is_upper and opacity.centre[0] < 0.0:
        lobe = intersection(lobe, -horizontal if float(own[1][0]) > 0.0 else horizontal)
    return np.asarray(lobe, np.float32)


def _fluid(person: Person, body: Body, side: float, height_mm: float) -> Filling:
    """Fluid on one side: level, rising along the wall, where the patient stands; at the back where they lie."""
    p = body.places
    other_side = 6.0 - side * p.x
    if person.is_upright:
        level = person.chest.dome_mm - person.fall_mm + height_mm
        rising = np.exp(np.clip(body.cage, -60.0, 0.0) * (1.0 / 9.0))
        soft = (p.z - level - 0.55 * height_mm * rising) * 0.8
        return Filling(is_opacity=False, added=FLUID, soft=soft, edge_mm=4.0, hard=other_side)
    depth = 84.0 - 0.8 * height_mm * np.clip((60.0 - p.z) * (1.0 / 150.0), 0.0, 1.0)
    soft = np.asarray(depth - p.y, np.float32)
    return Filling(is_opacity=False, added=FLUID, soft=soft, edge_mm=8.0, hard=other_side)
