"""The skeleton with the arms down, in the frame of `chest.organs`, and how much denser than flesh it is."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tools.synth.chest.organs import SPINE_Y_MM
from rsna_e2e.tools.synth.chest.skeleton import LEVEL_MM, arch, level_heights, rib
from rsna_e2e.tools.synth.chest.tubes import Layer, Tubes
from rsna_e2e.tools.synth.common.shapes import Point
from rsna_e2e.tools.synth.radiograph.body import widened
from rsna_e2e.tools.synth.radiograph.patient import SHOULDER, Person

CORTEX_MM, THICK_CORTEX_MM = 0.8, 1.7  # thick: of shoulder and arm
CORTEX, MARROW = 1.05, 0.3  # density above flesh, of water's, at the 60 keV of a chest radiograph
BLADE_MM = 4.0  # of bone in the flat part of a shoulder blade
VERTEBRA_MM = (16.0, 9.6)  # radius, half the height
N_NECK = 3  # vertebrae above the chest that the image shows
RIB_WIDER = 1.12  # ribs are higher than they are thick, and a radiograph shows their height


@dataclass(frozen=True, slots=True, kw_only=True)
class Bones:
    """Bones of one build: all of them, and what lies within their cortex, tube by tube."""

    whole: Tubes
    within: Tubes


def bones(person: Person) -> Bones:
    """All bones but the flat part of the shoulder blades."""
    thin = Tubes.join(*_ribs(person), *_arches()).of(Layer.BONE)
    thick = Tubes.join(*_shoulder(person))
    left = Tubes.join(thin, thick)
    cortex = np.concatenate([np.full(len(thin), CORTEX_MM), np.full(len(thick), THICK_CORTEX_MM)])
    spine = _vertebrae()
    whole = Tubes.join(left, left.mirrored(), spine)
    whole = replace(whole, start=_placed(whole.start), end=_placed(whole.end))
    cortex = np.concatenate([cortex, cortex, np.full(len(spine), CORTEX_MM)])[:, None]
    return Bones(
        whole=whole,
        within=replace(whole, radius_mm=np.maximum(whole.radius_mm - cortex, 0.2 * whole.radius_mm)),
    )


def _placed(points: Float64Array) -> Float64Array:
    return np.stack([widened(points[:, 0], points[:, 2]), points[:, 1], points[:, 2]], axis=1)


def _ribs(person: Person) -> Iterable[Tubes]:
    for level, height in enumerate(level_heights().tolist()):
        found = rib(level, height, slope=1.45 if person.is_upright else 1.25)
        yield replace(found, radius_mm=found.radius_mm * (RIB_WIDER if level else 1.35))


def _spine() -> list[float]:
    heights = level_heights().tolist()
    neck = [heights[0] + LEVEL_MM * 0.8 * (i + 1) for i in range(N_NECK)]
    return [*heights, *neck, *(heights[-1] - LEVEL_MM * 1.15 * (i + 1) for i in range(2))]


def _arches() -> Iterable[Tubes]:
    return (arch(height) for height in _spine())


def _vertebrae() -> Tubes:
    radius, half = VERTEBRA_MM
    return Tubes.join(
        *(Tubes.along([(0.0, SPINE_Y_MM, z - half), (0.0, SPINE_Y_MM, z + half)], radius, Layer.BONE) for z in _spine())
    )


def _shoulder(person: Person) -> Iterable[Tubes]:
    superior, inferior, socket = blade(person)
    clavicle = [(13.0, -50.0, 46.0), (40.0, -60.0, 54.0), (85.0, -44.0, 73.0), (130.0, -8.0, 90.0), (158.0, 4.0, 95.0)]
    yield Tubes.along(clavicle, (8.5, 6.4, 5.6, 5.8, 6.4), Layer.BONE)
    inner = (superior[0] - 5.0, superior[1] + 4.0, 20.0)
    yield Tubes.along([superior, inner, inferior], (1.4, 1.5, 2.0), Layer.BONE)
    outer = (0.6 * inferior[0] + 0.4 * socket[0] - 5.0, 0.6 * inferior[1] + 0.4 * socket[1], 0.0)
    yield Tubes.along([inferior, outer, socket], (2.0, 2.8, 5.0), Layer.BONE)
    ridge = [(superior[0] + 4.0, superior[1] + 8.0, 62.0), (136.0, 52.0, 84.0), (166.0, 12.0, 98.0)]
    yield Tubes.along(ridge, (3.0, 4.0, 6.5), Layer.BONE)
    x, y, z = SHOULDER
    shaft = [(x - 10.0, y, z + 15.0), (x - 5.0, y, z + 8.0), (x, y, z - 10.0), (x + 5.0, y, z - 40.0), person.elbow]
    yield Tubes.along(shaft, (10.0, 21.0, 22.0, 12.5, 11.0), Layer.BONE)


def blade(person: Person) -> tuple[Point, Point, Point]:
    """Corners of the left shoulder blade: superior, inferior, at the joint. Turned outwards where the arms are."""
    if person.is_upright:
        return (112.0, 62.0, 78.0), (134.0, 52.0, -52.0), (150.0, 20.0, 58.0)
    return (84.0, 70.0, 80.0), (96.0, 74.0, -58.0), (148.0, 18.0, 56.0)
