"""One simulated study, from its plan to stored images and labels."""

# N slices, B bleeds, L labels

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from rsna_e2e.core.records import BoolImage, Float64Array, Int16Image
from rsna_e2e.tasks.task import Task
from rsna_e2e.tools.synth.common.plan import StudyPlan, stream
from rsna_e2e.tools.synth.common.scanner import Scanner, to_stored
from rsna_e2e.tools.synth.head.acquire import acquire, draw_scanner, headrest
from rsna_e2e.tools.synth.head.context import added_hu, clear_factors, draw_candidates, without_mimics
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
    """One slice: `stored` as the file holds it, labels [L] of 0 and 1, volume_ml [B] of each bleed and candidate.

    masks: where each of its labels is seen, on the grid of `stored`.
    """

    stored: Int16Image
    labels: Float64Array
    masks: dict[str, BoolImage]
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
    return _with_context(plan, scene), draw_scanner(rng, series)


def _with_context(plan: StudyPlan, scene: Scene) -> Scene:
    """Add what the dial of context asks for; the natural one adds nothing."""
    if plan.context == "natural":
        return scene
    is_ambiguous = plan.context == "strong"
    candidates = draw_candidates(
        stream(plan.seed, "context", plan.patient), head=scene.head, series=scene.series, grey_hu=scene.grey_hu,
        is_ambiguous=is_ambiguous,
    )  # fmt: skip
    head = scene.head if is_ambiguous else without_mimics(scene.head, scene.grey_hu)
    return replace(scene, head=head, candidates=candidates)


def label_masks(scene: Scene, rendering: Rendering, task: Task) -> dict[str, BoolImage]:
    """Return where on the rendering grid each label of a slice is seen, by the rule above; any is the or of the others.

    Labels that the slice does not have are left out.
    """
    pixel_mm2 = (2.0 * scene.series.spacing_mm) ** 2
    is_bright = (rendering.hu >= scene.grey_hu + MIN_OVER_GREY_HU) & (rendering.hu <= MAX_VISIBLE_HU)
    label_of = scene.labels[: len(rendering.gain_hu)]
    masks: dict[str, BoolImage] = {}
    for label in sorted(set(label_of)):
        members = [i for i, name in enumerate(label_of) if name == label]
        is_seen = (rendering.gain_hu[members].sum(axis=0) >= MIN_CONTRAST_HU) & is_bright
        if np.count_nonzero(is_seen) * pixel_mm2 >= MIN_VISIBLE_MM2:
            masks[label] = is_seen
    if masks:
        masks[task.headline] = np.logical_or.reduce(list(masks.values()))
    return masks


def _clear(scene: Scene, rendering: Rendering, task: Task) -> Rendering:
    """Show every bleed at a glance where its label is set, and not at all where it is not."""
    if not rendering.area_mm2.any():
        return rendering
    masks = label_masks(scene, rendering, task)
    is_seen = [bleed.label in masks for bleed in scene.bleeds]
    factors = clear_factors(rendering.gain_hu, is_seen, min_gain_hu=MIN_CONTRAST_HU)
    hu = rendering.hu + np.tensordot(factors - 1.0, rendering.gain_hu, 1)
    return replace(rendering, hu=hu, gain_hu=rendering.gain_hu * factors[:, None, None])


def _with_candidates(scene: Scene, rendering: Rendering, k: int) -> Rendering:
    """Paint what slice `k` shows of the scene's candidates."""
    hu, n = rendering.hu.copy(), len(scene.bleeds)
    gain = np.concatenate([rendering.gain_hu, np.zeros((len(scene.candidates), *hu.shape), np.float32)])
    area = np.concatenate([rendering.area_mm2, np.zeros(len(scene.candidates))])
    for index, candidate in enumerate(scene.candidates, start=n):
        found = added_hu(candidate, k, head=scene.head, series=scene.series, hu=hu)
        if found is None:
            continue
        window, added, share = found
        hu[window] += added
        if candidate.is_blood:
            gain[index][window] = added
            area[index] = share.sum(dtype=np.float64) * (2.0 * scene.series.spacing_mm) ** 2
    return Rendering(hu=hu, gain_hu=gain, area_mm2=area)


def render_in_context(scene: Scene, k: int, *, context: str, task: Task) -> Rendering:
    """Render slice `k` of a scene without noise, with what the dial of context asks for (of CONTEXTS)."""
    rendering = render_slice(scene, k)
    if context == "none":
        rendering = _clear(scene, rendering, task)
    return _with_candidates(scene, rendering, k) if scene.candidates else rendering


def make_images(plan: StudyPlan, scene: Scene, scanner: Scanner, task: Task) -> Iterator[StudyImage]:
    """Render and acquire the slices of a study in the order of acquisition."""
    rng = stream(plan.seed, "noise", plan.index)
    rest_hu = headrest(scene.series)
    for k in range(scene.series.n_slices):
        rendering = render_in_context(scene, k, context=plan.context, task=task)
        masks = label_masks(scene, rendering, task)
        hu = acquire(rendering.hu, rest_hu, series=scene.series, scanner=scanner, rng=rng)
        yield StudyImage(
            stored=to_stored(hu, scanner),
            labels=np.array([name in masks for name in task.slices.names], dtype=np.float64),
            # each pixel of the rendering is two by two of the file
            masks={name: mask.repeat(2, axis=0).repeat(2, axis=1) for name, mask in masks.items()},
            volume_ml=rendering.area_mm2 * (scene.series.thickness_mm / 1000.0),
        )
