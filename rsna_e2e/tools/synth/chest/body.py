"""Paints what is not a tube: body wall, lungs, heart, spine, upper abdomen."""

import numpy as np

from rsna_e2e.tools.synth.chest import organs
from rsna_e2e.tools.synth.chest.canvas import AIR_HU, Canvas, near, within
from rsna_e2e.tools.synth.chest.findings import Findings
from rsna_e2e.tools.synth.chest.organs import SPINE_Y_MM
from rsna_e2e.tools.synth.chest.patient import Chest
from rsna_e2e.tools.synth.chest.skeleton import DISC_MM, FIRST_LEVEL_Z_MM, LEVEL_MM
from rsna_e2e.tools.synth.common.shapes import Field, Points, blob, coverage, intersection, smooth_union

SKIN_HU, FAT_HU, MUSCLE_HU, HEART_HU, FLUID_HU = 20.0, -105.0, 55.0, 95.0, 8.0
SPLEEN_HU, STOMACH_HU, CANAL_HU, DISC_HU, BONE_EDGE_HU = 100.0, 35.0, 30.0, 85.0, 420.0
SKIN_MM = 1.8
WALL_MM = 11.0  # from the inside of the cage to the outside of the ribs
FISSURE_HU, FISSURE_MM = -690.0, 0.7
DEPENDENT_HU = 75.0  # by which the back of the lungs is denser than the front


def paint_body(canvas: Canvas, chest: Chest, findings: Findings, p: Points, heart: Field) -> None:
    """Paint a plane's organs but the heart from canonical places `p` of its coarse samples."""
    bend = chest.sheets(p)
    cage = organs.cage_distance(p)
    dome = organs.dome_distance(chest, p, bend)
    mediastinum = organs.mediastinum_distance(p, heart)
    _paint_wall(canvas, chest, p, cage, bend)
    canvas.paint(cage, FAT_HU)
    _paint_abdomen(canvas, chest, p, cage, dome)
    lungs = organs.lung_distance(cage, mediastinum, dome, bend)
    _paint_lungs(canvas, chest, findings, p, lungs)
    _paint_spine(canvas, chest, p)


def paint_heart(canvas: Canvas, findings: Findings, parts: dict[str, Field]) -> None:
    """Paint the heart's muscle and chambers, from `heart_distance`."""
    if float(parts["heart"].min()) > 3.0:
        return
    canvas.paint(parts["heart"], HEART_HU)
    atrium = 0.6 * findings.artery_hu + 0.2 * (findings.svc_hu + findings.pale_hu)
    for name, hu in (
        ("la", findings.vein_hu), ("lv", findings.aorta_hu), ("ra", atrium), ("rv", 0.94 * findings.artery_hu)
    ):  # fmt: skip
        canvas.paint(parts[name], hu, width_mm=2.5)


def _paint_wall(canvas: Canvas, chest: Chest, p: Points, cage: Field, bend: Field) -> None:
    """Skin, fat, and muscle in layers with fat between them."""
    skin = organs.skin_distance(chest, p)
    canvas.paint(skin, SKIN_HU)
    canvas.paint(skin + SKIN_MM, FAT_HU)
    depth = chest.fat_mm * (1.0 + 0.2 * bend)
    muscle = smooth_union(cage - (WALL_MM + chest.muscle_mm), _strip(p), 10.0)
    shoulder = blob(p.folded, (128.0, 30.0, 95.0), (70.0, 75.0, 75.0))
    muscle = np.maximum(smooth_union(muscle, shoulder, 14.0), skin + depth)
    canvas.paint(muscle, MUSCLE_HU)
    sheet = np.abs(cage - (WALL_MM + 3.0 + 2.2 * bend + 0.02 * p.z)) - 1.4
    canvas.paint(np.maximum(sheet, 70.0 - np.abs(p.x) + 0.4 * p.y), FAT_HU, strength=0.8)
    armpit = blob(p.folded, (126.0, 2.0, 56.0), (9.0, 26.0, 30.0)) + 6.0 * bend
    canvas.paint(np.maximum(armpit, skin + 6.0), FAT_HU, width_mm=8.0, strength=0.9)


def _strip(p: Points) -> Field:
    """Distance to the muscles beside the spine."""
    return np.asarray((np.hypot((np.abs(p.x) - 30.0) * (1.0 / 30.0), (p.y - 88.0) * (1.0 / 24.0)) - 1.0) * 26.0)


def _paint_abdomen(canvas: Canvas, chest: Chest, p: Points, cage: Field, dome: Field) -> None:
    if float(dome.min()) > 3.0:
        return
    found = organs.abdomen(p, cage, dome)
    canvas.paint(np.maximum(cage + 1.5, np.abs(dome) - 1.3), MUSCLE_HU)
    for name, hu in (
        ("liver", chest.liver_hu), ("spleen", SPLEEN_HU), ("stomach", STOMACH_HU), ("bubble", AIR_HU)
    ):  # fmt: skip
        canvas.paint(found[name], hu)


def _paint_lungs(canvas: Canvas, chest: Chest, findings: Findings, p: Points, lungs: Field) -> None:
    """Air and tissue, denser towards the back, with fissures, opacities and fluid."""
    found = near(lungs, canvas.pixel_mm)
    if found is None:
        return
    distance, window = found
    density = chest.lung_hu + DEPENDENT_HU * np.clip((p.y + 60.0) / 150.0, 0.0, 1.2)
    mosaic = chest.mosaic(p)
    density += (26.0 + 50.0 * chest.emphysema) * mosaic
    density += 140.0 * np.clip((p.y - 82.0) * (1.0 / 14.0), 0.0, 1.0)
    for x, y, z, radius in findings.opacities:
        if float(np.abs(p.z - z).min()) < 1.4 * radius:
            shape = blob(p, (x, y, z), (radius, radius, 0.8 * radius)) + 0.25 * radius * mosaic
            density += coverage(shape, 0.7 * radius) * (0.95 * (20.0 - density))
    hu = within(density, window)
    oblique, horizontal = (within(height, window) for height in organs.fissure_height(p))
    right = within(p.x, window) < 0.0
    sheet = coverage(np.abs(oblique) - FISSURE_MM, canvas.pixel_mm)
    middle = coverage(np.abs(horizontal) - FISSURE_MM, canvas.pixel_mm) * (right & (oblique > 0.0))
    hu += np.maximum(sheet, middle) * np.maximum(FISSURE_HU - hu, 0.0)
    for side, depth in zip((-1.0, 1.0), findings.effusion_mm, strict=True):
        if depth > 0.0:
            hu += within(coverage(_fluid(p, side, depth), 4.0), window) * (FLUID_HU - hu)
    canvas.hu[window] += coverage(distance, canvas.pixel_mm) * (hu - canvas.hu[window])


def _fluid(p: Points, side: float, depth_mm: float) -> Field:
    """Distance to fluid that lies at the back of one side, deepest at the bottom and rising along the wall."""
    level = 96.0 - depth_mm * np.clip((20.0 - p.z) * (1.0 / 120.0), 0.0, 1.0) - 0.0012 * (np.abs(p.x) - 60.0) ** 2
    return intersection(level - p.y, 4.0 - side * p.x)


def _paint_spine(canvas: Canvas, chest: Chest, p: Points) -> None:
    """Vertebral bodies with discs between them, and the canal behind."""
    body = (np.hypot(p.x * (1.0 / 17.0), (p.y - SPINE_Y_MM) * (1.0 / 14.5)) - 1.0) * 15.5
    canvas.paint(body, BONE_EDGE_HU)
    canvas.paint(body + 2.0, chest.bone_hu)
    offset = (p.z - FIRST_LEVEL_Z_MM) * (1.0 / LEVEL_MM)
    between = (np.abs(offset - np.rint(offset)) - 0.5) * LEVEL_MM  # 0 in the middle of a disc, negative elsewhere
    canvas.paint(np.maximum(body, -between - 0.5 * DISC_MM - 1.3), BONE_EDGE_HU)
    canvas.paint(np.maximum(body + 0.6, -between - 0.5 * DISC_MM), DISC_HU)
    canal = (np.hypot(p.x * (1.0 / 10.0), (p.y - SPINE_Y_MM - 22.0) * (1.0 / 8.5)) - 1.0) * 9.0
    canvas.paint(canal, CANAL_HU)
