"""Geometry of a data set: matrix sizes, spacings, gaps and tilts, counted over series."""

# N slices, S series

from typing import Any

import numpy as np

from rsna_e2e.evaluation.inspection.slices import Slices
from rsna_e2e.evaluation.inspection.tally import common, distribution, plain
from rsna_e2e.store.series_order import TILTED_DEG, find_gaps, series_geometry, slice_normal

N_WORST = 5

_PLANES = ("sagittal", "coronal", "axial")  # by the patient axis (left, back, head) the normal is nearest to


def describe_geometry(slices: Slices) -> dict[str, Any]:
    """Return matrix sizes, spacings, thickness, gaps, planes and tilts; see `SeriesGeometry` for their definitions."""
    all_series = [series_geometry(slices.columns, rows) for rows in slices.each()]
    tilt_S, shear_S, spacing_S = (
        np.array([getattr(series, name) for series in all_series]) for name in ("tilt_deg", "shear_deg", "spacing_mm")
    )
    is_square = slices["spacing_row_mm"] == slices["spacing_column_mm"]
    return {
        "n_series_without_positions": int(np.isnan(slices["ipp_x_mm"][slices.first]).sum()),
        "matrix": common(slices["rows"], slices["columns"]),
        "n_series_of_mixed_sizes": sum(series.has_mixed_sizes for series in all_series),
        "pixel_spacing_mm": distribution(slices["spacing_row_mm"]),
        "n_not_square": int(np.count_nonzero(~is_square & ~np.isnan(slices["spacing_row_mm"]))),
        "slice_thickness_mm": distribution(slices["slice_thickness_mm"]),
        "slice_spacing_mm": distribution(spacing_S),
        "n_series_with_gaps": sum(series.n_gaps > 0 for series in all_series),
        "n_missing_slices": sum(series.n_missing for series in all_series),
        "widest_gaps": _widest_gaps(slices),
        "n_uneven": sum(series.is_uneven for series in all_series),
        "planes": common(_planes(slices)),
        "tilt_deg": distribution(tilt_S),
        "n_tilted": int(np.count_nonzero(tilt_S > TILTED_DEG)),
        "shear_deg": distribution(shear_S),
        "n_sheared": sum(series.is_tilted for series in all_series),
    }


def _widest_gaps(slices: Slices) -> list[dict[str, Any]]:
    """The widest gaps, each by the slice before it."""
    gaps: list[tuple[float, int]] = []
    for rows in () if np.isnan(slices["ipp_x_mm"]).any() else slices.each():
        step_mm = np.diff(slices["position_mm"][rows])
        gaps += [(float(step_mm[i]), rows.start + i) for i in np.flatnonzero(find_gaps(step_mm)).tolist()]
    return [{**slices.place(row), "mm": plain(mm)} for mm, row in sorted(gaps, key=lambda gap: -gap[0])[:N_WORST]]


def _planes(slices: Slices) -> Any:
    """The plane of each series by its first slice, of those that say it."""
    names = [f"iop_{way}_{axis}" for way in ("row", "column") for axis in "xyz"]
    orientation_S6 = np.column_stack([slices[name][slices.first] for name in names])
    known = orientation_S6[~np.isnan(orientation_S6).any(axis=1)]
    return np.array([_PLANES[np.abs(slice_normal(cosines)).argmax()] for cosines in known], dtype=object)
