"""From anatomy to HU: every pixel of a slice, averaged through its thickness, and the part that each bleed adds."""

# S sub-planes of a slice, a x b coarse samples, h x w fine pixels (half the file's resolution)

from dataclasses import dataclass, fields

import numpy as np

from rsna_e2e.core.records import Float32Array, Float64Array
from rsna_e2e.tools.synth.common.resample import MARGIN, refine
from rsna_e2e.tools.synth.common.series import FINE, Series
from rsna_e2e.tools.synth.common.shapes import Field, coverage
from rsna_e2e.tools.synth.head.anatomy import (
    SULCUS_DEPTH_MM,
    Tissues,
    cavity_distance,
    skin_distance,
    skull_distance,
    tissues,
    to_canonical,
)
from rsna_e2e.tools.synth.head.bleeds import Bleed, bleed_distance, displaced
from rsna_e2e.tools.synth.head.context import Candidate
from rsna_e2e.tools.synth.head.geometry import FineGrid, places
from rsna_e2e.tools.synth.head.patient import Head

COARSE_STEP = 3  # fine pixels between the places where distances are computed; shapes are smooth, 3 mm is enough
SEARCH_STEP = 6  # fine pixels between the places where the head is looked for; a multiple of COARSE_STEP
SUB_PLANE_MM = 1.35  # sub-planes through a slice are at most this far apart

AIR_HU = -1000.0
FAT_HU = -95.0
SKIN_HU = 25.0
MUSCLE_HU = 55.0
CORTICAL_HU = 1350.0
MARROW_HU = 550.0
PETROUS_HU = 1750.0
FLUID_HU = 7.0
CEREBELLUM_HU = 35.0
CALCIFIED_HU = 260.0
SCAR_HU = 17.0  # an old infarct
WORN_HU = 21.0  # white matter around the ventricles in old age, fading out at WORN_REACH_MM
WORN_REACH_MM = 9.0
EYE_HU = 12.0
CORTEX_MM = 3.0
OEDEMA_HU = 14.0
BLEED_EDGE_MM = 1.6
CLOT_IN_SULCUS_MM = 0.5  # blood widens the sulci that it fills by this much on either side
MARROW_DEPTH_MM = 1.9  # thickness of the compact bone on either side


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """One slice. hu [FINE, FINE]; gain_hu [B, FINE, FINE]: what each bleed adds; area_mm2 [B] is its area.

    Where a scene's candidates are shown they come after its bleeds; those that are no blood add and take nothing.
    """

    hu: Float32Array
    gain_hu: Float32Array
    area_mm2: Float64Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Everything that determines a study's pixels, except noise."""

    head: Head
    bleeds: tuple[Bleed, ...]
    series: Series
    white_hu: float
    grey_hu: float
    candidates: tuple[Candidate, ...] = ()  # of the dial of context

    @property
    def labels(self) -> tuple[str, ...]:
        """Label of each bleed, then of each candidate."""
        return (*(bleed.label for bleed in self.bleeds), *(one.label for one in self.candidates))


def _sub_offsets(series: Series) -> Float64Array:
    n = max(2, int(np.ceil(series.thickness_mm / SUB_PLANE_MM)))
    return np.asarray(((np.arange(n) + 0.5) / n - 0.5) * series.thickness_mm)


def _window(scene: Scene, k: int) -> tuple[slice, slice] | None:
    """Find the fine pixels [rows, columns] that the head covers, in steps of COARSE_STEP; None where it covers none."""
    sparse = np.arange(0, FINE, SEARCH_STEP)
    p = to_canonical(scene.head, places(scene.series, k, sparse, sparse, np.zeros(1)))
    cavity = cavity_distance(scene.head, p)
    skin = skin_distance(scene.head, p, skull_distance(scene.head, p, cavity))[0]
    inside = skin < scene.series.thickness_mm + SEARCH_STEP * scene.series.spacing_mm + 2.0
    if not inside.any():
        return None
    spans = []
    for axis in (1, 0):
        hits = sparse[np.flatnonzero(inside.any(axis=axis))]
        end = min(int(hits[-1]) + SEARCH_STEP, FINE - FINE % COARSE_STEP)
        spans.append(slice(int(hits[0]), end))
    return spans[0], spans[1]


def _coarse(span: slice) -> FineGrid:
    """Fine pixels at which distances are computed so that `refine` can fill `span`."""
    margin = MARGIN * COARSE_STEP
    return np.arange(span.start - margin, span.stop + margin, COARSE_STEP)


def render_slice(scene: Scene, k: int) -> Rendering:
    """Render slice `k` of a scene without noise."""
    n = len(scene.bleeds)
    hu = np.full((FINE, FINE), AIR_HU, np.float32)
    gain = np.zeros((n, FINE, FINE), np.float32)
    area = np.zeros(n)
    found = _window(scene, k)
    if found is None:
        return Rendering(hu=hu, gain_hu=gain, area_mm2=area)
    offsets = _sub_offsets(scene.series)
    p = to_canonical(scene.head, places(scene.series, k, _coarse(found[0]), _coarse(found[1]), offsets))
    brain_p = displaced(scene.bleeds, p)
    tissue = tissues(scene.head, p, brain_p)
    distances = [bleed_distance(b, scene.head, p, brain_p, tissue) for b in scene.bleeds]
    pixel_mm = 2.0 * scene.series.spacing_mm
    painter = _Painter(scene, pixel_mm, (found[0].stop - found[0].start, found[1].stop - found[1].start))
    for s in range(len(offsets)):
        painter.paint({f.name: getattr(tissue, f.name)[s] for f in fields(Tissues)}, [d[s] for d in distances])
    hu[found] = painter.hu / len(offsets)
    gain[(slice(None), *found)] = painter.gain / len(offsets)
    area[:] = painter.area / len(offsets) * pixel_mm**2
    return Rendering(hu=hu, gain_hu=gain, area_mm2=area)


class _Painter:
    """Adds up sub-planes: hu [h, w], gain [B, h, w] and area [B] in pixels are sums over the sub-planes painted."""

    def __init__(self, scene: Scene, pixel_mm: float, shape: tuple[int, int]) -> None:
        self._scene = scene
        self._pixel_mm = pixel_mm
        self.hu = np.zeros(shape, np.float32)
        self.gain = np.zeros((len(scene.bleeds), *shape), np.float32)
        self.area = np.zeros(len(scene.bleeds))

    def paint(self, tissue: dict[str, Field], bleeds: list[Field]) -> None:
        """Paint one sub-plane from coarse distances, outside in."""
        near = {
            name: refine(d, COARSE_STEP)
            for name, d in tissue.items()
            if float(d.min()) < (WORN_REACH_MM if name == "ventricle" else 2.0 * self._pixel_mm)
        }
        hu = self._outside(near)
        cavity = near.get("cavity")
        if cavity is not None:
            inside = coverage(cavity, self._pixel_mm)
            content, outside = self._brain(near, cavity)
            for name, value in (("dura", self._scene.head.dura_hu), ("calcified", CALCIFIED_HU)):
                if name in near:
                    self._blend(content, coverage(near[name], self._pixel_mm), value)
            self._blend_bleeds(content, outside, inside, bleeds)
            hu += inside * (content - hu)
        self.hu += hu

    @staticmethod
    def _blend(hu: Field, share: Field, value: float | Field) -> None:
        hu += share * (value - hu)

    def _outside(self, near: dict[str, Field]) -> Field:
        """Scalp, muscle, bone, orbit and air."""
        mm = self._pixel_mm
        hu = np.full(self.hu.shape, AIR_HU, np.float32)
        if "skin" not in near:
            return hu
        self._blend(hu, coverage(near["skin"], mm), SKIN_HU)
        self._blend(hu, coverage(near["skin"] + 1.8, mm), FAT_HU)
        if "muscle" in near:
            self._blend(hu, coverage(np.maximum(near["muscle"], near["skin"] + 2.5), 2.0), MUSCLE_HU)
        if "skull" in near:
            self._blend(hu, coverage(near["skull"], mm), CORTICAL_HU)
            cavity = near.get("cavity")
            deep = near["skull"] + MARROW_DEPTH_MM
            if cavity is not None:
                deep = np.maximum(deep, MARROW_DEPTH_MM - cavity)
            self._blend(hu, coverage(deep, 2.0), MARROW_HU)
        for name, value in (("petrous", PETROUS_HU), ("orbit", FAT_HU), ("globe", SKIN_HU), ("air", AIR_HU)):
            if name in near:
                share = coverage(np.maximum(near[name], near["skin"] + 1.0), mm)
                self._blend(hu, share, value)
        if "globe" in near:
            self._blend(hu, coverage(near["globe"] + 1.6, mm), EYE_HU)
        return hu

    def _brain(self, near: dict[str, Field], cavity: Field) -> tuple[Field, Field]:
        """Return HU inside the cavity, and the distance to the subarachnoid fluid, negative in it."""
        scene, mm = self._scene, self._pixel_mm
        depth = -cavity
        outside = depth - scene.head.gap_mm  # distance from the fluid spaces, positive in brain
        taper = depth * (-scene.head.sulcus_half_mm / SULCUS_DEPTH_MM)
        taper += scene.head.sulcus_half_mm
        if "folds" in near and "fold_floor" in near:
            sulcus = np.abs(near["folds"]) - taper
            outside = np.minimum(outside, np.maximum(sulcus, near["fold_floor"]))
        if "cistern" in near:
            outside = np.minimum(outside, near["cistern"])
        grey = coverage(outside - CORTEX_MM, 1.5)
        if "nuclei" in near:
            grey = np.maximum(grey, 0.8 * coverage(near["nuclei"], 2.0))
        hu = grey * (scene.grey_hu - scene.white_hu)
        hu += scene.white_hu
        if "posterior_fossa" in near:
            self._blend(hu, 0.8 * coverage(near["posterior_fossa"], 2.0), CEREBELLUM_HU)
        if "stem" in near:
            self._blend(hu, 0.7 * coverage(near["stem"], 4.0), scene.white_hu)
        if "scar" in near:
            self._blend(hu, coverage(near["scar"], 5.0), SCAR_HU)
        self._blend(hu, coverage(outside, mm), FLUID_HU)
        if "ventricle" in near:
            worn = coverage(near["ventricle"] - 0.5 * WORN_REACH_MM, WORN_REACH_MM)
            self._blend(hu, scene.head.worn * worn, np.minimum(hu, WORN_HU))
            self._blend(hu, coverage(near["ventricle"], mm), FLUID_HU)
        return hu, outside

    def _blend_bleeds(self, hu: Field, outside: Field, inside: Field, bleeds: list[Field]) -> None:
        """Blend the bleeds over the brain one after another, and keep the HU that each adds."""
        for index, (bleed, coarse) in enumerate(zip(self._scene.bleeds, bleeds, strict=True)):
            if float(coarse.min()) > 2.0 * self._pixel_mm + bleed.rim_mm:
                continue
            distance = refine(coarse, COARSE_STEP)
            if bleed.rim_mm > 0.0:
                oedema = coverage(distance - bleed.rim_mm, 2.0) * coverage(-outside, self._pixel_mm)
                self._blend(hu, 0.5 * oedema, np.minimum(hu, OEDEMA_HU))
            share = coverage(distance, BLEED_EDGE_MM)
            if bleed.site == "spaces":
                share = coverage(distance, 8.0) * coverage(outside - CLOT_IN_SULCUS_MM, self._pixel_mm)
            added = share * np.maximum(bleed.hu - hu, 0.0)  # blood hides neither bone nor calcification
            hu += added
            share *= inside
            added *= inside
            self.gain[index] += added
            self.area[index] += float(share.sum(dtype=np.float64))
