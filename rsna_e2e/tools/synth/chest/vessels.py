"""The vessels and airways of a chest: large ones by name, then trees that fill both lungs."""

# n points of a lung, T tubes

from dataclasses import dataclass

import numpy as np

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tools.synth.chest.growth import Tree
from rsna_e2e.tools.synth.chest.organs import (
    Heart,
    cage_distance,
    dome_distance,
    fissure_height,
    heart_distance,
    lung_distance,
    mediastinum_distance,
)
from rsna_e2e.tools.synth.chest.patient import Chest
from rsna_e2e.tools.synth.chest.tubes import Layer, Tubes
from rsna_e2e.tools.synth.common.shapes import Points

CENTRAL = "central"  # trunk, main and interlobar arteries; the other parts are named <side> <lobe>
POINT_SPACING_MM = 15.0  # between the ends of a lung's vessels
MIN_BRONCHUS_MM = 1.1  # radius of the artery down to which its airway is drawn
BRONCHUS_SHARE = 0.82  # of its artery's radius

# Points, and the radius at each (mm)
TRUNK = (((24, -44, -58), (19, -47, -42), (20, -41, -25), (22, -30, -13)), (13.0, 14.0, 13.8, 12.6))
RIGHT_MAIN = (
    ((22, -30, -13), (6, -18, -17), (-10, -13, -19), (-24, -10, -20), (-37, -6, -21)),
    (10.8, 10.5, 10.2, 9.6, 8.8),
)
RIGHT_INTERLOBAR = (((-37, -6, -21), (-46, 5, -32), (-50, 13, -48), (-52, 20, -62)), (8.0, 7.2, 6.6, 6.0))
LEFT_MAIN = (((22, -30, -13), (33, -13, -5), (42, 4, -4), (49, 16, -12)), (10.8, 10.4, 9.8, 8.8))
LEFT_INTERLOBAR = (((49, 16, -12), (56, 22, -28), (59, 27, -46), (59, 32, -60)), (8.0, 7.0, 6.4, 5.8))
AORTA = (
    ((3, -24, -54), (-5, -33, -40), (-13, -39, -18), (-14, -38, 12), (-7, -32, 34), (12, -22, 46), (25, -2, 47),
     (30, 18, 38), (31, 33, 12), (30, 37, -60), (20, 34, -190)),
    (14.0, 16.0, 15.5, 15.0, 14.5, 14.0, 13.5, 13.0, 12.3, 11.8, 11.0),
)  # fmt: skip
BRANCHES = (  # of the aortic arch
    (((-2, -27, 46), (-14, -20, 80), (-24, -16, 125)), (6.5, 6.0, 5.0)),
    (((13, -18, 52), (15, -12, 85), (22, -10, 125)), (4.5, 4.0, 3.8)),
    (((25, -2, 52), (29, 4, 90), (50, -6, 112), (90, -14, 118)), (5.5, 5.0, 4.5, 4.5)),
)
SVC = (((-37, -30, 40), (-36, -29, 0), (-33, -27, -50), (-31, -23, -64)), (8.5, 9.0, 9.5, 10.0))
RIGHT_ARM_VEIN = (
    ((-37, -30, 40), (-33, -31, 62), (-44, -36, 92), (-90, -30, 112), (-140, -10, 118)),
    (8.0, 7.5, 6.0, 5.0, 5.0),
)
LEFT_ARM_VEIN = (
    ((-37, -30, 40), (-12, -47, 50), (20, -48, 64), (44, -40, 88), (90, -30, 110), (140, -10, 116)),
    (7.5, 7.0, 7.0, 6.0, 5.0, 5.0),
)
NECK_VEINS = ((((-33, -31, 62), (-26, -24, 125)), (6.5, 7.0)), (((38, -42, 80), (28, -22, 125)), (6.5, 6.0)))
IVC = (((-24, 6, -190), (-25, -4, -118), (-27, -12, -101)), (11.5, 11.5, 10.5))
AZYGOS = (((-8, 32, -190), (-10, 32, -10), (-12, 27, 16), (-26, 8, 24), (-36, -20, 18)), (3.0, 3.6, 4.2, 4.2, 4.0))
TRACHEA = (((0, -12, 130), (0, -3, 45), (0, 1, 2)), (8.8, 9.0, 9.4))
OESOPHAGUS = (((3, 6, 130), (6, 17, 40), (6, 26, -30), (8, 27, -70), (18, 20, -140)), (6.0, 6.5, 6.5, 7.0, 8.0))
RIGHT_BRONCHI = (((0, 2, -2), (-14, 7, -10), (-27, 12, -18), (-33, 16, -32), (-37, 20, -52)), (8.2, 7.4, 6.8, 5.6, 5.0))
LEFT_BRONCHI = (((0, 2, -2), (18, 9, -13), (38, 16, -27), (44, 20, -42)), (7.6, 6.6, 6.0, 4.8))
PULMONARY_VEINS = (  # side, ostium in the left atrium, on the way, hilum; radii
    ("right upper", ((-20, 0, -44), (-34, -6, -42), (-47, -15, -30)), (7.5, 7.0, 6.4)),
    ("right lower", ((-22, 8, -54), (-38, 16, -62), (-48, 25, -76)), (7.5, 7.0, 6.4)),
    ("left upper", ((28, -4, -42), (38, -12, -34), (46, -18, -22)), (7.2, 6.8, 6.2)),
    ("left lower", ((28, 8, -52), (40, 17, -60), (48, 26, -76)), (7.2, 6.8, 6.2)),
)
# Arteries of the lobes: name, chain they leave and after how many of its tubes, point on the way, radius
LOBES = (
    ("right upper", RIGHT_MAIN, 4, (-47, -8, 0), 5.4),
    ("right middle", RIGHT_INTERLOBAR, 2, (-58, -6, -50), 3.8),
    ("right superior", RIGHT_INTERLOBAR, 2, (-56, 30, -42), 3.5),
    ("right lower", RIGHT_INTERLOBAR, 3, (-55, 26, -74), 5.6),
    ("left upper", LEFT_MAIN, 2, (52, -6, 10), 5.2),
    ("left lingula", LEFT_INTERLOBAR, 1, (64, 0, -36), 3.8),
    ("left superior", LEFT_INTERLOBAR, 1, (61, 38, -30), 3.5),
    ("left lower", LEFT_INTERLOBAR, 3, (61, 38, -74), 5.4),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vessels:
    """Arteries and veins as trees, and airways as tubes, all in the canonical chest."""

    arteries: Tree
    veins: Tree
    airways: Tubes  # of Layer.AIRWAY


def lung_points(chest: Chest, heart: Heart, rng: np.random.Generator) -> Float64Array:
    """Draw points [n, 3] that lie evenly in both lungs."""
    axes = [np.arange(-low, high, POINT_SPACING_MM) for low, high in ((135.0, 136.0), (95.0, 110.0), (180.0, 120.0))]
    at = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    at = at + rng.uniform(-0.5, 0.5, at.shape) * POINT_SPACING_MM
    p = Points(*at.T.astype(np.float32))
    bend = chest.sheets(p)
    cage, dome = cage_distance(p), dome_distance(chest, p, bend)
    mediastinum = mediastinum_distance(p, heart_distance(heart, p)["heart"])
    return at[lung_distance(cage, mediastinum, dome, bend) < -3.0]


def lobes_of(points: Float64Array) -> dict[str, Float64Array]:
    """Divide points [n, 3] of the lungs among the territories named in LOBES."""
    p = Points(*points.T)
    oblique, horizontal = fissure_height(p)
    side = np.where(p.x > 0.0, "left", "right")
    lobe = np.where(oblique < 0.0, np.where(p.z > -56.0, "superior", "lower"), "upper")
    front = (oblique >= 0.0) & np.where(p.x > 0.0, p.z < -32.0, horizontal < 0.0)
    lobe = np.where(front, np.where(p.x > 0.0, "lingula", "middle"), lobe)
    names = np.char.add(np.char.add(side, " "), lobe)
    return {name: points[names == name] for name, *_ in LOBES}


def grow_vessels(
    chest: Chest, heart: Heart, rng: np.random.Generator, *, trunk_scale: float, straight: float = 0.0
) -> Vessels:
    """Grow all vessels of one patient.

    trunk_scale widens the central arteries, as pressure does; straight: how straight branches run, see `Tree.grow`.
    """
    points = lung_points(chest, heart, rng)
    arteries = Tree()
    ends: dict[int, list[int]] = {}
    last = _chain(arteries, TRUNK, trunk_scale, -1, ends)
    for main, interlobar in ((RIGHT_MAIN, RIGHT_INTERLOBAR), (LEFT_MAIN, LEFT_INTERLOBAR)):
        _chain(arteries, interlobar, trunk_scale, _chain(arteries, main, trunk_scale, last, ends), ends)
    for name, territory in lobes_of(points).items():
        _, chain, after, way, radius = next(row for row in LOBES if row[0] == name)
        root = ends[id(chain)][after - 1]
        start = arteries.end[root]
        stem = arteries.add(start, np.array(way, np.float64), (radius, radius), parent=root, part=name)
        arteries.grow(rng, territory, radius, parent=stem, part=name, straight=straight)
    return Vessels(arteries=arteries, veins=_veins(chest, heart, rng, straight), airways=_airways(arteries))


def _chain(
    tree: Tree, chain: tuple[tuple[tuple[int, int, int], ...], tuple[float, ...]], scale: float, parent: int,
    ends: dict[int, list[int]],
) -> int:  # fmt: skip
    """Add a central artery, note its tubes under its identity, and return the last one."""
    first = len(tree.parent)
    last = tree.add_chain(chain[0], tuple(scale * r for r in chain[1]), parent=parent, part=CENTRAL)
    ends[id(chain)] = list(range(first, last + 1))
    return last


def _veins(chest: Chest, heart: Heart, rng: np.random.Generator, straight: float) -> Tree:
    """Grow the pulmonary veins, which run apart from arteries and airways."""
    veins = Tree()
    lobes = lobes_of(lung_points(chest, heart, rng))
    for name, points, radii in PULMONARY_VEINS:
        side, height = name.split()
        members = ("upper", "middle", "lingula") if height == "upper" else ("superior", "lower")
        territory = np.concatenate([at for lobe, at in lobes.items() if lobe in {f"{side} {m}" for m in members}])
        last = veins.add_chain(points, radii, parent=-1, part=name)
        veins.grow(rng, territory, radii[-1], parent=last, part=name, straight=straight)
    return veins


def _airways(arteries: Tree) -> Tubes:
    """Trachea and bronchi; beyond the hila each runs beside its artery, on the side of the mediastinum."""
    parts = [Tubes.along(chain[0], chain[1], Layer.AIRWAY) for chain in (TRACHEA, RIGHT_BRONCHI, LEFT_BRONCHI)]
    ends: dict[int, Float64Array] = {}
    starts, stops, radii = [], [], []
    for index, (parent, part) in enumerate(zip(arteries.parent, arteries.part, strict=True)):
        r0, r1 = arteries.radius_mm[index]
        if part == CENTRAL or r0 < MIN_BRONCHUS_MM:
            continue
        way = arteries.end[index] - arteries.start[index]
        aside = np.array((-0.5 if part.startswith("left") else 0.5, 0.55, -0.1))
        aside = aside - way * (aside @ way) / (way @ way + 1e-6)
        aside /= np.linalg.norm(aside) + 1e-6
        stop = arteries.end[index] + aside * (r1 * (1.0 + BRONCHUS_SHARE) + 1.6)
        starts.append(ends.get(parent, _root_of(part)))
        stops.append(stop)
        radii.append((BRONCHUS_SHARE * r0, BRONCHUS_SHARE * r1))
        ends[index] = stop
    found = Tubes(
        start=np.array(starts),
        end=np.array(stops),
        radius_mm=np.array(radii),
        layer=np.full(len(radii), int(Layer.AIRWAY)),
    )
    return Tubes.join(*parts, found)


def _root_of(part: str) -> Float64Array:
    """Where the bronchus of a lobe leaves the named ones."""
    chain = LEFT_BRONCHI if part.startswith("left") else RIGHT_BRONCHI
    at = {"upper": 2, "lower": -1}.get(part.split()[1], -2)
    return np.array(chain[0][at], np.float64)


def walls_of(airways: Tubes) -> Tubes:
    """The same airways with their walls, 0.8 mm and a fifth of the radius thick."""
    return Tubes(
        start=airways.start,
        end=airways.end,
        radius_mm=airways.radius_mm * 1.2 + 0.8,
        layer=np.full(len(airways), int(Layer.WALL)),
    )


def great_vessels(aorta_scale: float, *, is_left_arm: bool) -> Tubes:
    """Aorta and systemic veins; the contrast comes through the vein of one arm."""
    arms = (LEFT_ARM_VEIN, RIGHT_ARM_VEIN) if is_left_arm else (RIGHT_ARM_VEIN, LEFT_ARM_VEIN)
    aorta = [Tubes.along(at, aorta_scale * np.array(radii), Layer.AORTA) for at, radii in (AORTA, *BRANCHES)]
    pale = [Tubes.along(chain[0], chain[1], Layer.PALE) for chain in (arms[1], *NECK_VEINS, IVC, AZYGOS)]
    return Tubes.join(
        *aorta,
        *pale,
        Tubes.along(SVC[0], SVC[1], Layer.SVC),
        Tubes.along(arms[0][0], arms[0][1], Layer.SVC),
        Tubes.along(OESOPHAGUS[0], OESOPHAGUS[1], Layer.SOFT),
    )
