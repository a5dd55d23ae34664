"""One simulated study, from its plan to stored images and labels."""

# N slices, B bleeds, L labels

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from rsna_e2e.core.records import Float32Array, Float64Array, Int16Image
from rsna_e2e.tasks.task import Task
from rsna_e2e.tools.synth.common.plan import StudyPlan, stream
from rsna_e2e.tools.synth.common.scanner import Scanner, to_stored
from rsna_e2e.tools.synth.head.acquire import acquire, draw_scanner, headrest
from rsna_e2e.tools.synth.head.events import draw_bleeds
from rsna_e2e.tools.synth.head.geometry import draw_series
from rsna_e2e.tools.synth.head.patient import draw_head
from rsna_e2e.tools.synth.head.render import Rendering, Scene, render_slice

# A bleed is called visible in a slice, and its label set, where at least MIN_VISIBLE_MM2 of the image, after partial
# volume, is raised by it by MIN_CONTRAST_HU or more and ends up MIN_OVER_GREY_HU or more above grey matter: blood that
# only turns a dark sulcus grey cannot be told from a swollen brain. Above MAX_VISIBLE_HU a pixel is bone in part, where
# nobody can tell blood. 8 HU is two standard deviations of the noise of a routine head CT, and the step from white to
# grey matter, the faintest that a reader relies on. 15 mm2 is a spot of 4.4 mm: over that area the noise averages to a
# signal-to-noise ratio of about 8, above the 5 of Rose's criterion.
MIN_CONTRAST_HU = 8.0
MIN_OVER_GREY_HU = 5.0
MAX_VISIBLE_HU = 100.0
MIN_VISIBLE_MM2 = 15.0
DAYS_OLD_HU = 9.0  # what a clot loses between a patient's two studies
CLOT_FLOOR_HU = 45.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyImage:
    """One slice: `stored` as the file holds it, labels [L] of 0 and 1, volume_ml [B] of each bleed within it."""

    stored: Int16Image
    labels: Float64Array
    volume_ml: Float64Array


def draw_scene(plan: StudyPlan) -> tuple[Scene, Scanner]:
    """Draw everything about a study but its noise. Both studies of a patient share head and bleeds."""
    patient_rng = stream(plan.seed, "patient", plan.patient)
    head = draw_head(patient_rng)
    white_hu = float(patient_rng.uniform(25.5, 30.0))
    grey_hu = white_hu + float(patient_rng.uniform(7.0, 10.0))
    bleeds = draw_bleeds(stream(plan.seed, "bleeds", plan.patient), plan.prevalence)
    if plan.visit:
        bleeds = tuple(replace(b, hu=max(b.hu - DAYS_OLD_HU, CLOT_FLOOR_HU)) for b in bleeds)
    rng = stream(plan.seed, "study", plan.index)
    series = draw_series(rng, head)
    scene = Scene(head=head, bleeds=bleeds, series=series, white_hu=white_hu, grey_hu=grey_hu)
    return scene, draw_scanner(rng, series)


def slice_labels(scene: Scene, rendering: Rendering, task: Task) -> Float64Array:
    """Labels [L] of a slice by the rule above; any is the or of the others."""
    labels = np.zeros(len(task.slices.names))
    pixel_mm2 = (2.0 * scene.series.spacing_mm) ** 2
    is_bright = (rendering.hu >= scene.grey_hu + MIN_OVER_GREY_HU) & (rendering.hu <= MAX_VISIBLE_HU)
    for label in sorted({bleed.label for bleed in scene.bleeds}):
        members = [i for i, bleed in enumerate(scene.bleeds) if bleed.label == label]
        gain: Float32Array = rendering.gain_hu[members].sum(axis=0)
        if np.count_nonzero((gain >= MIN_CONTRAST_HU) & is_bright) * pixel_mm2 >= MIN_VISIBLE_MM2:
            labels[task.slices.names.index(label)] = 1.0
    labels[task.headline_index] = labels.max()
    return labels


def make_images(plan: StudyPlan, scene: Scene, scanner: Scanner, task: Task) -> Iterator[StudyImage]:
    """Render and acquire the slices of a study in the order of acquisition."""
    rng = stream(plan.seed, "noise", plan.index)
    rest_hu = headrest(scene.series)
    for k in range(scene.series.n_slices):
        rendering = render_slice(scene, k)
        hu = acquire(rendering.hu, rest_hu, series=scene.series, scanner=scanner, rng=rng)
        yield StudyImage(
            stored=to_stored(hu, scanner),
            labels=slice_labels(scene, rendering, task),
            volume_ml=rendering.area_mm2 * (scene.series.thickness_mm / 1000.0),
        )
