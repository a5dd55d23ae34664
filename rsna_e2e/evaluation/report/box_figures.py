"""Figure of an evaluation of boxes: FROC curve, precision by threshold, and scores of boxes that find something or
not."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rsna_e2e.evaluation.boxes import BoxEvaluation
from rsna_e2e.evaluation.report.theme import colour, drawing, svg_data_uri
from rsna_e2e.tasks.metrics.boxes import FOUND_IOU

_INCHES = (10.05, 3.2)
_MOST_FALSE_POSITIVES = 8.0  # for each image: more are of no use
_MAX_POINTS = 400  # more cannot be seen at the size of a panel


def box_figure(evaluation: BoxEvaluation) -> str:
    """Return all three panels as an SVG data URI."""
    with drawing():
        figure = Figure(figsize=_INCHES, layout="constrained")
        for draw, axes in zip((_froc, _precision, _scores), figure.subplots(1, 3), strict=True):
            axes.set_axisbelow(True)
            axes.grid()
            draw(axes, evaluation)
        return svg_data_uri(figure)


def _froc(axes: Axes, evaluation: BoxEvaluation) -> None:
    curve = evaluation.curve
    end = min(float(curve.false_positives[-1]), _MOST_FALSE_POSITIVES) or 1.0
    places = np.linspace(0, end, _MAX_POINTS)
    reached = np.searchsorted(curve.false_positives, places, side="right") - 1
    axes.plot(places, curve.sensitivity[reached], color=colour("slices"))
    axes.set(xlim=(0, end * 1.02), ylim=(0, 1.02), yticks=(0, 0.5, 1))
    axes.set(xlabel="false positives for each image", ylabel="sensitivity")
    axes.set_title("True boxes found (FROC)")


def _precision(axes: Axes, evaluation: BoxEvaluation) -> None:
    thresholds, precision = zip(*evaluation.precision_by_iou.items(), strict=True)
    axes.plot(thresholds, precision, color=colour("slices"), marker="o", markersize=3.5)
    axes.set(xlabel="least IoU of a box that finds", ylabel="precision", xticks=thresholds[::2])
    value = evaluation.box_precision.value
    if np.isfinite(value):
        axes.set_ylim(0, 1.15 * max(precision) or 1.0)
        axes.axhline(value, color=colour("series"), linestyle=(0, (4, 1.6)), linewidth=1.1)
        axes.text(0.04, 0.06, f"mean {value:.3f}", color=colour("series"), transform=axes.transAxes)
    axes.set_title("Precision by threshold")


def _scores(axes: Axes, evaluation: BoxEvaluation) -> None:
    edges = np.linspace(0, 1, 26)
    names = {"series": f"find a true box (IoU > {FOUND_IOU:g})", "slices": "find none"}
    most = 10
    for line, (name, is_found) in enumerate({"series": 1, "slices": 0}.items()):
        counts, _ = np.histogram(evaluation.predicted.scores[evaluation.found == is_found], edges)
        most = max(most, 10 * int(counts.max()))  # room for the words
        axes.stairs(counts, edges, fill=True, color=colour(name), alpha=0.28)
        axes.stairs(counts, edges, color=colour(name), linewidth=1.3)
        axes.text(0.98, 0.93 - 0.1 * line, names[name], color=colour(name), ha="right", transform=axes.transAxes)
    axes.set_ylim(0.7, most)  # first: matplotlib would warn of a logarithmic scale for no boxes
    axes.set_yscale("log")
    axes.minorticks_off()
    axes.set(xlabel="score", ylabel="predicted boxes", xlim=(0, 1))
    axes.set_title("Scores of predicted boxes")
