"""Labels of a study from its truth in 3D: what emboli take from each slice, and how wide the ventricles are."""

# N slices, E layers of emboli

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tools.synth.chest.emboli import AGES, LAYERS, REGIONS
from rsna_e2e.tools.synth.chest.organs import chamber_widths
from rsna_e2e.tools.synth.chest.render import Loss, Renderer, Scene

# A slice is positive where emboli take LOSS_HU or more from at least VISIBLE_MM2 of the image, after partial volume.
# 10 mm2 are the lumen of an artery of 3.6 mm. At 18 HU of noise and pixels of 2 mm2 the signal-to-noise ratio over that
# area is 40 / 18 * sqrt(10 / 2) = 5, Rose's criterion.
LOSS_HU = 40.0
VISIBLE_MM2 = 10.0

SLICE_LABEL = "pe_present_on_image"
NEGATIVE, INDETERMINATE = "negative_exam_for_pe", "indeterminate"
CHRONIC, BOTH_AGES = "chronic_pe", "acute_and_chronic_pe"
REGION_LABELS = {"central": "central_pe", "left": "leftsided_pe", "right": "rightsided_pe"}
WIDE_RV, NARROW_RV = "rv_lv_ratio_gte_1", "rv_lv_ratio_lt_1"
NOTES = ("qa_motion", "qa_contrast", "flow_artifact", "true_filling_defect_not_pe")
STUDY_LABELS = (
    NEGATIVE, INDETERMINATE, CHRONIC, BOTH_AGES, "central_pe", "leftsided_pe", "rightsided_pe", WIDE_RV, NARROW_RV
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyLabels:
    """Labels of a study: positive [N] of its slices, `study` by STUDY_LABELS and NOTES. rv_lv: ratio of the widths."""

    positive: npt.NDArray[np.bool_]
    study: dict[str, int]
    rv_lv: float


def visible_mm2(loss: Loss, pixel_mm2: float) -> tuple[float, Float64Array]:
    """Area (mm2) in which emboli take LOSS_HU or more from a slice: of all together, and of each layer [E]."""
    by_layer = np.zeros(len(LAYERS))
    for layer, lost in loss.by_layer.items():
        by_layer[LAYERS.index(layer)] = np.count_nonzero(lost >= LOSS_HU) * pixel_mm2
    return np.count_nonzero(loss.total >= LOSS_HU) * pixel_mm2, by_layer


def measure(scene: Scene) -> StudyLabels:
    """Labels of a scene without rendering more of it than arteries and emboli."""
    renderer = Renderer(scene)
    n = scene.series.n_slices if scene.findings.emboli else 0
    areas = [visible_mm2(renderer.loss(k), (2.0 * scene.series.spacing_mm) ** 2) for k in range(n)]
    return study_labels(scene, areas or [(0.0, np.zeros(len(LAYERS)))] * scene.series.n_slices)


def study_labels(scene: Scene, areas: Iterable[tuple[float, Float64Array]]) -> StudyLabels:
    """Labels of a scene from `visible_mm2` of each of its slices.

    A region or age counts when it is visible in some slice, and always that with the largest area. So the labels obey
    the competition's rules: one state; if it is positive one ratio, at most one of the ages, at least one region.
    """
    total, by_layer = (np.array(values) for values in zip(*areas, strict=True))
    positive = total >= VISIBLE_MM2
    right, left = chamber_widths(scene.heart)
    study = dict.fromkeys((*STUDY_LABELS, *NOTES), 0) | dict.fromkeys(scene.findings.notes, 1)
    if positive.any():
        cells = by_layer.reshape(len(by_layer), len(REGIONS), len(AGES))
        for region in _present(cells.sum(axis=2)):
            study[REGION_LABELS[REGIONS[region]]] = 1
        ages = {AGES[age] for age in _present(cells.sum(axis=1))}
        if "chronic" in ages:
            study[BOTH_AGES if "acute" in ages else CHRONIC] = 1
        study[WIDE_RV if right >= left else NARROW_RV] = 1
    else:
        study[INDETERMINATE if scene.findings.is_unreadable else NEGATIVE] = 1
    return StudyLabels(positive=positive, study=study, rv_lv=right / left)


def _present(areas: Float64Array) -> list[int]:
    """Columns of areas [N, n] (mm2) that are visible in some slice, or hold more than the others."""
    is_seen = areas.max(axis=0) >= VISIBLE_MM2
    is_seen[int(np.argmax(areas.sum(axis=0)))] = True
    return [int(v) for v in np.flatnonzero(is_seen)]
