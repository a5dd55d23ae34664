"""Figure of a learning rate range test: loss over learning rate, as a PNG."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rsna_e2e.core.files import atomic_writer
from rsna_e2e.evaluation.report.theme import drawing, light
from rsna_e2e.training.lr_sweep import LrSweep

_INCHES = (6.4, 3.8)
_DPI = 150
_HEADROOM = 0.6  # of the fall: enough to see the loss run away, without making the fall small


def write_lr_figure(sweep: LrSweep, path: Path, *, title: str) -> None:
    """Draw every loss, the smoothed curve, and the suggested rates."""
    with drawing(light):
        figure = Figure(figsize=_INCHES, layout="constrained")
        axes = figure.subplots()
        axes.set_title(title, pad=32)
        axes.set(xscale="log", xlabel="learning rate of the backbone (the head's keeps its ratio)", ylabel="loss")
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.scatter(sweep.learning_rates, sweep.losses, s=7, color=light("muted"), alpha=0.5, linewidth=0)
        axes.plot(sweep.learning_rates, sweep.smoothed, color=light("slices"))
        axes.set_xlim(sweep.learning_rates[0], sweep.learning_rates[-1])
        axes.set_ylim(*_limits(sweep))
        _mark(axes, sweep)
        with atomic_writer(path) as file:
            figure.savefig(file, format="png", dpi=_DPI)


def _mark(axes: Axes, sweep: LrSweep) -> None:
    """Draw the suggested rates, their labels above the axes, one over the other."""
    if sweep.steepest is None:
        return
    marks = ((sweep.steepest, "steepest descent", "series"), (sweep.tenth_of_lowest, "a tenth of the lowest", "ink"))
    place = axes.get_xaxis_transform()
    for line, (rate, name, colour) in enumerate(marks):
        axes.axvline(rate, color=light(colour), linewidth=1.1, linestyle=(0, (4, 1.6)))
        axes.text(rate, 1.02 + 0.055 * line, f"{name} {rate:.1e}", color=light(colour), ha="center", transform=place)


def _limits(sweep: LrSweep) -> tuple[float, float]:
    """From under the lowest of the smoothed losses to over their highest before it."""
    lowest = int(sweep.smoothed.argmin())
    low, high = float(sweep.smoothed[lowest]), float(sweep.smoothed[: lowest + 1].max())
    if high == low:
        high = float(np.max(sweep.smoothed))
    fall = max(high - low, 1e-3 * abs(high), 1e-12)
    return low - 0.35 * fall, high + _HEADROOM * fall
