"""A head as signed distances in millimetres: bone, air, brain, fluid spaces and membranes.

Frame: LPS, origin midway between the anterior and posterior commissure, x to the left, y to the back, z to the top.
Positions and sizes are those of an adult head as drawn in any atlas of sectional anatomy, rounded to whole millimetres;
every patient scales, bends and shifts them.
"""

from dataclasses import dataclass

import numpy as np

from rsna_e2e.tools.synth.common.shapes import (
    FAR_MM,
    Field,
    Points,
    blob,
    ellipsoid,
    intersection,
    smooth_intersection,
    smooth_union,
    tube,
    union,
)
from rsna_e2e.tools.synth.head.patient import Head, Spot

SULCUS_DEPTH_MM = 18.0  # on average
LEAF_MM = 0.3  # by which the fissures of the cerebellum are narrower than those of the cortex, on either side


@dataclass(frozen=True, slots=True, kw_only=True)
class Tissues:
    """Signed distances (mm, negative inside) at the same places; `folds` is signed distance to the sulcal sheets."""

    skin: Field
    skull: Field  # outer surface of bone, cavity and sinuses included
    cavity: Field
    air: Field
    petrous: Field
    muscle: Field
    orbit: Field
    globe: Field
    ventricle: Field
    cistern: Field
    folds: Field
    fold_floor: Field  # below 0 where sulci reach
    nuclei: Field
    dura: Field
    calcified: Field
    scar: Field
    posterior_fossa: Field
    stem: Field  # white matter of brain stem and cerebellum


def to_canonical(head: Head, p: Points) -> Points:
    """Undo a patient's size, asymmetry and bends: places of the patient (mm) to places of the canonical head (mm)."""
    x, y, z = (v * np.float32(1.0 / s) for v, s in zip((p.x, p.y, p.z), head.scale, strict=True))
    scaled = Points(x, y, z)
    dx, dy, dz = (wave(scaled) * np.float32(head.warp_mm) for wave in head.warp)
    return Points(x + dx, y + dy, z + dz)


def skin_distance(head: Head, p: Points, skull: Field) -> Field:
    """Distance to the skin, given that to the outer table of the skull."""
    skin = skull - np.float32(head.scalp_mm)
    *centre, radius = head.swelling
    if radius > 0.0:
        bruise = sum((v - c) ** 2 for v, c in zip((p.x, p.y, p.z), centre, strict=True))
        skin = skin - 0.35 * radius * np.exp(bruise * (-2.0 / radius**2))
    if float(p.z.min()) > 12.0:
        return skin
    a = p.folded
    face = ellipsoid(a, (0.0, -42.0, -62.0), (67.0, 60.0, 58.0))
    face = smooth_union(face, tube(p, (0.0, -98.0, -32.0), (0.0, -108.0, -58.0), (7.0, 12.0)), 8.0)
    neck = np.hypot(p.x * (1.0 / 60.0), (p.y - 26.0) * (1.0 / 62.0))
    neck -= 1.0
    neck *= 60.0
    neck = smooth_intersection(neck, p.z + 40.0, 20.0)
    ears = ellipsoid(a, (77.0, 20.0, -30.0), (6.0, 14.0, 26.0))
    return smooth_union(smooth_union(smooth_union(skin, face, 14.0), neck, 12.0), ears, 4.0)


def cavity_distance(head: Head, p: Points) -> Field:
    """Distance to the inner table: vault above the floors of the anterior, middle and posterior fossa."""
    a = p.folded
    round_x = a.x / (1.0 + np.float32(head.egg) * p.y)
    vault = ellipsoid(Points(round_x, p.y, p.z), (0.0, 3.0, 0.0), (67.0, 86.0, 75.0))
    if float(p.z.min()) > 30.0:
        return vault
    roof = (a.x - 28.0) * (1.0 / 15.0)
    bump = (p.y + 60.0) * (1.0 / 22.0)
    roof *= roof
    bump *= bump
    floor = 9.0 * np.exp(-(roof + bump))
    sella = (p.x * (1.0 / 11.0)) ** 2 + ((p.y + 10.0) * (1.0 / 8.0)) ** 2
    floor -= 24.0 + 8.0 * np.exp(-sella)
    floor -= p.z
    cavity = smooth_intersection(vault, floor, 8.0)
    cavity = smooth_union(cavity, ellipsoid(a, (36.0, -13.0, -24.0), (25.0, 33.0, 22.0)), 5.0)
    cavity = smooth_union(cavity, ellipsoid(p, (0.0, 45.0, -30.0), (54.0, 43.0, 37.0)), 5.0)
    return smooth_union(cavity, tube(p, (0.0, 30.0, -58.0), (0.0, 32.0, -140.0), (15.0, 13.0)), 6.0)


def skull_distance(head: Head, p: Points, cavity: Field) -> Field:
    """Distance to the outer surface of the skull and the bones of the base and face."""
    thickness = head.cells(Points(p.x * 0.12, p.y * 0.12, p.z * 0.12))
    thickness *= 0.18 * head.skull_mm
    thickness += head.skull_mm
    thickness += np.clip((p.y - 60.0) * 0.12, 0.0, 4.0)
    skull = cavity - thickness
    if float(p.z.min()) > 2.0:
        return skull
    a = p.folded
    base = ellipsoid(a, (0.0, -14.0, -44.0), (34.0, 44.0, 17.0))
    base = smooth_union(base, tube(a, (14.0, 12.0, -36.0), (60.0, 26.0, -36.0), (8.0, 15.0)), 6.0)
    orbit = orbit_distance(p) - 1.8
    cheek = tube(a, (66.0, -6.0, -48.0), (50.0, -62.0, -50.0), (2.2, 5.0))
    jaw = ellipsoid(a, (22.0, -66.0, -66.0), (24.0, 26.0, 21.0))
    brow = blob(a, (12.0, -84.0, -16.0), (26.0, 12.0, 16.0))
    return union(smooth_union(skull, base, 5.0), orbit, cheek, jaw, smooth_union(skull, brow, 8.0))


def orbit_distance(p: Points) -> Field:
    """Distance to the fat-filled cone of the orbit."""
    return ellipsoid(p.folded, (30.0, -70.0, -34.0), (18.0, 27.0, 17.0))


def air_distance(head: Head, p: Points) -> Field:
    """Distance to the air of the paranasal sinuses, mastoid cells, ear canal and throat."""
    a = p.folded
    s = head.air_scale
    cells = 2.2 * np.abs(head.cells(Points(p.x * 2.0, p.y * 2.0, p.z * 2.0)))
    ethmoid = ellipsoid(a, (0.0, -64.0, -40.0), (12.0, 28.0, 15.0))
    mastoid = ellipsoid(a, (57.0, 34.0, -42.0), (10.0 * s, 13.0 * s, 15.0 * s))
    cellular = union(ethmoid, mastoid) + (1.6 - cells)
    septum = 0.7 - a.x
    sphenoid = intersection(blob(a, (0.0, -24.0, -41.0), (13.0, 12.0, 9.0)), septum)
    frontal = intersection(blob(a, (9.0, -90.0, -14.0), (12.0 * s, 5.0, 11.0 * s)), septum)
    maxillary = ellipsoid(a, (27.0, -64.0, -67.0), (14.0, 18.0, 17.0))
    canal = tube(a, (44.0, 15.0, -43.0), (84.0, 13.0, -43.0), (3.0, 3.5))
    throat = tube(p, (0.0, -38.0, -70.0), (0.0, -12.0, -120.0), (11.0, 9.0))
    return union(cellular, sphenoid, frontal, maxillary, canal, throat)


def ventricle_distance(head: Head, p: Points) -> Field:
    """Distance to the four ventricles."""
    a = p.folded
    s = head.ventricle_scale
    lateral = tube(a, (5.0, -4.0, 8.0), (14.0, -37.0, 8.0), (2.6 * s, 3.6 * s))
    lateral = smooth_union(lateral, tube(a, (9.0, -30.0, 15.0), (12.0, 20.0, 22.0), (3.6 * s, 4.8 * s)), 4.0)
    lateral = smooth_union(lateral, tube(a, (12.0, 18.0, 22.0), (24.0, 40.0, 11.0), (4.5 * s, 6.2 * s)), 4.0)
    lateral = smooth_union(lateral, tube(a, (24.0, 40.0, 11.0), (23.0, 64.0, 6.0), (5.5 * s, 2.0 * s)), 3.0)
    lateral = smooth_union(lateral, tube(a, (25.0, 38.0, 8.0), (34.0, 16.0, -13.0), (4.5 * s, 2.0 * s)), 3.0)
    lateral = smooth_union(lateral, tube(a, (34.0, 16.0, -13.0), (30.0, -6.0, -19.0), (1.8 * s, 1.6 * s)), 2.0)
    lateral = intersection(lateral, 0.8 - a.x)
    third = ellipsoid(p, (0.0, 3.0, -2.0), (2.0 * s, 14.0, 10.0))
    fourth = ellipsoid(p, (0.0, 36.0, -29.0), (7.0 * s, 5.0 * s, 9.0))
    return union(lateral, third, fourth)


def cistern_distance(head: Head, p: Points, cavity: Field, wobble: Field) -> Field:
    """Distance to the cisterns, the Sylvian and the interhemispheric fissure; `wobble` bends them."""
    a = p.folded
    w = head.sulcus_half_mm
    fissure = intersection(a.x - (0.7 + 0.7 * w), -blob(p, (0.0, 4.0, 4.0), (60.0, 46.0, 30.0)))
    fissure = intersection(fissure, -22.0 - p.z)
    insula = intersection(
        np.abs(a.x - 42.0 + 0.008 * (p.y - 2.0) ** 2 + 1.2 * wobble) - (0.4 + w),
        blob(a, (41.0, 2.0, 4.0), (16.0, 24.0, 18.0)),
    )
    lateral = np.abs(p.z - 3.0 - 0.55 * p.y - 0.35 * (a.x - 50.0) - 3.5 * wobble) * 0.7 - (0.3 + 1.2 * w)
    lateral = intersection(lateral, 41.0 - a.x, np.abs(p.y - 3.0) - 26.0)
    stem = tube(a, (10.0, -14.0, -20.0), (42.0, -16.0, -8.0), (2.5 + w, 2.0 + w))
    cisterns = union(fissure, insula, lateral, stem)
    if float(p.z.min()) > 8.0:
        return cisterns
    suprasellar = blob(a, (0.0, -11.0, -23.0), (13.0, 10.0, 7.0))
    prepontine = intersection(-cavity - (2.8 + w), p.y - 14.0 - 0.15 * a.x, -50.0 - p.z, p.z + 22.0)
    shell = np.abs(blob(p, (0.0, 15.0, -14.0), (19.0, 18.0, 24.0))) - (0.5 + 0.7 * w)
    ambient = intersection(shell, 6.0 - p.y, p.z - 2.0, -26.0 - p.z)
    quadrigeminal = blob(a, (0.0, 35.0, -4.0), (11.0, 4.0 + w, 6.0))
    angle = blob(a, (24.0, 17.0, -38.0), (9.0, 4.0 + w, 6.0))
    magna = blob(a, (0.0, 70.0, -56.0), (13.0, 7.0 + 2.0 * w, 9.0))
    return union(cisterns, suprasellar, prepontine, ambient, quadrigeminal, angle, magna)


def tentorium_height(p: Points) -> Field:
    """Height above the commissures (mm) of the tentorium's surface."""
    return np.asarray(11.0 - 0.45 * np.abs(p.x) - 0.26 * np.abs(p.y - 24.0))


def posterior_fossa_distance(p: Points) -> Field:
    """Distance to the space below the tentorium."""
    return intersection((p.z - tentorium_height(p)) * 0.85, (8.0 + 0.4 * np.abs(p.x) - p.y) * 0.9)


def falx_distance(p: Points) -> Field:
    """Distance to the part of the median plane that the falx takes: above base and tentorium, around the callosum."""
    return intersection(-blob(p, (0.0, 6.0, 0.0), (60.0, 52.0, 34.0)), -7.0 - p.z + 0.1 * p.y)


def dura_distance(head: Head, p: Points, cavity: Field) -> Field:
    """Distance to falx, tentorium and the venous sinuses along them."""
    a = p.folded
    falx = intersection(a.x - head.falx_half_mm, falx_distance(p))
    below = intersection((8.0 + 0.4 * a.x - p.y) * 0.9, -blob(p, (0.0, 18.0, -5.0), (20.0, 21.0, 40.0)))
    tentorium = intersection(np.abs(p.z - tentorium_height(p)) * 0.85 - 0.8 * head.falx_half_mm, below)
    s = head.sinus_scale
    sagittal = intersection(a.x + 0.6 * (-cavity) - 5.5 * s, -cavity - 8.0 * s, 20.0 - p.y - p.z)
    transverse = tube(a, (0.0, 84.0, -9.0), (52.0, 50.0, -19.0), (4.0 * s, 3.6 * s))
    straight = tube(p, (0.0, 38.0, 7.0), (0.0, 80.0, -7.0), (1.8 * s, 2.4 * s))
    return union(falx, tentorium, sagittal, transverse, straight)


def nuclei_distance(p: Points) -> Field:
    """Distance to the deep grey matter: caudate, lentiform nucleus, thalamus."""
    a = p.folded
    caudate = blob(a, (17.0, -23.0, 9.0), (5.5, 11.0, 10.0))
    turned = Points(0.94 * (a.x - 26.0) - 0.34 * (a.y + 4.0), 0.34 * (a.x - 26.0) + 0.94 * (a.y + 4.0), a.z)
    lentiform = blob(turned, (0.0, 0.0, 2.0), (6.5, 16.0, 11.0))
    thalamus = blob(a, (11.0, 11.0, 6.0), (8.0, 14.0, 10.0))
    return union(caudate, lentiform, thalamus)


def _stem_distance(p: Points) -> Field:
    a = p.folded
    pons = blob(p, (0.0, 14.0, -35.0), (13.0, 9.0, 14.0))
    midbrain = tube(p, (0.0, 15.0, -24.0), (0.0, 12.0, -8.0), (10.0, 11.0))
    arms = smooth_union(pons, tube(a, (10.0, 18.0, -34.0), (22.0, 46.0, -32.0), (6.0, 10.0)), 5.0)
    return union(arms, midbrain)


def folds_distance(head: Head, p: Points, posterior_fossa: Field) -> Field:
    """Signed distance to the sheets along which the cortex folds, and, closer together, the cerebellum.

    The cortex's sheets stand upright on the brain's surface: the field is read at places pulled out towards a sphere.
    """
    radius = np.sqrt(p.x * p.x + p.y * p.y + p.z * p.z)
    pull = 1.0 / (0.4 + radius * np.float32(0.6 / 70.0))
    field = head.folds(Points(p.x * pull, p.y * pull, p.z * pull))
    field *= np.float32(1.0 / np.linalg.norm(head.folds.k[0]))
    if float(posterior_fossa.min()) > 2.0:
        return field
    field += np.clip(2.0 - posterior_fossa, 0.0, 6.0)
    leaves = np.abs(head.cells(p)) * np.float32(1.0 / np.linalg.norm(head.cells.k[0]))
    return np.where(posterior_fossa > 0.0, field, leaves + np.float32(LEAF_MM))


def _nearest_spot(spots: tuple[Spot, ...], p: Points, *, stretch: float) -> Field:
    """Distance to the nearest of some spots, each drawn out from front to back."""
    nearest = np.full_like(p.x, FAR_MM)
    for x, y, z, radius in spots:
        if float(p.z.min()) - 2.0 * radius < z < float(p.z.max()) + 2.0 * radius:
            np.minimum(nearest, blob(p, (x, y, z), (radius, radius * stretch, radius)), out=nearest)
    return nearest


def tissues(head: Head, p: Points, brain_p: Points) -> Tissues:
    """All distances at canonical places `p`; `brain_p` are the same places with a bleed's displacement undone."""
    far = np.full_like(p.x, FAR_MM)
    low = float(p.z.min())
    cavity = cavity_distance(head, p)
    skull = skull_distance(head, p, cavity)
    posterior_fossa = posterior_fossa_distance(p) if low < 15.0 else far
    wobble = head.bends(brain_p)
    orbit = orbit_distance(p) if low < -12.0 else far
    return Tissues(
        skin=skin_distance(head, p, skull),
        skull=skull,
        cavity=cavity,
        air=air_distance(head, p) if low < 5.0 else far,
        petrous=tube(p.folded, (16.0, 10.0, -35.0), (56.0, 24.0, -34.0), (5.0, 9.0)) if low < -10.0 else far,
        muscle=_muscle_distance(head, p) if low < 32.0 or head.swelling[3] > 0.0 else far,
        orbit=orbit,
        globe=ellipsoid(p.folded, (31.0, -82.0, -34.0), (12.0, 12.0, 12.0)) if low < -12.0 else far,
        ventricle=ventricle_distance(head, brain_p) if low < 45.0 else far,
        cistern=cistern_distance(head, brain_p, cavity, wobble),
        folds=folds_distance(head, brain_p, posterior_fossa),
        fold_floor=-cavity - (SULCUS_DEPTH_MM + 5.0 * wobble),
        nuclei=nuclei_distance(brain_p) if low < 30.0 else far,
        dura=dura_distance(head, p, cavity),
        calcified=_nearest_spot(head.calcified, brain_p, stretch=1.3),
        scar=_nearest_spot(head.scars, brain_p, stretch=1.5),
        posterior_fossa=posterior_fossa,
        stem=_stem_distance(brain_p) if low < 5.0 else far,
    )


def _muscle_distance(head: Head, p: Points) -> Field:
    """Distance to the muscles of head and neck, and to the blood in a bruised scalp."""
    a = p.folded
    temporalis = ellipsoid(a, (72.0, -24.0, -14.0), (14.0, 32.0, 44.0))
    nape = ellipsoid(a, (26.0, 86.0, -72.0), (30.0, 24.0, 44.0))
    chewing = ellipsoid(a, (46.0, -34.0, -72.0), (18.0, 28.0, 30.0))
    pharynx = ellipsoid(a, (0.0, -14.0, -82.0), (26.0, 30.0, 26.0))
    muscle = union(temporalis, nape, chewing, pharynx)
    x, y, z, radius = head.swelling
    if radius > 0.0:
        muscle = union(muscle, blob(p, (x, y, z), (0.8 * radius,) * 3))
    return muscle
