"""Data report: one self-contained HTML page, and the same numbers as JSON."""

from pathlib import Path
from typing import Any

from rsna_e2e.core.files import as_json
from rsna_e2e.dicom.syntaxes import SYNTAXES
from rsna_e2e.evaluation.inspection.figures import (
    boxes_figure,
    geometry_figure,
    grey_figure,
    hu_figure,
    people_figure,
    radiographs_figure,
)
from rsna_e2e.evaluation.inspection.slices import Slices
from rsna_e2e.evaluation.report.pages import check_folder, render, write_texts
from rsna_e2e.tasks.windows import named_windows

PAGE, NUMBERS = "inspection.html", "inspection.json"


def check_out(out: Path) -> None:
    """Raise BadInputError when no report can be written to `out`, before the work for it is done."""
    check_folder(out, example=f"{PAGE} and {NUMBERS}")


def write_inspection(content: dict[str, Any], slices: Slices, *, out: Path) -> Path:
    """Write `inspection.html` and `inspection.json` into the folder `out` and return the page's path.

    Files of these names are replaced, each whole or not at all. Raises BadInputError when `out` cannot be a folder.
    """
    check_out(out)
    write_texts(out, {NUMBERS: as_json(content, indent=2) + "\n", PAGE: _page(content, slices)})
    return out / PAGE


def _page(content: dict[str, Any], slices: Slices) -> str:
    sheets, windows, are_radiographs = [], named_windows(slices.task), slices.are_radiographs
    if slices.store is not None:
        from rsna_e2e.evaluation.inspection import sheets as of_pixels  # loads torch, which headers do without

        make = of_pixels.radiographs if are_radiographs else of_pixels.contact_sheets
        sheets = make(slices, slices.store, seed=content["seed"])
    return render(
        "inspection.html.j2",
        content,
        unknown="unknown",
        title="Data report",
        headline=slices.task.headline,
        label_names=slices.task.slices.names,
        syntaxes={syntax.uid: syntax.name for syntax in SYNTAXES.values()},
        windows=windows,
        figures=_figures_of_radiographs(content) if are_radiographs else _figures(content, windows),
        sheets=sheets,
    )


def _figures(content: dict[str, Any], windows: dict[str, tuple[float, float]]) -> dict[str, str | None]:
    return {
        "geometry": geometry_figure(content),
        "people": people_figure(content),
        "hu": hu_figure(content, windows) if content["hu"] else None,
    }


def _figures_of_radiographs(content: dict[str, Any]) -> dict[str, str | None]:
    return {
        "radiographs": radiographs_figure(content),
        "grey": grey_figure(content) if content["grey"] else None,
        "boxes": boxes_figure(content) if content["radiographs"]["boxes"] else None,
    }
