"""Emboli: stretches of the arterial tree whose lumen is filled in part, acute or chronic."""

# T tubes of the arterial tree, E pieces of emboli

from dataclasses import dataclass

import numpy as np

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tools.synth.chest.growth import Tree
from rsna_e2e.tools.synth.chest.tubes import Int64Array, Layer, Tubes
from rsna_e2e.tools.synth.chest.vessels import CENTRAL

REGIONS = ("central", "left", "right")  # central: trunk, main and interlobar arteries; else the side
AGES = ("acute", "chronic")
LAYERS = tuple(range(Layer.EMBOLUS, Layer.EMBOLUS + len(REGIONS) * len(AGES)))  # region by region, acute first
SITES = ("central", "lobar", "segmental", "subsegmental")
SITE_RADII_MM = {"lobar": (3.4, 9.0), "segmental": (2.1, 3.4), "subsegmental": (1.2, 2.1)}
LENGTH_MM = {"central": (25.0, 80.0), "lobar": (18.0, 60.0), "segmental": (12.0, 36.0), "subsegmental": (8.0, 20.0)}
STEP_MM = 5.0  # the edge wanders from step to step
ACUTE_SWELLING = 1.15  # of an artery that is filled by a fresh clot
CHRONIC_SHRINKING = 0.85
N_FORKS = 3  # at which an embolus can divide


@dataclass(frozen=True, slots=True, kw_only=True)
class Embolus:
    """One embolus, drawn before it is laid into a tree. share: its radius over the lumen's; offset: of its axis from
    the lumen's, in radii; straddles: it lies over the fork of the trunk; seed: of where it lies.
    """

    site: str
    age: str
    hu: float
    length_mm: float
    share: float
    offset: float
    straddles: bool
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Laid:
    """Emboli in their tree. tubes: their pieces, of LAYERS; hu: density by layer; radius_scale [T] of the arteries."""

    tubes: Tubes
    hu: dict[int, float]
    radius_scale: Float64Array


def draw_embolus(rng: np.random.Generator, site: str, age: str) -> Embolus:
    """Draw one embolus of a site and age."""
    is_full = rng.random() < (0.3 if site == "central" else 0.7)
    share = rng.uniform(0.92, 1.05) if is_full else rng.uniform(0.55, 0.8)
    offset = 0.0 if is_full else rng.uniform(0.0, 0.3)
    if age == "chronic":
        share, offset = rng.uniform(0.62, 0.85), rng.uniform(0.45, 0.65)
    return Embolus(
        site=site,
        age=age,
        hu=float(rng.uniform(30.0, 80.0)),
        length_mm=float(rng.uniform(*LENGTH_MM[site])),
        share=float(share),
        offset=float(offset),
        straddles=bool(site == "central" and rng.random() < 0.35),
        seed=int(rng.integers(2**32)),
    )


def lay(emboli: tuple[Embolus, ...], arteries: Tree) -> Laid:
    """Lay emboli into the arterial tree."""
    pieces: list[tuple[Float64Array, Float64Array, float, float, int]] = []
    densities: dict[int, list[float]] = {}
    scale = np.ones(len(arteries.parent))
    children = arteries.children()
    for embolus in emboli:
        rng = np.random.default_rng(embolus.seed)
        for index, low, high in _stretches(embolus, arteries, children, rng):
            layer = _layer(embolus, arteries.part[index])
            densities.setdefault(layer, []).append(embolus.hu)
            pieces += [(*piece, layer) for piece in _pieces(embolus, arteries, index, low, high, rng)]
            if embolus.age == "chronic":
                scale[index] = CHRONIC_SHRINKING
            elif embolus.share > 0.9 and arteries.part[index] != CENTRAL:
                scale[index] = ACUTE_SWELLING
    tubes = Tubes(
        start=np.array([p[0] for p in pieces]).reshape(-1, 3),
        end=np.array([p[1] for p in pieces]).reshape(-1, 3),
        radius_mm=np.array([p[2:4] for p in pieces]).reshape(-1, 2),
        layer=np.array([p[4] for p in pieces], np.int64),
    )
    return Laid(tubes=tubes, hu={k: float(np.mean(v)) for k, v in densities.items()}, radius_scale=scale)


def _stretches(
    embolus: Embolus, tree: Tree, children: list[list[int]], rng: np.random.Generator
) -> list[tuple[int, float, float]]:
    """Tubes that an embolus fills, each from one share of its length to another."""
    if embolus.straddles:
        fork = next(i for i, c in enumerate(children) if tree.part[i] == CENTRAL and len(c) > 1)
        arms = [(child, 0.0, embolus.length_mm * float(rng.uniform(0.4, 0.7))) for child in children[fork][:2]]
        found = [(fork, 0.55, 1.0)]
    else:
        arms = [(int(rng.choice(_candidates(embolus.site, tree))), float(rng.uniform(0.0, 0.7)), embolus.length_mm)]
        found = []
    forks = 0
    while arms:
        index, low, left = arms.pop()
        length = float(np.linalg.norm(tree.end[index] - tree.start[index]))
        high = min(low + left / max(length, 1e-3), 1.0)
        found.append((index, low, high))
        left -= (high - low) * length
        after = sorted(children[index], key=lambda i: -tree.radius_mm[i][0])
        if high < 1.0 or left < 1.0 or not after:
            continue
        both = forks < N_FORKS and len(after) > 1 and rng.random() < 0.6
        forks += both
        arms += [(i, 0.0, left * float(rng.uniform(0.6, 1.0))) for i in (after if both else after[:1])]
    return found


def _candidates(site: str, tree: Tree) -> Int64Array:
    """Tubes in which an embolus of this site may begin: of the central arteries, all but the trunk's first."""
    if site == "central":
        return np.array([i for i, part in enumerate(tree.part) if part == CENTRAL and i > 1])
    low, high = SITE_RADII_MM[site]
    radius = np.array(tree.radius_mm)[:, 0]
    outside = np.array([part != CENTRAL for part in tree.part])
    return np.flatnonzero(outside & (radius >= low) & (radius < high))


def _pieces(
    embolus: Embolus, tree: Tree, index: int, low: float, high: float, rng: np.random.Generator
) -> list[tuple[Float64Array, Float64Array, float, float]]:
    """Start, end and both radii of the pieces in one tube; radii wander by a tenth."""
    start, end = tree.start[index], tree.end[index]
    way = end - start
    n = max(int(np.ceil(np.linalg.norm(way) * (high - low) / STEP_MM)), 1)
    at = np.linspace(low, high, n + 1)
    radius = np.interp(at, (0.0, 1.0), tree.radius_mm[index])
    aside = np.random.default_rng(embolus.seed).standard_normal(3)  # the same in all its tubes
    aside -= way * (aside @ way) / (way @ way + 1e-9)
    aside /= np.linalg.norm(aside) + 1e-9
    axis = start + at[:, None] * way + aside * (embolus.offset * radius)[:, None]
    size = radius * embolus.share * rng.uniform(0.9, 1.08, n + 1)
    return [(axis[i], axis[i + 1], float(size[i]), float(size[i + 1])) for i in range(n)]


def _layer(embolus: Embolus, part: str) -> int:
    region = 0 if part == CENTRAL else REGIONS.index(part.split()[0])
    return LAYERS[region * len(AGES) + AGES.index(embolus.age)]
