"""From anatomy to line integrals: what a ray from the source to each pixel of the detector loses."""

# h x w pixels of the rendering grid

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from rsna_e2e.core.records import Float32Array
from rsna_e2e.tools.synth.chest.tubes import Tubes
from rsna_e2e.tools.synth.radiograph.body import STEP_MM, Body, make_body
from rsna_e2e.tools.synth.radiograph.bones import BLADE_MM, CORTEX, MARROW, blade, bones
from rsna_e2e.tools.synth.radiograph.chords import facing, projected
from rsna_e2e.tools.synth.radiograph.detector import Mask, enlarged
from rsna_e2e.tools.synth.radiograph.devices import strokes
from rsna_e2e.tools.synth.radiograph.fillings import Filling, fillings
from rsna_e2e.tools.synth.radiograph.layers import Layers
from rsna_e2e.tools.synth.radiograph.lung_tubes import FLESH, tubes_in_lungs
from rsna_e2e.tools.synth.radiograph.scene import Scene

WATER_PER_MM = 0.0206  # attenuation at 60 keV, the effective energy of a chest radiograph
FAT = 0.93  # density, of water's
LUNG_MM = 60.0  # of lung along the ray, where the image is called one of lung
BOX_MM = 140.0  # of water that a pacemaker's box is worth
LETTER = 350.0  # density of lead in the letter, more than enough


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
    body = make_body(person, scene.rotation, scene.large_vessels())
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
    in_lungs, density = tubes_in_lungs(scene, body, found)
    letter = strokes(scene.devices.letter, beam)
    tubes = Tubes.join(whole, within, in_lungs, scene.placed(scene.devices.tubes), letter)
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
