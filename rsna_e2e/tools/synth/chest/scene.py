"""Puts one study together: the patient's chest, what is found in it, and how it is scanned."""

from dataclasses import replace

import numpy as np

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tools.synth.chest.emboli import Laid, lay
from rsna_e2e.tools.synth.chest.findings import Findings, Spot, draw_findings
from rsna_e2e.tools.synth.chest.geometry import draw_series
from rsna_e2e.tools.synth.chest.organs import Heart
from rsna_e2e.tools.synth.chest.patient import Chest, draw_chest
from rsna_e2e.tools.synth.chest.render import Scene
from rsna_e2e.tools.synth.chest.skeleton import skeleton
from rsna_e2e.tools.synth.chest.tubes import Layer, Tubes
from rsna_e2e.tools.synth.chest.vessels import AORTA, SVC, Vessels, great_vessels, grow_vessels, walls_of
from rsna_e2e.tools.synth.common.plan import StudyPlan, stream


def draw_scene(plan: StudyPlan) -> Scene:
    """Draw everything about a study but its noise. Both studies of a patient share the chest, not what is found."""
    chest = draw_chest(stream(plan.seed, "chest", plan.patient))
    rng = stream(plan.seed, "findings", plan.index)
    findings = draw_findings(rng, plan.prevalence)
    heart = Heart(rv_mm=findings.rv_lv * chest.lv_mm, lv_mm=chest.lv_mm, scale=chest.heart_scale)
    vessels = grow_vessels(chest, heart, stream(plan.seed, "vessels", plan.patient), trunk_scale=findings.trunk_scale)
    laid = lay(findings.emboli, vessels.arteries)
    series = draw_series(stream(plan.seed, "scan", plan.index), chest, is_thick=plan.is_thick)
    tubes = _tubes(chest, findings, vessels, laid, rng)

    def in_world(tubes: Tubes) -> Tubes:
        return tubes.scaled(chest.scale).moved(series.rotation, series.centre_mm)

    return Scene(
        chest=chest,
        heart=heart,
        findings=findings,
        series=series,
        tubes=in_world(tubes),
        laid=replace(laid, tubes=in_world(laid.tubes)),
    )


def _tubes(chest: Chest, findings: Findings, vessels: Vessels, laid: Laid, rng: np.random.Generator) -> Tubes:
    """All tubes but the emboli, in the canonical chest."""
    arteries = vessels.arteries.tubes(Layer.ARTERY)
    arteries = replace(arteries, radius_mm=arteries.radius_mm * laid.radius_scale[:, None])
    airways, plugs = _plugged(vessels.airways, findings.mucus, rng)
    parts = [
        arteries, vessels.veins.tubes(Layer.VEIN), airways, walls_of(vessels.airways), plugs, skeleton(),
        great_vessels(chest.aorta_scale, is_left_arm=findings.is_left_arm), _spots(findings.nodes + findings.nodules),
    ]  # fmt: skip
    if findings.defect_mm > 0.0:
        at = np.array([*SVC[0][1:], (-25.0, -19.0, -78.0)]) + np.array([2.0, 1.0, -6.0])
        parts.append(Tubes.along(at, findings.defect_mm, Layer.DEFECT))
    if chest.has_calcified_aorta:
        parts.append(_calcified(chest, rng))
    return Tubes.join(*parts)


def _spots(spots: tuple[Spot, ...]) -> Tubes:
    """Short tubes, as round as a node is."""
    at = np.array([spot[:3] for spot in spots], np.float64).reshape(-1, 3)
    radius = np.array([spot[3] for spot in spots], np.float64)
    half = np.stack([0.2 * radius, 0.1 * radius, 0.5 * radius], axis=1)
    return Tubes(
        start=at - half,
        end=at + half,
        radius_mm=np.stack([radius, 0.85 * radius], axis=1),
        layer=np.full(len(at), int(Layer.SOFT)),
    )


def _plugged(airways: Tubes, share: float, rng: np.random.Generator) -> tuple[Tubes, Tubes]:
    """Divide airways into those that hold air and those that are filled with mucus, with all that come after them."""
    small = airways.radius_mm[:, 0] < 2.6
    is_full = small & (rng.random(len(airways)) < 0.2 * share)
    reached: set[tuple[float, ...]] = set()
    for index in np.flatnonzero(small):  # an airway comes after the one it leaves, and begins where that one ends
        if is_full[index] or tuple(airways.start[index]) in reached:
            is_full[index] = True
            reached.add(tuple(airways.end[index]))
    plugs = airways.at(is_full)
    return airways.at(~is_full), replace(plugs, layer=np.full(len(plugs), int(Layer.SOFT)))


def _calcified(chest: Chest, rng: np.random.Generator) -> Tubes:
    """Plaques in the wall of the aortic arch and the descending aorta."""
    points, radii = np.array(AORTA[0], np.float64)[4:], np.array(AORTA[1])[4:] * chest.aorta_scale
    found: list[Float64Array] = []
    for _ in range(int(rng.integers(2, 12))):
        i = int(rng.integers(0, len(points) - 1))
        way = points[i + 1] - points[i]
        aside = rng.standard_normal(3)
        aside -= way * (aside @ way) / (way @ way)
        at = points[i] + rng.random() * way + aside / np.linalg.norm(aside) * (radii[i] - 0.8)
        found.append(np.stack([at, at + way / np.linalg.norm(way) * rng.uniform(1.0, 5.0)]))
    return Tubes.join(*(Tubes.along(line, float(rng.uniform(0.8, 1.8)), Layer.BONE) for line in found))
