"""What runs through the lungs as tubes: vessels, airways, bands of collapsed lung; and nipples before them."""

# T tubes

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tools.synth.chest.growth import Tree
from rsna_e2e.tools.synth.chest.tubes import Layer, Tubes
from rsna_e2e.tools.synth.chest.vessels import CENTRAL, LEFT_BRONCHI, RIGHT_BRONCHI, TRACHEA
from rsna_e2e.tools.synth.radiograph.body import Body
from rsna_e2e.tools.synth.radiograph.devices import NO_TUBES
from rsna_e2e.tools.synth.radiograph.fillings import Filling
from rsna_e2e.tools.synth.radiograph.scene import Scene

FLESH = 1.05  # density, of water's
TAPER = 0.3  # how much faster than in `chest` vessels become thin: a radiograph shows the outer third of a lung bare
AIRWAY_MM = 2.2  # radius of the largest airways that are not named; wider ones would be rings that nobody sees
N_NAMED = 9  # tubes of trachea and main bronchi, which come first
LONG_TRACHEA = (((0, -12, 250), *TRACHEA[0]), (8.8, *TRACHEA[1]))
BAND_MM = 26.0  # depth of a band, along the ray
NIPPLE = (82.0, -66.0)  # x and z
NIPPLE_DENSITY = 0.9


def tubes_in_lungs(scene: Scene, body: Body, found: Sequence[Filling]) -> tuple[Tubes, Float64Array]:
    """All of them in the world, with the density of each above what is around it, of water's."""
    vessels, airways = scene.vessels, scene.vessels.airways
    arteries, veins = (_thinned(tree, scene.person.vessel_scale) for tree in (vessels.arteries, vessels.veins))
    small = airways.at((np.arange(len(airways)) >= N_NAMED) & (airways.radius_mm[:, 0] < AIRWAY_MM))
    walls = replace(small, radius_mm=1.08 * small.radius_mm + 0.35)
    solid = scene.placed(Tubes.join(arteries, veins, walls))
    hollow = scene.placed(small)
    named = Tubes.join(
        *(Tubes.along(chain[0], chain[1], Layer.AIRWAY) for chain in (LONG_TRACHEA, RIGHT_BRONCHI, LEFT_BRONCHI))
    )
    bands, deep = _bands(scene)
    bands, nipples = scene.placed(bands), scene.placed(_nipples(scene))
    around, there = _surroundings(scene, body, found, solid)
    banded, there_too = _surroundings(scene, body, found, bands)
    density = [
        (FLESH - around) * there * _across(solid),
        -FLESH * _surroundings(scene, body, found, hollow)[1] * _across(hollow),
        np.full(len(named), -FLESH),
        (FLESH - banded) * there_too * deep,
        np.full(len(nipples), NIPPLE_DENSITY),
    ]
    return Tubes.join(solid, hollow, scene.placed(named), bands, nipples), np.concatenate(density)


def _surroundings(
    scene: Scene, body: Body, found: Sequence[Filling], tubes: Tubes
) -> tuple[Float64Array, Float64Array]:
    """Density of the lung around the middle of each tube [T], and how far there is lung: none where fluid took it."""
    middle = 0.5 * (tubes.start + tubes.end)
    density = np.full(len(tubes), scene.person.lung_density)
    there = np.clip(-body.at(body.lung, middle) / 3.0, 0.0, 1.0)
    for one in found:
        share = one.share(body.at(one.soft, middle), body.at(one.hard, middle))
        density += share * np.minimum(one.added, FLESH - density)
        if not one.is_opacity:
            there *= 1.0 - share
    return density, there


def _thinned(tree: Tree, scale: float) -> Tubes:
    """The tubes of a tree, thinner towards the ends of each part."""
    tubes = tree.tubes(Layer.SOFT)
    part, radius = np.array(tree.part), scale * tubes.radius_mm
    for name in sorted(set(tree.part) - {CENTRAL}):
        members = part == name
        radius[members] *= (tubes.radius_mm[members] / tubes.radius_mm[members].max()) ** TAPER
    return replace(tubes, radius_mm=radius)


def _across(tubes: Tubes) -> Float64Array:
    """Share of tubes [T] that counts: those straight along the ray would be bright dots, as no bent vessel is."""
    along = tubes.end - tubes.start
    sine = np.hypot(along[:, 0], along[:, 2]) / (np.linalg.norm(along, axis=1) + 1e-6)
    return np.asarray(np.clip(1.6 * sine, 0.2, 1.0))


def _bands(scene: Scene) -> tuple[Tubes, Float64Array]:
    """Thin plates seen from their edge, as tubes, and how much deeper than wide each of them is."""
    chains = []
    for x, y, z, length, thick in scene.findings.plates:
        t = np.linspace(-0.5, 0.5, 5)
        line = np.stack([x + length * t, np.full(5, y), z + 0.12 * length * t + 5.0 * t * t], axis=1)
        chains.append(Tubes.along(line, 0.5 * thick * np.array([0.6, 1.0, 1.0, 1.0, 0.6]), Layer.SOFT))
    tubes = Tubes.join(NO_TUBES, *chains)
    return tubes, BAND_MM / (2.0 * tubes.radius_mm.max(axis=1, initial=0.1))


def _nipples(scene: Scene) -> Tubes:
    x, z = NIPPLE
    front = -108.0 - scene.person.chest.fat_mm - scene.person.chest.bust_mm
    one = Tubes.along([(x, front, z), (x, front + 8.0, z)], 4.5, Layer.SOFT)
    return Tubes.join(one, one.mirrored()).at(np.full(2, scene.findings.has_nipples))
