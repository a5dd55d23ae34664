"""The page of a comparison: its table, and the curves of all runs over each other."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rsna_e2e.core.files import as_json
from rsna_e2e.core.records import Float64Array
from rsna_e2e.evaluation.compare.table import Compared, as_csv
from rsna_e2e.evaluation.report.pages import check_folder, render, write_texts
from rsna_e2e.evaluation.report.theme import colour, drawing, svg_data_uri
from rsna_e2e.tasks import metrics

PAGE, NUMBERS, TABLE = "comparison.html", "comparison.json", "comparison.csv"
_CURVES_INCHES, _PANEL_INCHES, _N_COLUMNS = (9.8, 4.2), (3.2, 2.3), 3
_N_BINS = 25


def check_out(out: Path) -> None:
    """Raise BadInputError when no comparison can be written to `out`, before the work for it is done."""
    check_folder(out, example=f"{PAGE}, {NUMBERS} and {TABLE}")


def write_comparison(compared: Sequence[Compared], *, out: Path, split: str) -> Path:
    """Write the table as page, JSON and CSV into the folder `out`; return the page's path. split: what was predicted.

    Files of these names are replaced, each whole or not at all.
    """
    rows = [one.row() for one in compared]
    task = compared[0].evaluation.task
    content: dict[str, Any] = {"task": task.name, "label": task.headline, "split": split, "runs": rows}
    page = render(
        "comparison.html.j2",
        content,
        unknown="undefined: one class only",
        title="Comparison of runs",
        few_series=compared[0].evaluation.few_series,
        figures={"curves": curves_figure(compared), "histograms": histograms_figure(compared)},
    )
    write_texts(out, {NUMBERS: as_json(content, indent=2) + "\n", TABLE: as_csv(rows), PAGE: page})
    return out / PAGE


def curves_figure(compared: Sequence[Compared]) -> str:
    """ROC and precision-recall curves of the headline over slices, of all runs."""
    with drawing():
        figure = Figure(figsize=_CURVES_INCHES, layout="constrained")
        roc, precision = figure.subplots(1, 2)
        roc.plot([0, 1], [0, 1], color=colour("grid"), linewidth=0.9)
        for number, one in enumerate(compared):
            truth_N, probability_N = _headline(one)
            if not 0 < truth_N.sum() < len(truth_N):
                continue
            curve = metrics.roc_curve(truth_N, probability_N)
            style = {"color": _colour(number, len(compared)), "label": one.facts["name"], "linewidth": 1.3}
            roc.plot(curve.false_positive_rate, curve.true_positive_rate, **style)
            n_found = curve.true_positive_rate * truth_N.sum()
            n_called = n_found + curve.false_positive_rate * (len(truth_N) - truth_N.sum())
            precision.plot(curve.true_positive_rate[1:], (n_found / np.maximum(n_called, 1))[1:], **style)
        _label(roc, "ROC", "false positive rate (1 - specificity)", "sensitivity")
        _label(precision, "Precision and recall", "recall (sensitivity)", "precision")
        named = roc.get_legend_handles_labels()
        figure.legend(*named, loc="outside lower center", ncols=2, frameon=False, fontsize=7.5)
        return svg_data_uri(figure)


def histograms_figure(compared: Sequence[Compared]) -> str:
    """How often each run gave each probability to slices with and without the headline, and its threshold."""
    edges = np.linspace(0, 1, _N_BINS + 1)

    def draw(axes: Axes, one: Compared) -> None:
        truth_N, probability_N = _headline(one)
        for name, is_positive in (("slices", 0), ("series", 1)):
            counts, _ = np.histogram(probability_N[truth_N == is_positive], edges)
            axes.stairs(counts, edges, fill=True, color=colour(name), alpha=0.28)
            axes.stairs(counts, edges, color=colour(name), linewidth=1.2)
        axes.axvline(one.threshold, color=colour("ink"), linewidth=0.9, linestyle=(0, (3, 2)))
        axes.set(xlim=(0, 1), yscale="log", ylim=(0.7, None))
        axes.minorticks_off()
        axes.set_title(one.facts["name"], fontsize=7.5)

    return _panels(compared, draw)


def _panels(compared: Sequence[Compared], draw: Callable[[Axes, Compared], None]) -> str:
    n_rows = math.ceil(len(compared) / _N_COLUMNS)
    with drawing():
        figure = Figure(figsize=(_PANEL_INCHES[0] * _N_COLUMNS, _PANEL_INCHES[1] * n_rows), layout="constrained")
        grid = figure.subplots(n_rows, _N_COLUMNS, squeeze=False).flat
        for place, axes in enumerate(grid):
            if place < len(compared):
                draw(axes, compared[place])
            else:
                axes.set_visible(False)
        figure.supxlabel("predicted probability", color=colour("muted"), fontsize=8.5)
        return svg_data_uri(figure)


def _headline(one: Compared) -> tuple[Float64Array, Float64Array]:
    """Truth and probability of the headline, of the slices whose truth is known."""
    return one.evaluation.slices.known(one.evaluation.task.headline_index)


def _colour(number: int, n: int) -> str:
    """A colour for each of `n` runs, from a map that is as light on either page."""
    return str(mpl.colors.to_hex(mpl.colormaps["turbo"](0.08 + 0.84 * number / max(n - 1, 1))))


def _label(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    axes.set(title=title, xlabel=x_label, ylabel=y_label, xlim=(0, 1), ylim=(0, 1.02))
    axes.grid()
