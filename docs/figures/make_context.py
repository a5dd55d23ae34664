"""Draws context.png: slices by themselves, and the same with their neighbours, at two settings of the dial of context.

Usage: python docs/figures/make_context.py OUT.png
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from rsna_e2e.core.records import Float32Array
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tools.synth.common.plan import Request, StudyPlan, plan_studies
from rsna_e2e.tools.synth.head.acquire import acquire, headrest
from rsna_e2e.tools.synth.head.context import Candidate, Look
from rsna_e2e.tools.synth.head.study import draw_scene, render_in_context

SEED = 17
N_STUDIES = 400
SITES = ("plexus", "orbit", "convexity")  # a pair of rows of each: blood, and what imitates it
NEIGHBOURS = (-2, -1, 1, 2)
HALF_PX = 56  # of the part of a slice that is shown
WINDOW_HU = (0.0, 80.0)
TILE_INCHES = 1.05
DPI = 100
CAPTION_TILES = 0.95
N_GREYS = 24  # as many as show the noise; more would only make the file larger


def examples() -> Iterator[tuple[StudyPlan, Candidate, int]]:
    """Yield of each site a candidate that bleeds and one that does not, and the slice to show by itself."""
    plans = plan_studies(Request(n_studies=N_STUDIES, seed=SEED, context="strong"))
    for site in SITES:
        for is_blood in (True, False):
            yield _first(plans, site, is_blood)


def _first(plans: Sequence[StudyPlan], site: str, is_blood: bool) -> tuple[StudyPlan, Candidate, int]:
    for plan in plans:
        scene, _ = draw_scene(plan)
        alike = [(c, k) for c in scene.candidates for k, look in sorted(c.looks.items()) if not look.is_dense]
        fitting = [(c, k) for c, k in alike if (c.site, c.is_blood) == (site, is_blood)]
        if fitting and not scene.bleeds and 3 < fitting[0][1] < scene.series.n_slices - 4:
            return plan, *fitting[len(fitting) // 2]
    raise ValueError(f"no candidate at {site} in these studies; choose another seed")


def _cut(plan: StudyPlan, candidate: Candidate, shown: int, offset: int) -> Float32Array:
    """HU around the place of a candidate, `offset` slices further on than the one that is shown by itself."""
    scene, scanner = draw_scene(plan)
    k = shown + offset
    hu = render_in_context(scene, k, context=plan.context, task=ICH).hu
    rng = np.random.default_rng(plan.index * 1000 + k)
    image = acquire(hu, headrest(scene.series), series=scene.series, scanner=scanner, rng=rng)
    row, column = _corner(candidate.looks[shown])
    return image[row : row + 2 * HALF_PX, column : column + 2 * HALF_PX]


def _corner(look: Look) -> tuple[int, int]:
    return round(2.0 * look.row) - HALF_PX, round(2.0 * look.column) - HALF_PX


def draw() -> Figure:
    """Draw the figure: columns are the slice alone at `none`, alone at `strong`, and with its neighbours."""
    rows, greys = list(examples()), colormaps["gray"].resampled(N_GREYS)
    columns = 2 + len(NEIGHBOURS)
    width = (columns + CAPTION_TILES) * TILE_INCHES
    figure = Figure(figsize=(width, (len(rows) + 0.45) * TILE_INCHES), dpi=DPI, facecolor="white")
    left, top = CAPTION_TILES * TILE_INCHES / width, 1.0 - 0.45 / (len(rows) + 0.45)
    grid = figure.add_gridspec(
        len(rows), columns, left=left, right=0.997, bottom=0.005, top=top, wspace=0.04, hspace=0.04,
    )  # fmt: skip
    titles = ("none:\nslice alone", "strong:\nslice alone", *(f"strong:\n{offset:+d}" for offset in NEIGHBOURS))
    for place, (plan, candidate, shown) in enumerate(rows):
        pictures = [_cut(replace(plan, context="none"), candidate, shown, 0), _cut(plan, candidate, shown, 0)]
        pictures += [_cut(plan, candidate, shown, offset) for offset in NEIGHBOURS]
        for column, picture in enumerate(pictures):
            axes = figure.add_subplot(grid[place, column])
            axes.imshow(picture, cmap=greys, vmin=WINDOW_HU[0], vmax=WINDOW_HU[1])
            axes.set_axis_off()
            if place == 0:
                axes.set_title(titles[column], fontsize=8, pad=3)
        what = "blood" if candidate.is_blood else "no blood"
        height = top * (1.0 - (place + 0.5) / len(rows))
        figure.text(0.008, height, f"{candidate.site}:\n{what}", fontsize=9, va="center")
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the picture into the file of the argument."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="PNG to write")
    chosen = parser.parse_args(arguments)
    draw().savefig(chosen.out, metadata={"Software": None}, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main()
