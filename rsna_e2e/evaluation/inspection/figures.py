"""Histograms of a data report, drawn from its content alone."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from rsna_e2e.evaluation.report.theme import colour, drawing, svg_data_uri

_PANEL_INCHES = (3.35, 2.2)
_N_COLUMNS = 3
_WIDE_INCHES = (10.05, 2.9)
_LEAST_BINS = 6  # of whole numbers, so that no bar is as wide as a panel


def geometry_figure(content: dict[str, Any]) -> str:
    """Spacings, thickness and angles."""
    geometry = content["geometry"]
    return _panels(
        [
            ("Pixel spacing", geometry["pixel_spacing_mm"], "mm", "slices"),
            ("Slice spacing along the normal", geometry["slice_spacing_mm"], "mm, median of a series", "series"),
            ("Slice thickness", geometry["slice_thickness_mm"], "mm", "slices"),
            ("Slices in a series", content["counts"]["slices_per_series"], "slices", "series"),
            ("Tilt against the body's axis", geometry["tilt_deg"], "degrees", "series"),
            ("Shear of the stack", geometry["shear_deg"], "degrees", "series"),
        ]
    )


def people_figure(content: dict[str, Any]) -> str:
    """Studies of a patient, and runs of positive slices in a series."""
    order = content["truth"]["order"]

    def expected(axes: Axes) -> None:
        """Mark the mean number of runs, and what it would be."""
        for name, runs, line in (("found", order["runs"], "-"), ("if shuffled", order["shuffled_runs"], "--")):
            if runs is not None:
                label = f"mean {name}: {runs:.2f}"
                axes.axvline(runs, ymax=0.75, color=colour("series"), linestyle=line, label=label)
        if order["n_series"]:
            axes.set_ylim(top=axes.get_ylim()[1] / 0.75)  # the legend stands above the bars
            axes.set_xlim(right=max(order["shuffled_runs"] + 1, axes.get_xlim()[1]))
            axes.legend(frameon=False, loc="upper right", ncols=2)

    runs = ("Runs of positive slices", order["runs_per_series"], "runs in a positive series", "series")
    studies = ("Studies of a patient", content["counts"]["studies_per_patient"], "studies", "patients")
    return _panels([studies, runs], n_columns=2, decorate={1: expected})


def hu_figure(content: dict[str, Any], windows_hu: Mapping[str, tuple[float, float]]) -> str:
    """Histogram of HU on a logarithmic scale, with windows above it: center and width by name."""
    hu = content["hu"]
    return _histogram(hu, hu["edges_hu"], windows_hu, f"HU, in bins of {hu['edges_hu'][1] - hu['edges_hu'][0]}")


def grey_figure(content: dict[str, Any]) -> str:
    """Histogram of the grey of radiographs as they are shown, on a logarithmic scale."""
    grey = content["grey"]
    return _histogram(grey, grey["edges"], {}, f"grey from black to white, in bins of {grey['edges'][1]}")


def _histogram(
    found: dict[str, Any], edges: Sequence[int], windows: Mapping[str, tuple[float, float]], unit: str
) -> str:
    with drawing():
        figure = Figure(figsize=_WIDE_INCHES, layout="constrained")
        axes = figure.subplots()
        counts = np.array(found["counts"], dtype=np.float64) / max(found["n_pixels"], 1)
        axes.stairs(np.maximum(counts, 1e-9), edges, fill=True, color=colour("slices"), alpha=0.28)
        axes.stairs(np.maximum(counts, 1e-9), edges, color=colour("slices"), linewidth=1.3)
        above = axes.get_xaxis_transform()  # x in the unit, y as a share of the panel
        for place, (name, (center, width)) in enumerate(windows.items()):
            ends, height = [center - width / 2, center + width / 2], 0.84 + 0.065 * place
            axes.plot(ends, [height, height], color=colour("series"), linewidth=3, transform=above)
            axes.text(ends[1] + 30, height, f"{name} {center:g}/{width:g}", va="center", transform=above)
        axes.set_yscale("log")
        axes.minorticks_off()
        axes.set(xlim=(edges[0], edges[-1]), ylim=(1e-7, 50), yticks=[1e-6, 1e-4, 1e-2, 1])
        axes.set(xlabel=unit, ylabel="share of pixels")
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        return svg_data_uri(figure)


def radiographs_figure(content: dict[str, Any]) -> str:
    """Ages, sizes and studies of a patient; and boxes, where there are any."""
    found, boxes = content["radiographs"], content["radiographs"]["boxes"]
    panels: list[_Panel] = [
        ("Age", found["age_y"], "years", "images"),
        ("Pixel spacing", found["imager_spacing_mm"], "mm", "images"),
        ("Studies of a patient", content["counts"]["studies_per_patient"], "studies", "patients"),
    ]
    if boxes is None:
        return _panels(panels)
    panels += [
        ("Width of boxes", boxes["width_px"], "px", "boxes"),
        ("Height of boxes", boxes["height_px"], "px", "boxes"),
        ("Boxes of an image with any", boxes["per_image"], "boxes", "images"),
    ]
    return _panels(panels)


def boxes_figure(content: dict[str, Any]) -> str:
    """How many boxes lie over each part of the image."""
    with drawing():
        figure = Figure(figsize=(_PANEL_INCHES[0], _PANEL_INCHES[0]), layout="constrained")
        axes = figure.subplots()
        axes.imshow(content["radiographs"]["boxes"]["map"], cmap="viridis", vmin=0, extent=(0, 1, 1, 0))
        axes.set(xticks=[0, 0.5, 1], yticks=[0, 0.5, 1], title="Where boxes lie, in parts of the image")
        return svg_data_uri(figure)


_Panel = tuple[str, dict[str, Any], str, str]  # title, distribution, unit, what is counted


def _panels(
    panels: Sequence[_Panel], *, n_columns: int = _N_COLUMNS, decorate: dict[int, Callable[[Axes], None]] | None = None
) -> str:
    n_rows = -(-len(panels) // n_columns)
    width = _PANEL_INCHES[0] * _N_COLUMNS
    with drawing():
        figure = Figure(
            figsize=(width, _PANEL_INCHES[1] * n_rows), layout=ConstrainedLayoutEngine(hspace=0.1, wspace=0.05)
        )
        for place, axes in enumerate(figure.subplots(n_rows, n_columns, squeeze=False).flat):
            title, distribution, unit, counted = panels[place]
            axes.set_title(title)
            if distribution["counts"]:
                _draw(axes, distribution, unit, counted)
                if decorate and place in decorate:
                    decorate[place](axes)
            else:
                _say(axes, distribution, unit, counted)
        return svg_data_uri(figure)


def _draw(axes: Axes, distribution: dict[str, Any], unit: str, counted: str) -> None:
    counts, edges = distribution["counts"], distribution["edges"]
    axes.stairs(counts, edges, fill=True, color=colour("slices"), alpha=0.28)
    axes.stairs(counts, edges, color=colour("slices"), linewidth=1.3)
    axes.set(xlabel=unit, ylabel=counted, ylim=(0, None))
    axes.locator_params(axis="y", nbins=4, integer=True)
    if edges[0] == -0.5:  # whole numbers, one bin each
        left = edges[next(place for place, count in enumerate(counts) if count)]
        axes.set_xlim(left, max(edges[-1], left + _LEAST_BINS))
        axes.locator_params(axis="x", integer=True)
    axes.grid(axis="y")
    axes.set_axisbelow(True)


def _say(axes: Axes, distribution: dict[str, Any], unit: str, counted: str) -> None:
    """Text in place of a histogram that would have one bar or none."""
    n = distribution["n"]
    text = (
        f"{distribution['median']:.4g} {unit.split(',')[0]}\nin all {n:,} {counted}" if n else "not given in the files"
    )
    axes.text(0.5, 0.5, text, ha="center", va="center", color=colour("muted"), transform=axes.transAxes, fontsize=10)
    axes.set_axis_off()
