"""Ribs, sternum, shoulders and the arches of the vertebrae as tubes, in the frame of `organs`."""

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tools.synth.chest.organs import CAGE_CENTRE, CAGE_RADII, SPINE_Y_MM
from rsna_e2e.tools.synth.chest.tubes import Layer, Tubes

LEVELS = 12  # thoracic vertebrae
FIRST_LEVEL_Z_MM = 92.0  # middle of the first
LEVEL_MM = 24.5
DISC_MM = 4.5
RIB_MM = 5.2  # radius
FRONT_OF_RIB = 2.55  # angle from the back (rad) at which bone gives way to cartilage


def level_heights() -> Float64Array:
    """Height (mm) of the middle of each vertebra."""
    return FIRST_LEVEL_Z_MM - LEVEL_MM * np.arange(LEVELS, dtype=np.float64)


def on_cage(angle: npt.ArrayLike, z: npt.ArrayLike, outward_mm: float) -> Float64Array:
    """Points [n, 3] on the cage, `outward_mm` outside it, at an angle from the back (rad) and a height (mm)."""
    angle, z = np.asarray(angle, np.float64), np.asarray(z, np.float64)
    above = (np.maximum(z, CAGE_CENTRE[2]) - CAGE_CENTRE[2]) / CAGE_RADII[2]
    narrow = np.sqrt(np.maximum(1.0 - above**2, 0.03))
    x = (CAGE_RADII[0] * narrow + outward_mm) * np.sin(angle)
    y = CAGE_CENTRE[1] + (CAGE_RADII[1] * narrow + outward_mm) * np.cos(angle)
    return np.stack(np.broadcast_arrays(x, y, z), axis=-1)


def rib(level: int, height: float, *, slope: float = 1.0) -> Tubes:
    """The rib and cartilage of one level on the left; `slope` times as steep as in one who lies with the arms up."""
    last = (1.35, 1.8, 2.3, 2.75)[min(LEVELS - 1 - level, 3)] if level > 7 else 2.95
    angle = np.linspace(0.42, last, 15)
    drop = (28.0 + 5.0 * min(level, 7)) * (1.0 - np.cos(angle)) * 0.72 * slope
    at = on_cage(angle, height - 2.0 - drop, RIB_MM + 1.0)
    neck = np.array([[18.0, SPINE_Y_MM + 8.0, height], [26.0, SPINE_Y_MM + 18.0, height]])
    at = np.concatenate([neck, at])
    is_bone = np.concatenate([[True, True], angle < FRONT_OF_RIB])
    n_bone = int(is_bone.sum())
    bone = Tubes.along(at[:n_bone], RIB_MM, Layer.BONE)
    return Tubes.join(bone, Tubes.along(at[n_bone - 1 :], RIB_MM + 0.5, Layer.SOFT)) if n_bone < len(at) else bone


def arch(height: float) -> Tubes:
    """Pedicle, lamina, transverse and spinous process of one level on the left."""
    y = SPINE_Y_MM
    return Tubes.join(
        Tubes.along([(11.0, y + 8.0, height + 5.0), (15.0, y + 21.0, height + 4.0)], 4.5, Layer.BONE),
        Tubes.along(
            [(15.0, y + 21.0, height + 4.0), (9.0, y + 31.0, height - 1.0), (0.0, y + 38.0, height - 7.0)],
            3.8,
            Layer.BONE,
        ),
        Tubes.along([(13.0, y + 22.0, height + 4.0), (36.0, y + 31.0, height + 7.0)], (5.0, 3.8), Layer.BONE),
        Tubes.along([(0.0, y + 37.0, height - 6.0), (0.0, y + 56.0, height - 26.0)], (3.4, 4.0), Layer.BONE),
    )


def _sternum() -> Tubes:
    z = np.array([58.0, 40.0, 20.0, 0.0, -25.0, -50.0, -75.0, -95.0])
    at = on_cage(np.full(len(z), np.pi), z, 7.0)
    half = np.array([16.0, 14.0, 9.0, 8.0, 9.0, 10.0, 8.0, 3.0])
    lines = [at + np.stack([share * half, np.zeros(len(z)), np.zeros(len(z))], axis=1) for share in (0.2, 0.85)]
    return Tubes.join(*(Tubes.along(line, 6.2, Layer.BONE) for line in lines))


def _shoulder() -> Tubes:
    clavicle = Tubes.along(
        [(16.0, -46.0, 66.0), (60.0, -52.0, 84.0), (130.0, -6.0, 108.0)], (8.0, 5.5, 5.5), Layer.BONE
    )
    angles = ((0.55, 1.05), (0.62, 1.12), (0.75, 1.1), (0.85, 1.0))
    heights = (82.0, 42.0, 2.0, -28.0)
    medial, lateral = ([on_cage(a[i], z, 19.0) for a, z in zip(angles, heights, strict=True)] for i in (0, 1))
    blade = [
        Tubes.along(np.linspace(m, s, 5), (2.8, 2.2, 2.2, 3.0, 4.5), Layer.BONE)
        for m, s in zip(np.linspace(medial[0], medial[-1], 19), np.linspace(lateral[0], lateral[-1], 19), strict=True)
    ]
    border = Tubes.along([*lateral[::-1], np.array([142.0, 18.0, 104.0])], (3.0, 4.0, 4.5, 5.0, 12.0), Layer.BONE)
    humerus = Tubes.along([(158.0, 8.0, 112.0), (176.0, 4.0, 190.0)], (24.0, 14.0), Layer.BONE)
    return Tubes.join(clavicle, *blade, border, humerus)


def skeleton() -> Tubes:
    """All bones but the vertebral bodies, in the canonical chest."""
    heights = level_heights()
    left = Tubes.join(
        *(rib(level, float(z)) for level, z in enumerate(heights)),
        *(arch(float(z)) for z in heights),
        _sternum(),
        _shoulder(),
    )
    return Tubes.join(left, left.mirrored())
