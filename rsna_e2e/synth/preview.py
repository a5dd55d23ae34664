"""A contact sheet of simulated studies, to be looked at: every study in two windows, with what is true of it."""

from pathlib import Path

import numpy as np

from rsna_e2e.records import Float64Array, Progress, no_progress
from rsna_e2e.synth.acquire import RESCALE_INTERCEPT_HU
from rsna_e2e.synth.plan import StudyPlan, plan_studies
from rsna_e2e.synth.study import StudyImage, draw_scene, make_images
from rsna_e2e.tasks import ICH, Task

WINDOWS_HU = ((40.0, 80.0), (40.0, 380.0))  # (center, width): brain, and one wide enough to show scalp and headrest
INCHES_PER_TILE = 1.6


def preview(
    png: Path,
    *,
    n_studies: int = 6,
    seed: int = 0,
    prevalence: str = "demo",
    columns: int = 10,
    progress: Progress = no_progress,
) -> None:
    """Draw the first `n_studies` of the data set that `simulate` makes of the same seed and prevalence.

    Each study has a row per window of WINDOWS_HU, `columns` slices from base to vertex; the slice's labels stand above
    it, each bleed's density and volume beside it. Raises UsageError on impossible arguments.
    """
    from matplotlib.figure import Figure

    plans = plan_studies(n_studies, seed=seed, prevalence=prevalence, test_fraction=0.0)
    n_rows = len(plans) * len(WINDOWS_HU)
    figure = Figure(figsize=((columns + 1.2) * INCHES_PER_TILE, n_rows * INCHES_PER_TILE * 1.08), facecolor="black")
    grid = figure.add_gridspec(
        n_rows, columns, left=1.2 / (columns + 1.2), right=1.0, bottom=0.0, top=0.985, wspace=0.02, hspace=0.1
    )
    for index, plan in enumerate(plans):
        caption, tiles = _study_tiles(plan, columns, ICH)
        for window, (center, width) in enumerate(WINDOWS_HU):
            for column, (image, title) in enumerate(tiles):
                axes = figure.add_subplot(grid[index * len(WINDOWS_HU) + window, column])
                axes.imshow(image, cmap="gray", vmin=center - width / 2, vmax=center + width / 2)
                axes.set_axis_off()
                if window == 0:
                    axes.set_title(title, color="orange", fontsize=6, pad=1.5)
        figure.text(0.004, 1.0 - (index + 0.04) / len(plans), caption, color="white", fontsize=6.5, va="top")
        progress(index + 1, len(plans))
    figure.savefig(png, dpi=110, facecolor="black")


def _study_tiles(plan: StudyPlan, columns: int, task: Task) -> tuple[str, list[tuple[Float64Array, str]]]:
    """Return the study's caption and its tiles, HU at half resolution with the names of the labels set."""
    scene, scanner = draw_scene(plan)
    images: list[StudyImage] = list(make_images(plan, scene, scanner, task))
    height = scene.series.origins_mm @ scene.series.normal
    from_base = np.argsort(height)
    picked = from_base[np.linspace(0, len(images) - 1, columns).round().astype(int)]
    tiles = []
    for k in picked.tolist():
        names = [
            name
            for name, value in zip(task.label_names, images[k].labels, strict=True)
            if value and name != task.any_label
        ]
        hu = images[k].stored[::2, ::2].astype(np.float64) + RESCALE_INTERCEPT_HU
        tiles.append((hu, "\n".join(names[:2]) + (" +" if len(names) > 2 else "")))
    tilt = np.degrees(np.arcsin(-scene.series.column_direction[2]))
    lines = [f"study {plan.index}, patient {plan.patient}", f"{len(images)} x {scene.series.thickness_mm:.2f} mm"]
    lines += [f"tilt {tilt:.0f}°, noise {scanner.noise_hu:.1f} HU", ""]
    volumes = sum(image.volume_ml for image in images)
    for bleed, volume in zip(scene.bleeds, np.atleast_1d(volumes), strict=True):
        lines += [bleed.label, f"  {bleed.site}, {bleed.hu:.0f} HU, {volume:.1f} ml"]
    return "\n".join(lines), tiles
