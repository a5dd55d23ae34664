"""From anatomy to line integrals: what a ray from the source to each pixel of the detector loses."""

# h x w pixels of the rendering grid, T tubes

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from rsna_e2e.core.records import Float32Array, Float64Array
from rsna_e2e.tools.synth.chest.tubes import Layer, Tubes
from rsna_e2e.tools.synth.chest.vessels import (
    CENTRAL,
    LEFT_BRONCHI,
    LEFT_MAIN,
    RIGHT_BRONCHI,
    RIGHT_MAIN,
    TRACHEA,
    TRUNK,
    great_vessels,
)
from rsna_e2e.tools.synth.radiograph.body import STEP_MM, Body, make_body
from rsna_e2e.tools.synth.radiograph.bones import BLADE_MM, CORTEX, MARROW, blade, bones
from rsna_e2e.tools.synth.radiograph.chords import facing, projected
from rsna_e2e.tools.synth.radiograph.detector import Mask, enlarged
from rsna_e2e.tools.synth.radiograph.devices import strokes
from rsna_e2e.tools.synth.radiograph.fillings import Filling, fillings
from rsna_e2e.tools.synth.radiograph.layers import Layers
from rsna_e2e.tools.synth.radiograph.scene import Scene

WATER_PER_MM = 0.0206  # attenuation at 60 keV, the effective energy of a chest radiograph
FAT, FLESH = 0.93, 1.05  # density, of water's
LUNG_MM = 60.0  # of lung along the ray, where the image is called one of lung
TAPER = 0.3  # how much faster than in `chest` vessels become thin: a radiograph shows the outer third of a lung bare
AIRWAY_MM = 2.2  # radius below which the wall of an airway is not seen
N_NAMED = 9  # tubes of trachea and main bronchi, which come first
LONG_TRACHEA = (((0, -12, 250), *TRACHEA[0]), (8.8, *TRACHEA[1]))
BOX_MM = 140.0  # of water that a pacemaker's box is worth
LETTER = 150.0  # density of lead in the letter, more than enough
NIPPLE = (82.0, -66.0)  # x and z


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """Line integrals [h, w]: of everything, what opacities add, and how much lung (mm) lies on the ray."""

    path: Float32Array
    added: Float32Array
    lung_mm: Float32Array

    @property
    def lungs(self) -> Mask:
        """Where the image shows lung, a mask."""
        return np.asarray(self.lung_mm > LUNG_MM)


def render(scene: Scene) -> Rendering:
    """Everything but scatter and noise."""
    person, beam = scene.person, scene.beam
    body = make_body(person, scene.rotation, _large(scene))
    found = fillings(scene.findings, person, body)
    layers = Layers(beam)
    lung, other, opacity = _through_lungs(layers, body, found, FLESH - person.lung_density)
    half = Layers(beam.halved())
    wall = (FAT * half.thickness(body.skin) + (FLESH - FAT) * half.thickness(body.muscle)).astype(np.float32)
    length = enlarged(ndimage.gaussian_filter(wall, 0.5), beam.rows, beam.columns)
    length = length - np.float32(FLESH - person.lung_density) * lung + other + opacity
    length -= np.float32(FLESH) * layers.thickness(body.bubble)
    length += _tubes(scene, body, found)
    np.maximum(length, 0.0, out=length)
    return Rendering(path=length * np.float32(WATER_PER_MM), added=opacity * np.float32(WATER_PER_MM), lung_mm=lung)


def _tubes(scene: Scene, body: Body, found: Sequence[Filling]) -> Float32Array:
    """What vessels, airways, bones and devices add to the length of rays in water [h, w]."""
    beam = scene.beam
    skeleton = bones(scene.person)
    whole, within = scene.placed(skeleton.whole), scene.placed(skeleton.within)
    in_air, density = _in_lungs(scene, body, found)
    letter = strokes(scene.devices.letter, beam)
    tubes = Tubes.join(whole, within, in_air, scene.placed(scene.devices.tubes), letter)
    weights = [
        np.full(len(whole), CORTEX), np.full(len(within), MARROW - CORTEX), density, scene.devices.density,
        np.full(len(letter), LETTER),
    ]  # fmt: skip
    return projected(tubes, np.concatenate(weights), beam) + _plates(scene)


def _plates(scene: Scene) -> Float32Array:
    """What shoulder blades and the box of a pacemaker add to the length of rays in water [h, w]."""
    person, found = scene.person, np.zeros((scene.beam.rows, scene.beam.columns), np.float32)
    corners = np.array(blade(person))
    plates = [(corners * (side, 1.0, 1.0), BLADE_MM * 0.5 * (CORTEX + MARROW)) for side in (-1.0, 1.0)]
    if len(scene.devices.box):
        plates.append((scene.devices.box, BOX_MM))
    for points, length in plates:
        placed = points * person.chest.scale @ scene.rotation.T + np.array(person.centre_mm)
        found += np.float32(length) * facing(placed, scene.beam)
    return found


def _in_lungs(scene: Scene, body: Body, found: Sequence[Filling]) -> tuple[Tubes, Float64Array]:
    """Vessels and airways in the world, with the density of each above what is around it."""
    vessels, airways = scene.vessels, scene.vessels.airways
    scale = scene.person.vessel_scale
    blood = [
        replace(tubes, radius_mm=scale * _tapered(tubes.radius_mm, tree.part))
        for tree, tubes in (
            (vessels.arteries, vessels.arteries.tubes(Layer.ARTERY)),
            (vessels.veins, vessels.veins.tubes(Layer.VEIN)),
        )
    ]
    named = Tubes.join(
        *(Tubes.along(chain[0], chain[1], Layer.AIRWAY) for chain in (LONG_TRACHEA, RIGHT_BRONCHI, LEFT_BRONCHI))
    )
    small = airways.at(np.arange(len(airways)) >= N_NAMED)
    small = small.at(small.radius_mm[:, 0] < AIRWAY_MM)
    walls = replace(small, radius_mm=1.08 * small.radius_mm + 0.35)
    spots = _nipples(scene)
    parts = [scene.placed(tubes) for tubes in (*blood, walls, small, named, spots)]
    around = [_density_at(body, scene, found, part) for part in parts]
    is_lung = [np.clip(-body.at(body.lung, 0.5 * (part.start + part.end)) / 3.0, 0.0, 1.0) for part in parts]
    density = [
        (FLESH - a) * share * _across(part) for a, share, part in zip(around[:3], is_lung[:3], parts[:3], strict=True)
    ]
    density += [-FLESH * is_lung[3] * _across(parts[3]), np.full(len(named), -FLESH), np.full(len(spots), 0.9)]
    return Tubes.join(*parts), np.concatenate(density)


def _across(tubes: Tubes) -> Float64Array:
    """Share of tubes [T] that counts: those straight along the ray would be bright dots, as no bent vessel is."""
    along = tubes.end - tubes.start
    return np.asarray(
        np.clip(1.6 * np.hypot(along[:, 0], along[:, 2]) / (np.linalg.norm(along, axis=1) + 1e-6), 0.2, 1.0)
    )


def _density_at(body: Body, scene: Scene, found: Sequence[Filling], tubes: Tubes) -> Float64Array:
    """Density (of water's) of the lung around the middle of each tube [T]."""
    middle = 0.5 * (tubes.start + tubes.end)
    density = np.full(len(tubes), scene.person.lung_density)
    for one in found:
        hard = None if one.hard is None else body.at(one.hard, middle)
        density += one.share(body.at(one.soft, middle), hard) * np.minimum(one.added, FLESH - density)
    return density


def _tapered(radius_mm: Float64Array, parts: Sequence[str]) -> Float64Array:
    """Radii [T, 2] of a tree's tubes that fall faster towards the ends of each part."""
    part = np.array(parts)
    result = radius_mm.copy()
    for name in sorted(set(parts) - {CENTRAL}):
        members = part == name
        result[members] *= (radius_mm[members] / radius_mm[members].max()) ** TAPER
    return result


def _nipples(scene: Scene) -> Tubes:
    x, z = NIPPLE
    front = -108.0 - scene.person.chest.fat_mm - scene.person.chest.bust_mm
    one = Tubes.along([(x, front, z), (x, front + 8.0, z)], 4.5, Layer.SOFT)
    return Tubes.join(one, one.mirrored()).at(np.full(2, scene.findings.has_nipples))


def _large(scene: Scene) -> Tubes:
    """Vessels whose outline is that of the mediastinum."""
    chains = (TRUNK, RIGHT_MAIN, LEFT_MAIN)
    scale = scene.person.vessel_scale
    return Tubes.join(
        great_vessels(scene.person.chest.aorta_scale, is_left_arm=False).of(Layer.AORTA, Layer.SVC),
        *(Tubes.along(points, scale * np.array(radii), Layer.ARTERY) for points, radii in chains),
    )


def _through_lungs(
    layers: Layers, body: Body, found: Sequence[Filling], room: float
) -> tuple[Float32Array, Float32Array, Float32Array]:
    """Length (mm) of each ray in the lungs [h, w], and what fills them, as lengths in water: others, and opacities.

    room: density that can be added.
    """
    lung, other, opacity = (np.zeros(layers.shape, np.float32) for _ in range(3))
    reach = layers.reach(body.lung)
    if reach is None:
        return lung, other, opacity
    reaches = [layers.reach(one.soft, 0.5 * one.edge_mm) for one in found]
    for layer, share in layers.shares(body.lung, reach):
        part = np.zeros(layers.shape, np.float32)
        part[reach.pixels] = share
        lung += part
        for one, where in zip(found, reaches, strict=True):
            if where is None or not where.layers.start <= layer < where.layers.stop - 1:
                continue
            pixels = where.pixels
            soft, hard = (layers.seen(0.5 * (f[layer] + f[layer + 1]), layer, pixels) for f in (one.soft, one.hard))
            filled = part[pixels] * one.share(soft, hard)
            into = opacity if one.is_opacity else other
            into[pixels] += np.float32(min(one.added, room)) * filled
            part[pixels] -= filled
    return lung * np.float32(STEP_MM), other * np.float32(STEP_MM), opacity * np.float32(STEP_MM)
