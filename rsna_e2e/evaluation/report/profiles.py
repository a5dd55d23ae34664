"""Figure of one series: predicted probability of every label along the slice normal, with the truth behind it."""

# N slices of one series, L labels

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rsna_e2e.core.records import Float64Array
from rsna_e2e.evaluation.report.figures import display_name
from rsna_e2e.evaluation.report.theme import colour, drawing, svg_data_uri
from rsna_e2e.tasks.metrics import Int64Array

# In rows, which are 1 apart.
_ROW_HEIGHT = 0.76
_STRIP_HEIGHT = 0.1
_WIDTH_INCHES = 5.4


def profile_figure(
    label_names: Sequence[str],
    position_N: Float64Array,
    truth_NL: Float64Array,
    probability_NL: Float64Array,
    *,
    axis: str,
    shown: Int64Array,
) -> str:
    """Draw one series as `draw_profile` does; return an SVG data URI."""
    with drawing():
        height = max(2.0, 0.5 + 0.5 * len(label_names))
        figure = Figure(figsize=(_WIDTH_INCHES, height), layout="constrained")
        draw_profile(figure.subplots(), label_names, position_N, truth_NL, probability_NL, axis=axis, shown=shown)
        return svg_data_uri(figure)


def draw_profile(
    axes: Axes,
    label_names: Sequence[str],
    position_N: Float64Array,
    truth_NL: Float64Array,
    probability_NL: Float64Array,
    *,
    axis: str,
    shown: Int64Array,
    colour: Callable[[str], str] = colour,
) -> None:
    """Draw one row per label: probability as an area from 0 to 1, truth as a strip under it.

    position_N: of the slices, rising; axis: what it is. shown: slices to mark on the top edge because their images are
    shown.
    """
    edges_N = _edges(position_N)
    n_labels = len(label_names)
    for label in range(n_labels):
        floor = n_labels - 1.0 - label
        _draw_truth(axes, floor, edges_N, truth_NL[:, label] == 1, colour("truth"))
        heights = floor + _ROW_HEIGHT * probability_NL[:, label]
        axes.stairs(heights, edges_N, baseline=floor, fill=True, color=colour("slices"), alpha=0.35)
        axes.stairs(heights, edges_N, baseline=None, color=colour("slices"), linewidth=1.4)
        axes.axhline(floor, color=colour("muted"), linewidth=0.6)
        axes.axhline(floor + _ROW_HEIGHT / 2, color=colour("muted"), linewidth=0.5, linestyle=(0, (1, 3)))
        highest = f"max {probability_NL[:, label].max():.2f}"
        axes.text(1.01, floor + _ROW_HEIGHT / 2, highest, va="center", transform=axes.get_yaxis_transform())
    axes.scatter(position_N[shown], np.full(len(shown), n_labels - 0.02), marker="v", s=16, color=colour("ink"))
    axes.set(xlim=(edges_N[0], edges_N[-1]), ylim=(-_STRIP_HEIGHT - 0.02, n_labels + 0.08))
    axes.set_yticks([n_labels - 1 - label + _ROW_HEIGHT / 2 for label in range(n_labels)])
    axes.set_yticklabels([display_name(name) for name in label_names], color=colour("ink"))
    axes.tick_params(axis="y", length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_xlabel(axis)


def _draw_truth(
    axes: Axes, floor: float, edges_N: Float64Array, is_positive_N: npt.NDArray[np.bool_], colour: str
) -> None:
    """Mark positive slices by a strip under the row, and by a faint band behind it."""
    for bottom, top, alpha in ((floor - _STRIP_HEIGHT, floor, 1.0), (floor, floor + _ROW_HEIGHT, 0.4)):
        tops = np.where(is_positive_N, top, bottom)
        axes.stairs(tops, edges_N, baseline=bottom, fill=True, color=colour, alpha=alpha)


def _edges(position_N: Float64Array) -> Float64Array:
    """Borders [N + 1] half-way between neighbouring slices; a single slice is drawn 1 wide."""
    if len(position_N) == 1:
        return np.array([position_N[0] - 0.5, position_N[0] + 0.5])
    middle = (position_N[1:] + position_N[:-1]) / 2
    return np.concatenate([[2 * position_N[0] - middle[0]], middle, [2 * position_N[-1] - middle[-1]]])
