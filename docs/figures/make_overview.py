"""Draws overview.png: the way from DICOM files to predictions, and below it one series as the report shows it.

Usage: python docs/figures/make_overview.py DEMO OUT.png

DEMO is the folder that bin/demo.sh made; slices, labels and probabilities are those of the first example series of its
report. The committed picture is of the demo as it comes, 240 simulated studies.
"""

# N slices of the series that is shown, L labels

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, FancyArrowPatch, FancyBboxPatch, Rectangle

from rsna_e2e.core.records import Float32Array, Float64Array
from rsna_e2e.evaluation.evaluate import evaluate
from rsna_e2e.evaluation.report.examples import choose_examples
from rsna_e2e.evaluation.report.profiles import draw_profile
from rsna_e2e.evaluation.report.theme import drawing, light
from rsna_e2e.evaluation.report.thumbnails import windowed
from rsna_e2e.store import Store
from rsna_e2e.tasks.catalogue import get_task
from rsna_e2e.tasks.windows import named_windows

# All places and sizes are in pixels of the figure, counted from its lower left corner
WIDTH, HEIGHT, DPI = 1600, 700, 100
MARGIN, MIDDLE, BORDER, GAP = 40, 590, 392, 14
SHOWN = (0.08, 0.36, 0.55, 0.7, 0.82)  # parts of the way along z of the slices that are shown
SHOWN_SIDE = 156

# Where the middle of each step stands, and half the width of its picture
COLUMNS = ((140, 92), (452, 66), (806, 116), (1146, 100), (1448, 92))

# Of each step its name and what it is; of the way from one to the next what does it, above and below the arrow
CAPTIONS = (
    ("DICOM files", "folder or zip,\nin any order"),
    ("Study store", "labels, checksums, folds by\npatient; what was refused, why"),
    ("Batch of whole series", "three windows, cropped,\naugmented, resized: in one go"),
    ("One model, one loss", "CNN and LSTM learn together,\nfrom whole series"),
    ("Predictions", "for every slice:\nsubmission.csv, report.html"),
)
WAYS = (("prepare", ""), ("fused kernel", "through DALI"), ("train", ""), ("predict", ""))
HEADING = "report.html: a simulated patient that the model never saw"
NOTE = "Simulated CT; the model of bin/demo.sh, trained on two CPU cores in a quarter of an hour. Not for clinical use."


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One series: its slices in windows [N, C, side, side] of 0 to 1, where they lie, truth and probability [N, L]."""

    label_names: tuple[str, ...]
    headline: int
    pictures: Float32Array
    position_mm: Float64Array
    truth: Float64Array
    probability: Float64Array


def read_demo(demo: Path) -> Shown:
    """Return the first example series of the report on a demo."""
    store = Store.open(demo / "store")
    task = get_task(store.task_name)
    truth = demo / "raw/stage_2_test_truth.csv"
    evaluation = evaluate(demo / "submission.csv", truth, task=task, n_bootstrap=2)  # intervals are not shown
    assert evaluation.layout is not None
    assert evaluation.layout.position_mm is not None
    slices = choose_examples(evaluation, evaluation.layout)[0].slices
    row_of = {str(image_id): row for row, image_id in enumerate(store.index["image_id"])}
    hu = [store.read_slice(row_of[evaluation.image_ids[index]]) for index in slices]
    return Shown(
        label_names=task.slices.names,
        headline=task.headline_index,
        pictures=np.stack([windowed(one, list(named_windows(task).values()), side=2 * SHOWN_SIDE) for one in hu]),
        position_mm=evaluation.layout.position_mm[slices],
        truth=evaluation.slices.truth[slices],
        probability=evaluation.slices.probability[slices],
    )


def draw(shown: Shown) -> Figure:
    """Draw the figure."""
    with drawing(light):
        figure = Figure(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI, facecolor="white")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.axis("off")
        draw_steps(axes, shown)
        draw_report(figure, axes, shown)
        axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT), aspect="auto")
    return figure


def draw_steps(axes: Axes, shown: Shown) -> None:
    """Draw the upper half: five steps with a picture and a caption each, and what leads from one to the next."""
    n, peak = len(shown.pictures), int(shown.probability[:, shown.headline].argmax())
    for number, offset in enumerate((34, 0, -34)):
        index = (n // 4, 2 * n // 3, n // 3)[number]  # out of order, as files lie in a folder
        _picture(axes, shown.pictures[index, 0], COLUMNS[0][0] + offset, MIDDLE + 0.5 * offset, side=112)
    _draw_store(axes, *COLUMNS[1])
    for channel, offset in enumerate((66, 0, -66)):
        _picture(axes, shown.pictures[peak, 2 - channel], COLUMNS[2][0] + offset, MIDDLE + 0.25 * offset, side=100)
    _draw_model(axes, *COLUMNS[3], shown.pictures[:, 0])
    _draw_output(axes, *COLUMNS[4], shown.probability[:, shown.headline])
    for (x, _), (name, caption) in zip(COLUMNS, CAPTIONS, strict=True):
        _text(axes, x, 490, name, size=22, weight="bold")
        _text(axes, x, 441, caption, size=18, colour="muted")
    for (left, (right, half)), (above, below) in zip(pairwise(COLUMNS), WAYS, strict=True):
        ends = (sum(left) + GAP, right - half - GAP)
        arrow = FancyArrowPatch((ends[0], MIDDLE), (ends[1], MIDDLE), arrowstyle="-|>", shrinkA=0, shrinkB=0)
        arrow.set(color=light("slices"), linewidth=2.2, mutation_scale=22)
        axes.add_patch(arrow)
        _text(axes, sum(ends) / 2, MIDDLE + 22, above, size=18, colour="slices")
        _text(axes, sum(ends) / 2, MIDDLE - 22, below, size=18, colour="slices")


def draw_report(figure: Figure, axes: Axes, shown: Shown) -> None:
    """Draw the lower half: slices of one series with their prediction, and predictions of all labels along z."""
    axes.plot([MARGIN, WIDTH - MARGIN], [BORDER, BORDER], color=light("grid"), linewidth=1.5)
    _text(axes, MARGIN, BORDER - 33, HEADING, size=22, weight="bold", align="left")
    chosen = np.round(np.array(SHOWN) * (len(shown.pictures) - 1)).astype(np.int64)
    for place, index in enumerate(chosen):
        x = MARGIN + SHOWN_SIDE / 2 + place * (SHOWN_SIDE + GAP)
        _picture(axes, shown.pictures[index, 0], x, 245, side=SHOWN_SIDE)
        if shown.truth[index, shown.headline] == 1:
            axes.add_patch(Rectangle((x - SHOWN_SIDE / 2, 154), SHOWN_SIDE, 10, color=light("truth"), linewidth=0))
        _text(axes, x, 130, f"any: {shown.probability[index, shown.headline]:.2f}", size=20)
    for x, colour, meaning in ((MARGIN, "slices", "predicted probability"), (300, "truth", "slices with the label")):
        axes.add_patch(Rectangle((x, 74), 28, 20, color=light(colour), alpha=0.35 if x == MARGIN else 1, linewidth=0))
        _text(axes, x + 40, 83, meaning, size=18, align="left", colour="muted")
    axes.scatter(566, 84, marker="v", s=_points(20) ** 2, color=light("ink"), linewidth=0)
    _text(axes, 586, 83, "slices above; dotted: probability 0.5", size=18, align="left", colour="muted")
    _text(axes, MARGIN, 36, NOTE, size=17, align="left", colour="muted")
    profile = figure.add_axes((1082 / WIDTH, 88 / HEIGHT, 400 / WIDTH, 272 / HEIGHT))
    along_z = (shown.position_mm - shown.position_mm[0], shown.truth, shown.probability)
    draw_profile(
        profile, shown.label_names, *along_z, axis="position along the slice normal (mm)", shown=chosen, colour=light
    )
    for text in (*profile.texts, *profile.get_xticklabels(), *profile.get_yticklabels(), profile.xaxis.label):
        text.set_fontsize(_points(17))


def _draw_store(axes: Axes, x: float, half: float) -> None:
    height, rim = 104, 17
    bottom, top = MIDDLE - height / 2, MIDDLE + height / 2
    fill, edge = "#e5f0f8", light("slices")
    axes.add_patch(Ellipse((x, bottom), 2 * half, 2 * rim, facecolor=fill, edgecolor=edge, linewidth=2))
    axes.add_patch(Rectangle((x - half, bottom), 2 * half, height, facecolor=fill, linewidth=0))
    for side in (x - half, x + half):
        axes.plot([side, side], [bottom, top], color=edge, linewidth=2)
    axes.add_patch(Ellipse((x, top), 2 * half, 2 * rim, facecolor=fill, edgecolor=edge, linewidth=2))
    _text(axes, x, MIDDLE - 8, "int16 HU,\nin order", size=20)


def _draw_model(axes: Axes, x: float, half: float, pictures: Float32Array) -> None:
    """Slices, each through the CNN, and all of them through one recurrent head."""
    for number in range(4):
        place = x + 50 * (number - 1.5)
        axes.plot([place, place], [MIDDLE - 50, MIDDLE + 50], color=light("muted"), linewidth=1.5, zorder=1)
        _picture(axes, pictures[(2 * number + 3) * len(pictures) // 12], place, MIDDLE - 54, side=46)
        _box(axes, place, MIDDLE, 44, "CNN", "slices")
    _box(axes, x, MIDDLE + 52, 2 * half, "LSTM in both directions", "series_head")


def _draw_output(axes: Axes, x: float, half: float, probability_N: Float64Array) -> None:
    height = 120
    left, bottom = x - half, MIDDLE - height / 2
    edges = np.linspace(left, x + half, len(probability_N) + 1)
    axes.stairs(bottom + height * probability_N, edges, baseline=bottom, fill=True, color=light("slices"), alpha=0.35)
    axes.stairs(bottom + height * probability_N, edges, baseline=None, color=light("slices"), linewidth=2)
    axes.plot([left, x + half], [bottom, bottom], color=light("muted"), linewidth=1.2)


def _box(axes: Axes, x: float, y: float, width: float, text: str, colour: str) -> None:
    box = FancyBboxPatch((x - width / 2, y - 15), width, 30, boxstyle="round,pad=0,rounding_size=6", zorder=2)
    box.set(facecolor="white", edgecolor=light(colour), linewidth=1.8)
    axes.add_patch(box)
    _text(axes, x, y, text, size=15)


def _picture(axes: Axes, picture: Float32Array, x: float, y: float, *, side: float) -> None:
    """Show a picture with its middle at x, y, over those before."""
    half, level = side / 2, 3 + 0.01 * len(axes.images)
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, extent=(x - half, x + half, y - half, y + half), zorder=level)
    frame = Rectangle((x - half, y - half), side, side, fill=False, edgecolor="white", linewidth=1.5, zorder=level)
    axes.add_patch(frame)


def _text(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    *,
    size: float,
    colour: str = "ink",
    align: str = "center",
    weight: str = "",
) -> None:
    font = {"fontsize": _points(size), "fontweight": weight or "normal"}
    axes.text(x, y, text, font, color=light(colour), ha=align, va="center", zorder=5)


def _points(pixels: float) -> float:
    return pixels * 72 / DPI


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the demo of the first argument into the file of the second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="folder that bin/demo.sh made")
    parser.add_argument("out", type=Path, help="PNG to write")
    chosen = parser.parse_args(arguments)
    draw(read_demo(chosen.demo)).savefig(chosen.out, metadata={"Software": None}, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main()
