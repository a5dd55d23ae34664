"""What a viewer must know of a series to show it: sizes, spacing, directions, windows, and what is unusual about it."""

import math
from typing import Any

from rsna_e2e.store import SeriesSpan, Store
from rsna_e2e.store.series_order import TILTED_DEG, series_geometry
from rsna_e2e.tasks.task import Task
from rsna_e2e.tasks.windows import viewing_windows


def series_view(store: Store, span: SeriesSpan, task: Task) -> dict[str, Any]:
    """Return the geometry of a series as JSON takes it, by its first slice where slices differ.

    Directions are those of ImageOrientationPatient, spacing_mm between rows and between columns; None where the file
    says nothing. values: hu, or grey of radiographs as they are to be presented.
    """
    index, row = store.index, span.first_row
    row_direction, column_direction = (
        _numbers(index[f"iop_{way}_{axis}"][row] for axis in "xyz") for way in ("row", "column")
    )
    place_mm = index["position_mm"][span.rows].tolist() if store.geometry == "patient" else [None] * span.n_slices
    return {
        "key": span.series_key,
        "n_slices": span.n_slices,
        "rows": int(index["rows"][row]),
        "columns": int(index["columns"][row]),
        "values": store.values,
        "spacing_mm": _numbers(index[f"spacing_{way}_mm"][row] for way in ("row", "column")),
        "place_mm": place_mm,
        "row_direction": row_direction,
        "column_direction": column_direction,
        "windows": [
            {"name": name, "center": center, "width": width} for name, (center, width) in viewing_windows(task).items()
        ],
        "flags": _flags(store, span),
    }


def _numbers(values: Any) -> list[float] | None:
    found = [float(value) for value in values]
    return found if all(map(math.isfinite, found)) else None


def _flags(store: Store, span: SeriesSpan) -> list[str]:
    """Return what is unusual about a series, in words."""
    flags = []
    geometry = series_geometry(store.index, span.rows)
    if geometry.n_gaps:
        flags.append(f"gaps in which {geometry.n_missing} more slices would fit")
    if geometry.is_tilted or geometry.tilt_deg > TILTED_DEG:
        flags.append(f"tilted by {max(geometry.tilt_deg, geometry.shear_deg):.0f} degrees")
    if geometry.has_mixed_sizes or geometry.has_mixed_pixels:
        flags.append("slices of different sizes")
    if (store.index["burned_in_annotation"][span.rows] == "YES").any():
        flags.append("text burned into the pixels")
    return flags
