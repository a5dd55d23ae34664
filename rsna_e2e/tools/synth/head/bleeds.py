"""The five kinds of intracranial bleeding as signed distances in the canonical head, with the push they give the brain.

Volumes (ml) drawn here are targets: the recorded ground truth is measured on the rendered images.
"""

from dataclasses import dataclass

import numpy as np

from rsna_e2e.tools.synth.common.shapes import FAR_MM, Field, Point, Points, Waves, blob, intersection, union
from rsna_e2e.tools.synth.head.anatomy import Tissues, falx_distance, tentorium_height
from rsna_e2e.tools.synth.head.patient import Head

INNER_TABLE_CENTRE: Point = (0.0, 3.0, 0.0)
INNER_TABLE_RADII: Point = (67.0, 86.0, 75.0)
CORONAL_SUTURE_Y_MM = -27.0  # an epidural bleed does not cross a suture
LAMBDOID_SUTURE_Y_MM = 56.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bleed:
    """One bleed. label: the label name it makes positive. hu: its density. site: its shape, of lens, crescent, falx,
    tentorium (layers), spaces (subarachnoid), level, cast (ventricles), blob (brain).

    centres and radii (mm) place its parts; thickness_mm is its greatest depth where it is a layer; side is -1 right,
    +1 left, 0 both; rough_mm is how far its edge wanders; rim_mm is the width of the oedema around it.
    """

    label: str
    site: str
    hu: float
    centres: tuple[Point, ...]
    radii: tuple[Point, ...]
    thickness_mm: float = 0.0
    side: float = 0.0
    rough_mm: float = 0.0
    rim_mm: float = 0.0
    texture: Waves


def surface_point(direction: np.ndarray) -> Point:
    """Where a ray from the middle of the canonical head meets the inner table."""
    unit = direction / np.linalg.norm(direction / np.array(INNER_TABLE_RADII))
    x, y, z = unit + np.array(INNER_TABLE_CENTRE)
    return float(x), float(y), float(z)


def _density_hu(rng: np.random.Generator) -> float:
    """Fresh clot (60-80 HU) in most, some days old and paler."""
    return float(rng.uniform(45.0, 56.0) if rng.random() < 0.2 else rng.uniform(56.0, 84.0))


def _volume_mm3(rng: np.random.Generator, *, median_ml: float, spread: float) -> float:
    """Log-normal, cut so that what is rendered, with a head's size, stays within about 0.2 to 60 ml."""
    return float(1000.0 * np.clip(median_ml * np.exp(spread * rng.standard_normal()), 0.3, 48.0))


def _side(rng: np.random.Generator) -> float:
    return 1.0 if rng.random() < 0.5 else -1.0


def draw_epidural(rng: np.random.Generator) -> Bleed:
    """A lens between bone and dura, mostly temporal or parietal, bounded by sutures."""
    side = _side(rng)
    volume = _volume_mm3(rng, median_ml=14.0, spread=0.9)
    steepness = rng.uniform(0.28, 0.5)
    radius = (2.0 * volume / (np.pi * steepness)) ** (1.0 / 3.0)  # a paraboloid cap holds pi/2 r^2 h
    if rng.random() < 0.8:
        direction = np.array([side, rng.uniform(-0.15, 0.5), rng.uniform(-0.15, 0.5)])
    else:
        direction = np.array([0.6 * side, rng.uniform(-1.2, -0.9), rng.uniform(0.0, 0.4)])
    return Bleed(
        label="epidural",
        site="lens",
        hu=_density_hu(rng),
        centres=(surface_point(direction),),
        radii=((float(radius),) * 3,),
        thickness_mm=float(steepness * radius),
        side=side,
        rough_mm=0.4,
        texture=Waves.draw(rng, n=4, wavelength_mm=30.0),
    )


def draw_subdural(rng: np.random.Generator) -> Bleed:
    """A crescent over the convexity, or a layer along the falx or on the tentorium."""
    side = _side(rng)
    where = rng.random()
    volume = _volume_mm3(rng, median_ml=13.0, spread=1.1)
    texture = Waves.draw(rng, n=4, wavelength_mm=40.0)
    if where < 0.74:
        grown = float(np.clip((volume / 13e3) ** (1.0 / 3.0), 0.5, 1.15))  # a small one is smaller, not only thinner
        along, up = grown * rng.uniform(34.0, 76.0), grown * rng.uniform(22.0, 50.0)
        centre = surface_point(np.array([side, rng.uniform(-0.6, 0.7), rng.uniform(0.0, 0.7)]))
        thickness = float(np.clip(volume / (0.6 * np.pi * along * up), 2.0, 20.0))
        return Bleed(
            label="subdural", site="crescent", hu=_density_hu(rng), centres=(centre,), radii=((60.0, along, up),),
            thickness_mm=thickness, side=side, rough_mm=0.12 * thickness, texture=texture,
        )  # fmt: skip
    if where < 0.9:
        reach = rng.uniform(18.0, 50.0)
        centre = (0.0, float(rng.uniform(-50.0, 60.0)), float(rng.uniform(25.0, 55.0)))
        return Bleed(
            label="subdural", site="falx", hu=_density_hu(rng), centres=(centre,), radii=((30.0, reach, 0.7 * reach),),
            thickness_mm=float(rng.uniform(2.0, 7.0)), side=side, rough_mm=0.5, texture=texture,
        )  # fmt: skip
    reach = rng.uniform(12.0, 36.0)
    centre = (28.0 * side, float(rng.uniform(40.0, 60.0)), -6.0)
    return Bleed(
        label="subdural", site="tentorium", hu=_density_hu(rng), centres=(centre,), radii=((reach, reach, 40.0),),
        thickness_mm=float(rng.uniform(2.0, 5.0)), side=side, rough_mm=0.5, texture=texture,
    )  # fmt: skip


def draw_subarachnoid(rng: np.random.Generator, *, traumatic: bool) -> Bleed:
    """Blood in cisterns and fissures (a burst aneurysm) or in a few sulci of the convexity (an injury)."""
    centres: list[Point] = []
    radii: list[Point] = []
    if traumatic:
        side = _side(rng)
        for _ in range(int(rng.integers(1, 4))):
            flip = 1.0 if rng.random() < 0.75 else -1.0
            direction = np.array([side * flip, rng.uniform(-1.3, 1.3), rng.uniform(-0.2, 1.1)])
            x, y, z = surface_point(direction)
            centres.append((0.86 * x, 0.86 * y, 0.86 * z))
            radii.append((float(rng.uniform(10.0, 26.0)),) * 3)
    else:
        reach = rng.uniform(12.0, 30.0)
        centres.append((0.0, -8.0, -22.0))
        radii.append((float(reach),) * 3)
        for side in (-1.0, 1.0):
            if rng.random() < 0.75:
                centres.append((40.0 * side, float(rng.uniform(-14.0, 8.0)), float(rng.uniform(-8.0, 8.0))))
                radii.append((float(reach * rng.uniform(0.6, 1.2)),) * 3)
        if rng.random() < 0.4:
            centres.append((0.0, -45.0, 10.0))
            radii.append((12.0, float(reach), float(reach)))
    return Bleed(
        label="subarachnoid", site="spaces", hu=float(rng.uniform(52.0, 80.0)), centres=tuple(centres),
        radii=tuple(radii), rough_mm=3.0, texture=Waves.draw(rng, n=5, wavelength_mm=22.0),
    )  # fmt: skip


def draw_intraventricular(rng: np.random.Generator) -> Bleed:
    """A level in the back of both lateral ventricles, or a cast of some part of the ventricles."""
    texture = Waves.draw(rng, n=4, wavelength_mm=18.0)
    if rng.random() < 0.55:
        level_y = float(rng.uniform(28.0, 60.0))
        return Bleed(
            label="intraventricular", site="level", hu=_density_hu(rng), centres=((0.0, level_y, 0.0),),
            radii=((90.0, 90.0, 90.0),), rough_mm=0.5, texture=texture,
        )  # fmt: skip
    side = _side(rng)
    choices: tuple[Point, ...] = (
        (12.0 * side, -10.0, 14.0),
        (22.0 * side, 38.0, 12.0),
        (0.0, 3.0, -2.0),
        (0.0, 36.0, -29.0),
    )
    n = int(rng.integers(1, 4))
    picked = rng.choice(len(choices), size=n, replace=False, p=(0.35, 0.35, 0.15, 0.15))
    return Bleed(
        label="intraventricular", site="cast", hu=_density_hu(rng),
        centres=tuple(choices[i] for i in sorted(picked)),
        radii=tuple((float(rng.uniform(10.0, 34.0)),) * 3 for _ in range(n)), rough_mm=1.5, texture=texture,
    )  # fmt: skip


def draw_intraparenchymal(rng: np.random.Generator, *, traumatic: bool) -> Bleed:
    """One bleed deep in the brain, in a lobe, the cerebellum or the pons; or several contusions under the surface."""
    volume = _volume_mm3(rng, median_ml=5.0 if traumatic else 11.0, spread=1.1)
    side = _side(rng)
    n = int(rng.integers(1, 5)) if traumatic else 1
    share = rng.dirichlet(np.full(n, 2.0))
    centres, radii = [], []
    for part in share:
        radius = (0.75 / np.pi * volume * max(float(part), 0.05)) ** (1.0 / 3.0)
        centres.append(_contusion_site(rng, side) if traumatic else _spontaneous_site(rng, side))
        stretch = rng.uniform(0.75, 1.35, 3)
        stretch /= np.prod(stretch) ** (1.0 / 3.0)
        radii.append(tuple(float(radius * v) for v in stretch))
    mean_radius = float(np.mean([r for part in radii for r in part]))
    return Bleed(
        label="intraparenchymal", site="blob", hu=_density_hu(rng), centres=tuple(centres),
        radii=tuple((r[0], r[1], r[2]) for r in radii), side=side,
        rough_mm=float(rng.uniform(0.1, 0.3)) * mean_radius,
        rim_mm=float(rng.uniform(1.0, 2.5) + rng.uniform(0.0, 0.35) * mean_radius),
        texture=Waves.draw(rng, n=6, wavelength_mm=max(8.0, 1.5 * mean_radius)),
    )  # fmt: skip


def _contusion_site(rng: np.random.Generator, side: float) -> Point:
    """Poles and undersides of the frontal and temporal lobes, where brain strikes bone."""
    if rng.random() < 0.6:
        centre = np.array([side * rng.uniform(8.0, 32.0), rng.uniform(-68.0, -45.0), rng.uniform(-10.0, 22.0)])
    else:
        centre = np.array([side * rng.uniform(40.0, 54.0), rng.uniform(-26.0, 18.0), rng.uniform(-22.0, 8.0)])
    x, y, z = centre
    return float(x), float(y), float(z)


def _spontaneous_site(rng: np.random.Generator, side: float) -> Point:
    """Putamen 35 %, thalamus 20 %, lobes 30 %, cerebellum 10 %, pons 5 %: roughly what case series report."""
    where = rng.random()
    if where < 0.35:
        centre = rng.normal((27.0 * side, -3.0, 4.0), (2.5, 5.0, 4.0))
    elif where < 0.55:
        centre = rng.normal((13.0 * side, 11.0, 6.0), (2.0, 3.0, 3.0))
    elif where < 0.85:
        direction = np.array([side, rng.uniform(-1.1, 1.2), rng.uniform(-0.1, 1.0)])
        centre = rng.uniform(0.55, 0.8) * np.array(surface_point(direction))
    elif where < 0.95:
        centre = rng.normal((22.0 * side, 52.0, -34.0), (5.0, 5.0, 5.0))
    else:
        centre = rng.normal((0.0, 17.0, -34.0), (3.0, 2.0, 3.0))
    x, y, z = centre
    return float(x), float(y), float(z)


def displaced(bleeds: tuple[Bleed, ...], p: Points) -> Points:
    """Places of the tissue at `p` before the bleeds displaced it, canonical mm."""
    x, y, z = p.x, p.y, p.z
    for bleed in bleeds:
        if bleed.site not in ("blob", "lens", "crescent"):
            continue
        for centre, radii in zip(bleed.centres, bleed.radii, strict=True):
            dx, dy, dz = p.x - centre[0], p.y - centre[1], p.z - centre[2]
            r2 = dx * dx
            r2 += dy * dy
            r2 += dz * dz
            if bleed.site == "blob":
                radius = float(np.mean(radii))
                push = np.exp(r2 * (-0.5 / (1.5 * radius) ** 2))
                push *= 0.45
                x, y, z = x - dx * push, y - dy * push, z - dz * push
            else:
                push = np.exp(r2 * (-0.5 / 44.0**2))
                push *= 0.7 * bleed.thickness_mm / float(np.linalg.norm(centre))
                x, y, z = x + centre[0] * push, y + centre[1] * push, z + centre[2] * push
    return Points(x, y, z)


def bleed_distance(bleed: Bleed, head: Head, p: Points, brain_p: Points, tissue: Tissues) -> Field:
    """Distance (mm) to a bleed at canonical places `p`; for the site "spaces", to the region whose fluid it fills."""
    if bleed.site in ("lens", "crescent"):
        region = _layer_distance(bleed, p, tissue)
    else:
        region = union(*(blob(p, c, r) for c, r in zip(bleed.centres, bleed.radii, strict=True)))
    if float(region.min()) > bleed.rim_mm + 3.0 * bleed.rough_mm + 2.0:
        return region
    wander = bleed.texture(p) * bleed.rough_mm
    region = region + wander
    if bleed.site in ("lens", "crescent", "spaces"):
        return region
    if bleed.site == "level":
        return intersection(tissue.ventricle, bleed.centres[0][1] - p.y + wander)
    if bleed.site == "cast":
        return intersection(tissue.ventricle, region)
    if bleed.site == "blob":
        return intersection(region, tissue.cavity + head.gap_mm)
    if bleed.site == "falx":
        half = 0.5 * bleed.thickness_mm
        slab = np.abs(bleed.side * p.x - (head.falx_half_mm + half)) - half + 0.4 * wander
        return intersection(slab, falx_distance(p), region, tissue.cavity)
    half = 0.5 * bleed.thickness_mm
    slab = np.abs((p.z - tentorium_height(p)) * 0.85 - half) - half + 0.4 * wander
    return intersection(slab, region, tissue.cavity, 8.0 + 0.4 * np.abs(p.x) - p.y)


def _layer_distance(bleed: Bleed, p: Points, tissue: Tissues) -> Field:
    """A layer on the inner table whose depth falls from its centre to its edge as a parabola."""
    centre, radii = bleed.centres[0], bleed.radii[0]
    qx, qy, qz = ((v - c) * (1.0 / r) for v, c, r in zip((p.x, p.y, p.z), centre, radii, strict=True))
    q2 = qy * qy + qz * qz
    if bleed.site == "lens":
        q2 += qx * qx
    depth = bleed.thickness_mm * np.clip(1.0 - q2, -1.0, 1.0)
    distance = intersection((-tissue.cavity - depth) * 0.9, tissue.cavity, 1.0 - bleed.side * p.x)
    if bleed.site == "lens":
        back, front = (
            (LAMBDOID_SUTURE_Y_MM, CORONAL_SUTURE_Y_MM)
            if centre[1] > CORONAL_SUTURE_Y_MM
            else (CORONAL_SUTURE_Y_MM, -FAR_MM * 2)
        )
        distance = intersection(distance, p.y - back, front - p.y)
    return distance
