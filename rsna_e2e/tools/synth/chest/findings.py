"""What is found in one study: contrast, motion, emboli, and what looks like them."""

from dataclasses import dataclass, replace

import numpy as np

from rsna_e2e.tools.synth.chest.emboli import SITES, Embolus, draw_embolus
from rsna_e2e.tools.synth.common.plan import PREVALENCES

# How often each happens: natural, demo. Natural rates are set so that positive slices come near the competition's 5.4 %
# (96,540 of 1,790,594)
POSITIVE_RATE = (0.305, 0.56)
INDETERMINATE_RATE = (0.02, 0.04)
# Where the largest embolus of a study lies, in the order of SITES; in `demo` four fifths are central or lobar
SITE_RATES = ((0.16, 0.42, 0.42, 0.0), (0.42, 0.42, 0.16, 0.0))
OTHER_SITE_RATES = (0.08, 0.17, 0.4, 0.35)  # of further emboli
CHRONIC_RATE, ACUTE_AND_CHRONIC_RATE = 0.12, 0.07  # of positive studies
MOTION_RATE, CONTRAST_RATE, FLOW_RATE, DEFECT_RATE = 0.03, 0.05, 0.06, 0.02
SLIGHT_MOTION_RATE = 0.06
POOR_HU = 200.0  # contrast below this is worth a note
MIN_ARTERY_HU = 100.0  # below this, nobody can tell whether there are emboli
FAINT_HU = 35.0  # by which clots and blood differ at most where contrast failed altogether: below the label rule

Spot = tuple[float, float, float, float]  # x, y, z and radius in the canonical chest, mm
Shift = tuple[float, float, float]
STILL: tuple[Shift, ...] = ((0.0, 0.0, 0.0),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Everything about one study but anatomy and noise. Densities in HU.

    poses: shifts (mm) of the chest that an image averages over. flow: spots of blood without contrast in arteries, and
    by how much they are darker. mucus: share of segmental bronchi that are filled. is_unreadable: motion or contrast
    are such that nobody can tell whether there are emboli.
    """

    emboli: tuple[Embolus, ...]
    rv_lv: float
    trunk_scale: float
    artery_hu: float
    vein_hu: float
    aorta_hu: float
    svc_hu: float
    pale_hu: float
    is_left_arm: bool
    poses: tuple[Shift, ...]
    flow: tuple[Spot, ...]
    flow_hu: float
    nodes: tuple[Spot, ...]
    nodules: tuple[Spot, ...]
    mucus: float
    opacities: tuple[Spot, ...]
    effusion_mm: tuple[float, float]  # depth of fluid behind the right and left lung
    defect_mm: float  # radius of a thrombus or tumour in the superior vena cava and right atrium; 0 where there is none
    is_unreadable: bool
    notes: frozenset[str]


def draw_findings(rng: np.random.Generator, prevalence: str) -> Findings:
    """Draw one study's findings. Each confuser is drawn alike whether or not there are emboli."""
    column = PREVALENCES.index(prevalence)
    chance = rng.random()
    is_positive = chance < POSITIVE_RATE[column]
    is_unreadable = not is_positive and chance < POSITIVE_RATE[column] + INDETERMINATE_RATE[column]
    burden = float(rng.beta(1.1, 2.0))
    rv_lv = float(np.clip(0.82 + 0.55 * burden * is_positive + rng.normal(0.0, 0.1), 0.6, 1.7))
    blood, poses, notes = _draw_quality(rng, is_unreadable=is_unreadable)
    is_faint = blood["artery_hu"] < MIN_ARTERY_HU
    emboli = _draw_emboli(rng, burden, column) if is_positive or is_faint else ()
    if is_faint:
        emboli = tuple(replace(e, hu=max(e.hu, blood["artery_hu"] - FAINT_HU)) for e in emboli)
    lost, has_defect = rng.random() < FLOW_RATE, rng.random() < DEFECT_RATE
    notes |= {"flow_artifact"} if lost else set()
    notes |= {"true_filling_defect_not_pe"} if has_defect else set()
    return Findings(
        emboli=emboli,
        rv_lv=rv_lv,
        trunk_scale=float(np.clip(0.93 + 0.22 * (rv_lv - 0.8) + rng.normal(0.0, 0.05), 0.85, 1.25)),
        is_left_arm=bool(rng.random() < 0.4),
        poses=poses,
        flow=_draw_spots(rng, int(rng.integers(1, 3)) if lost else 0, (12.0, 22.0), 62.0),
        flow_hu=float(rng.uniform(0.45, 0.75)) * max(blood["artery_hu"] - 40.0, 0.0),
        nodes=_draw_nodes(rng),
        nodules=_draw_spots(rng, int(rng.integers(1, 4)) if rng.random() < 0.2 else 0, (2.0, 9.0), 85.0),
        mucus=float(rng.uniform(0.05, 0.5)) if rng.random() < 0.3 else 0.0,
        opacities=_draw_spots(rng, int(rng.integers(1, 4)) if rng.random() < 0.35 else 0, (8.0, 38.0), 85.0),
        effusion_mm=_draw_effusion(rng),
        defect_mm=float(rng.uniform(3.5, 5.5)) if has_defect else 0.0,
        is_unreadable=is_unreadable,
        notes=frozenset(notes),
        **blood,
    )


def _draw_emboli(rng: np.random.Generator, burden: float, column: int) -> tuple[Embolus, ...]:
    """One embolus that is large enough to be seen, and with a greater burden further ones."""
    chance = rng.random()
    ages: tuple[str, ...] = ("chronic",) if chance < CHRONIC_RATE else ("acute",)
    if CHRONIC_RATE <= chance < CHRONIC_RATE + ACUTE_AND_CHRONIC_RATE:
        ages = ("acute", "chronic")
    first = str(rng.choice(SITES, p=SITE_RATES[column]))
    n = 1 + round(7.0 * burden * rng.uniform(0.5, 1.0))
    others = [str(rng.choice(SITES, p=OTHER_SITE_RATES)) for _ in range(max(n, len(ages)) - 1)]
    return tuple(draw_embolus(rng, site, ages[i % len(ages)]) for i, site in enumerate((first, *others)))


def _draw_quality(
    rng: np.random.Generator, *, is_unreadable: bool
) -> tuple[dict[str, float], tuple[Shift, ...], set[str]]:
    """Densities of blood, poses that an image averages over, and what is worth a note about them."""
    blood, poses = _draw_blood(rng), STILL
    chance, notes = rng.random(), set()
    if is_unreadable and rng.random() < 0.5:
        poses = _breathing(rng, float(rng.uniform(12.0, 18.0)), n=5)
    elif is_unreadable:
        blood |= {"artery_hu": float(rng.uniform(62.0, 85.0)), "vein_hu": 60.0, "aorta_hu": 60.0}
    elif chance < MOTION_RATE:
        poses = _breathing(rng, float(rng.uniform(4.0, 7.0)), n=3)
    elif chance < MOTION_RATE + SLIGHT_MOTION_RATE:
        poses = _breathing(rng, float(rng.uniform(1.0, 2.0)), n=2)
    if len(poses) > 2:
        notes.add("qa_motion")
    if blood["artery_hu"] < POOR_HU:
        notes.add("qa_contrast")
    return blood, poses, notes


def _draw_blood(rng: np.random.Generator) -> dict[str, float]:
    """Densities of blood (HU), by how late the scan came: early, veins and aorta are pale still."""
    artery = float(np.clip(rng.normal(360.0, 75.0), 235.0, 560.0))
    if rng.random() < CONTRAST_RATE:
        artery = float(rng.uniform(140.0, POOR_HU))
    phase = float(rng.uniform(0.03, 0.35) if rng.random() < 0.25 else rng.uniform(0.45, 1.1))
    dense = float(rng.uniform(600.0, 1100.0)) if rng.random() < 0.5 else float(rng.uniform(1.0, 1.5)) * artery
    return {
        "artery_hu": artery,
        "vein_hu": 42.0 + phase * (artery - 42.0),
        "aorta_hu": 42.0 + phase * float(rng.uniform(0.6, 0.95)) * (artery - 42.0),
        "svc_hu": min(dense, 3.0 * artery),
        "pale_hu": float(rng.uniform(40.0, 150.0)),
    }


def _breathing(rng: np.random.Generator, way_mm: float, *, n: int) -> tuple[Shift, ...]:
    """Up and down, and a third of it to the front and back."""
    at = np.linspace(-0.5, 0.5, n) * way_mm
    sideways = float(rng.normal(0.0, 0.2))
    return tuple((sideways * float(v), -0.4 * float(v), float(v)) for v in at)


def _draw_spots(rng: np.random.Generator, n: int, radii_mm: tuple[float, float], out_mm: float) -> tuple[Spot, ...]:
    """Spots somewhere in the lungs, on average `out_mm` from the middle."""
    found = []
    for _ in range(n):
        side = 1.0 if rng.random() < 0.5 else -1.0
        x, y, z = rng.normal((side * out_mm, 10.0, -35.0), (20.0, 30.0, 40.0))
        found.append((float(x), float(y), float(z), float(rng.uniform(*radii_mm))))
    return tuple(found)


def _draw_nodes(rng: np.random.Generator) -> tuple[Spot, ...]:
    """Lymph nodes at the hila and below the carina: a few small ones in everybody, large ones in some."""
    is_large = rng.random() < 0.25
    found = []
    for place in (
        (-48.0, 4.0, -28.0),
        (54.0, 8.0, -24.0),
        (2.0, 6.0, -16.0),
        (-18.0, -12.0, 12.0),
        (22.0, -22.0, 16.0),
    ):
        for _ in range(int(rng.integers(0, 4 if is_large else 3))):
            x, y, z = rng.normal(place, (6.0, 6.0, 9.0))
            radius = rng.uniform(4.0, 9.0) if is_large else rng.uniform(2.0, 4.5)
            found.append((float(x), float(y), float(z), float(radius)))
    return tuple(found)


def _draw_effusion(rng: np.random.Generator) -> tuple[float, float]:
    right, left = (float(rng.uniform(6.0, 45.0)) if rng.random() < 0.22 else 0.0 for _ in range(2))
    return right, left
