"""One simulated radiograph, from its plan to grey values and labels."""

# H x W pixels of the file

from dataclasses import dataclass

import numpy as np

from rsna_e2e.core.records import Float32Array
from rsna_e2e.tools.synth.common.plan import stream
from rsna_e2e.tools.synth.radiograph.detector import enlarged, exposed, processed, scatter_of
from rsna_e2e.tools.synth.radiograph.plan import ImagePlan
from rsna_e2e.tools.synth.radiograph.render import render
from rsna_e2e.tools.synth.radiograph.scene import Scene, draw_scene
from rsna_e2e.tools.synth.radiograph.truth import Labels, labels_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A radiograph as it is shown [H, W], 0 black to 1 white and beyond, with its labels. pixel_mm: on the detector."""

    shown: Float32Array
    pixel_mm: float
    labels: Labels


def scene_of(plan: ImagePlan, sides: tuple[float, float]) -> Scene:
    """Draw the scene of an image; `sides` are its rows and columns, of the size that was asked for."""
    return draw_scene(
        plan.seed,
        plan.source,
        view=plan.view,
        opacity_rate=plan.opacity_rate,
        added=plan.added,
        shape=shape_of(plan, sides),
    )


def shape_of(plan: ImagePlan, sides: tuple[float, float]) -> tuple[int, int]:
    """Rows and columns of the file."""
    rows, columns = (2 * round(0.5 * plan.size_px * side) for side in sides)
    return rows, columns


def make_image(plan: ImagePlan, scene: Scene, shape: tuple[int, int]) -> Image:
    """Render, expose and process one image."""
    rendering = render(scene)
    grid_mm = scene.beam.pixel_mm
    lungs = rendering.lungs
    scatter = scatter_of(rendering.path, scene.exposure, grid_mm, lungs)
    pixel_mm = grid_mm * scene.beam.rows / shape[0]
    image = exposed(
        enlarged(rendering.path, *shape), enlarged(scatter, *shape), scene.exposure, pixel_mm,
        stream(plan.seed, "noise", plan.source),
    )  # fmt: skip
    within = enlarged(lungs.astype(np.float32), *shape) > 0.5
    return Image(
        shown=processed(image, scene.exposure, pixel_mm, within),
        pixel_mm=pixel_mm,
        labels=labels_of(scene, rendering, scatter, shape),
    )
