"""Figures with one panel per label: ROC and decision curves, reliability diagrams, and histograms of probability."""

# N samples, L labels

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rsna_e2e.core.records import Float64Array
from rsna_e2e.evaluation.levels import Level
from rsna_e2e.evaluation.report.theme import colour, drawing, svg_data_uri
from rsna_e2e.evaluation.scores import Evaluation
from rsna_e2e.tasks import metrics
from rsna_e2e.tasks.metrics.decision_curve import decision_curve

_N_COLUMNS = 3
_PANEL_INCHES = (3.35, 2.75)

# Curves are drawn with about this many points: more cannot be seen at the size of a panel.
_MAX_POINTS = 400

# Level, by the name of its colour: how else it is drawn
_LINE_STYLES = {"slices": "-", "series": (0, (4, 1.6)), "series_head": (0, (1, 1.2))}
_MARKERS = {"slices": "o", "series": "s", "series_head": "D"}


@dataclass(frozen=True, slots=True)
class Drawn:
    """A level in a figure: what it is called, and the name of its colour."""

    word: str
    colour: str
    level: Level


Group = Sequence[Drawn]  # levels of the same labels, which share panels


def _groups(evaluation: Evaluation) -> list[Group]:
    """Return the levels that were scored, those of the same labels together."""
    if evaluation.studies:
        return [[Drawn("slices", "slices", evaluation.slices)], [Drawn("studies", "series", evaluation.studies)]]
    levels = {"slices": evaluation.slices, "series": evaluation.series, "series_head": evaluation.series_head}
    return [[Drawn(name.replace("_", " "), name, level) for name, level in levels.items() if level is not None]]


def roc_figure(evaluation: Evaluation) -> str:
    """ROC curve of every label, over each level."""

    def draw(axes: Axes, group: Group, label: int) -> None:
        axes.plot([0, 1], [0, 1], color=colour("grid"), linewidth=0.9)
        for line, drawn in enumerate(group):
            area = drawn.level.scores[label].auc.value
            text = f"{drawn.word}: {'one class only' if np.isnan(area) else f'AUC {area:.3f}'}"
            height = 0.06 + 0.1 * (len(group) - 1 - line)
            axes.text(0.98, height, text, color=colour(drawn.colour), ha="right", transform=axes.transAxes)
            if np.isfinite(area):
                curve = metrics.roc_curve(*drawn.level.known(label))
                false_rate, true_rate = _thin(curve.false_positive_rate), _thin(curve.true_positive_rate)
                axes.plot(false_rate, true_rate, color=colour(drawn.colour), linestyle=_LINE_STYLES[drawn.colour])
        _unit_square(axes)

    return _panels(evaluation, draw, "false positive rate (1 - specificity)", "true positive rate (sensitivity)")


def calibration_figure(evaluation: Evaluation) -> str:
    """Share of positives against mean probability, in bins; the area of a mark grows with the samples in its bin."""

    def draw(axes: Axes, group: Group, label: int) -> None:
        axes.plot([0, 1], [0, 1], color=colour("grid"), linewidth=0.9)
        for drawn in group:
            name = drawn.colour
            found = metrics.calibration(*drawn.level.known(label))
            filled = found.counts > 0
            share = found.counts[filled] / found.counts.sum()
            axes.plot(
                found.mean_probability[filled],
                found.observed[filled],
                color=colour(name),
                linestyle=_LINE_STYLES[name],
                linewidth=1.1,
            )
            axes.scatter(
                found.mean_probability[filled],
                found.observed[filled],
                s=8 + 90 * np.sqrt(share),
                marker=_MARKERS[name],
                facecolor=colour(name),
                linewidth=0,
                alpha=0.75,
                clip_on=False,
            )
        _unit_square(axes)

    return _panels(evaluation, draw, "mean predicted probability", "share of positives")


def decision_figure(evaluation: Evaluation) -> str:
    """Net benefit by the probability from which on one acts, and of treating all or none."""

    def draw(axes: Axes, group: Group, label: int) -> None:
        highest = 0.0
        for drawn in group:
            truth_N, probability_N = drawn.level.known(label)
            curve = decision_curve(truth_N, probability_N)
            shade, line = colour(drawn.colour), _LINE_STYLES[drawn.colour]
            axes.plot(curve.thresholds, curve.treat_all, color=colour("muted"), linestyle=line, linewidth=0.9)
            axes.plot(curve.thresholds, curve.net_benefit, color=shade, linestyle=line, linewidth=1.3)
            highest = max(highest, float(truth_N.mean()) if len(truth_N) else 0.0)
        axes.axhline(0, color=colour("muted"), linewidth=0.9)
        top = highest or 1.0
        axes.set(xlim=(0, 1), xticks=(0, 0.5, 1), ylim=(-0.2 * top, 1.1 * top))
        axes.grid(axis="y")

    return _panels(evaluation, draw, "probability from which on one acts", "net benefit")


def histogram_figure(evaluation: Evaluation) -> str:
    """How often each probability was given to slices that have the label and to slices that do not (log scale), or to
    studies."""
    edges = np.linspace(0, 1, 26)

    def draw(axes: Axes, group: Group, label: int) -> None:
        first = group[0]
        truth_N, probability_N = first.level.known(label)
        for name, is_positive in (("slices", 0), ("series", 1)):
            counts, _ = np.histogram(probability_N[truth_N == is_positive], edges)
            axes.stairs(counts, edges, fill=True, color=colour(name), alpha=0.28)
            axes.stairs(counts, edges, color=colour(name), linewidth=1.3)
        axes.set_yscale("log")
        axes.minorticks_off()
        axes.set_ylim(bottom=0.7)
        axes.set_xlim(0, 1)
        axes.grid(axis="y")
        axes.text(
            0.98, 0.93, f"{first.word} with the label", color=colour("series"), ha="right", transform=axes.transAxes
        )
        axes.text(0.98, 0.83, f"{first.word} without", color=colour("slices"), ha="right", transform=axes.transAxes)

    return _panels(
        evaluation, draw, "predicted probability", ", ".join(first.word for first, *_ in _groups(evaluation))
    )


def _panels(evaluation: Evaluation, draw: Callable[[Axes, Group, int], None], x_label: str, y_label: str) -> str:
    panels = [(name, group, label) for group in _groups(evaluation) for label, name in enumerate(group[0].level.names)]
    n_rows = -(-len(panels) // _N_COLUMNS)
    with drawing():
        figure = Figure(figsize=(_PANEL_INCHES[0] * _N_COLUMNS, _PANEL_INCHES[1] * n_rows), layout="constrained")
        grid = figure.subplots(n_rows, _N_COLUMNS, squeeze=False).flat
        for place, axes in enumerate(grid):
            if place >= len(panels):
                axes.set_visible(False)
                continue
            name, group, label = panels[place]
            axes.set_title(display_name(name))
            axes.set_axisbelow(True)
            draw(axes, group, label)
        figure.supxlabel(x_label, color=colour("muted"), fontsize=8.5)
        figure.supylabel(y_label, color=colour("muted"), fontsize=8.5)
        return svg_data_uri(figure)


def display_name(label: str) -> str:
    """A label as people write it."""
    return label.replace("_", " ").capitalize()


def _unit_square(axes: Axes) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    axes.grid()


def _thin(points: Float64Array) -> Float64Array:
    kept = np.unique(np.linspace(0, len(points) - 1, _MAX_POINTS).round().astype(np.int64))
    return np.take(points, kept)
