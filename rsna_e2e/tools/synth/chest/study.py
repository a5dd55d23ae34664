"""One simulated study, from its plan to stored images and labels."""

from collections.abc import Iterator
from dataclasses import dataclass

from rsna_e2e.core.records import Float64Array, Int16Image
from rsna_e2e.tools.synth.chest.acquire import acquire, couch
from rsna_e2e.tools.synth.chest.render import Renderer, Scene
from rsna_e2e.tools.synth.chest.truth import visible_mm2
from rsna_e2e.tools.synth.common.plan import StudyPlan, stream
from rsna_e2e.tools.synth.common.scanner import Scanner, to_stored


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyImage:
    """One slice: `stored` as the file holds it, and in what area (mm2) emboli are visible, see `visible_mm2`."""

    stored: Int16Image
    visible_mm2: tuple[float, Float64Array]


def make_images(plan: StudyPlan, scene: Scene, scanner: Scanner) -> Iterator[StudyImage]:
    """Render and acquire the slices of a study in the order of acquisition."""
    rng = stream(plan.seed, "noise", plan.index)
    couch_hu = couch(scene.series)
    renderer = Renderer(scene)
    pixel_mm2 = (2.0 * scene.series.spacing_mm) ** 2
    for k in range(scene.series.n_slices):
        hu, loss = renderer.render(k)
        image = acquire(hu, couch_hu, k, scene=scene, scanner=scanner, rng=rng)
        yield StudyImage(stored=to_stored(image, scanner), visible_mm2=visible_mm2(loss, pixel_mm2))
