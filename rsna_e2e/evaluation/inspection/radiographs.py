"""What only radiographs say: views, people, how files are to be shown, and boxes; each with how often labels hold."""

# N images, K boxes

from collections.abc import Iterator
from typing import Any

import numpy as np

from rsna_e2e.core.records import Float64Array, Rows
from rsna_e2e.evaluation.inspection.slices import Slices
from rsna_e2e.evaluation.inspection.tally import distribution, whole_numbers
from rsna_e2e.tasks.boxes import placed

MOST_BOXES = 10
MAP_CELLS = 32  # along each side of an image

# A form of images tells of a label where it is so many times as common as in another, in so many images of each
TELLING_RATIO = 2.0
TELLING_IMAGES = 30


def describe_radiographs(slices: Slices) -> dict[str, Any] | None:
    """Describe radiographs by the columns of the index; None of CT.

    telling: forms between which the prevalence of the headline differs, so that a model may learn the form instead.
    """
    if not slices.are_radiographs:
        return None
    forms = {
        "views": slices.prevalence_by(slices["view"]),
        "sexes": slices.prevalence_by(slices["sex"]),
        "photometric": slices.prevalence_by(slices["photometric"]),
        "voi": slices.prevalence_by(slices["voi_function"]),
    }
    return forms | {
        "age_y": distribution(slices["age_y"]),
        "imager_spacing_mm": distribution(slices["imager_spacing_mm"]),
        "longer_side_px": distribution(np.maximum(slices["rows"], slices["columns"])),
        "n_luts": len(set(slices["voi_lut"]) - {""}),
        "boxes": _boxes(slices),
        "telling": [found for name in ("views", "sexes", "photometric") for found in _telling(slices, forms, name)],
    }


def _boxes(slices: Slices) -> dict[str, Any] | None:
    """Number, size and place of boxes; None where there are none. map: boxes over each cell of a grid on the image."""
    if not len(slices.box_rows):
        return None
    sides_K2 = np.stack([slices["columns"], slices["rows"]], axis=1)[slices.box_rows]
    low_K2, size_K2 = np.hsplit(placed(slices.box_edges), 2)
    images, n_boxes = np.unique(slices.box_rows, return_counts=True)
    return {
        "n": len(slices.box_rows),
        "n_images": len(images),
        "per_image": whole_numbers(n_boxes, at_most=MOST_BOXES),
        "width_px": distribution(size_K2[:, 0]),
        "height_px": distribution(size_K2[:, 1]),
        "area_share": distribution(size_K2.prod(axis=1) / sides_K2.prod(axis=1)),
        "map": _map(low_K2 / sides_K2, (low_K2 + size_K2) / sides_K2).tolist(),
    }


def _map(low_K2: Float64Array, high_K2: Float64Array) -> Rows:
    """Count [rows, columns] the boxes that cover the middle of each cell; their corners are in parts of the image."""
    counts = np.zeros((MAP_CELLS, MAP_CELLS), dtype=np.int64)
    cells = np.ceil(np.stack([low_K2, high_K2], axis=1) * MAP_CELLS - 0.5).astype(np.int64)
    for (x0, y0), (x1, y1) in cells.tolist():
        counts[y0:y1, x0:x1] += 1
    return counts


def _telling(slices: Slices, forms: dict[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """Yield the two values of a form between which the prevalence of the headline differs most, if it differs much."""
    headline = slices.task.headline
    rates = {
        one["value"][0]: one["prevalence"][headline]
        for one in forms[name]
        if one["value"][0] and one["n"] >= TELLING_IMAGES and one["prevalence"][headline] is not None
    }
    if rates:
        low, high = min(rates, key=rates.__getitem__), max(rates, key=rates.__getitem__)
        if rates[high] > 0 and rates[high] >= TELLING_RATIO * rates[low]:
            ends = {"low": low, "low_prevalence": rates[low], "high": high, "high_prevalence": rates[high]}
            yield {"form": name, "label": headline, **ends}
