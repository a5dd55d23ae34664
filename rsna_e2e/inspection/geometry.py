"""Where slices lie: matrices, spacings, gaps and tilts."""

# N slices, S series

from typing import Any

import numpy as np
import numpy.typing as npt

from rsna_e2e.inspection.slices import Slices
from rsna_e2e.inspection.tally import common, distribution, plain
from rsna_e2e.records import Float64Array

# A step this many times the median of its series leaves room for a slice that is missing.
GAP = 1.5
TILTED_DEG = 1.0  # direction cosines with few digits are off by some tenths
N_WORST = 5

_PLANES = ("sagittal", "coronal", "axial")  # by the patient axis (left, back, head) the normal is nearest to


def describe_geometry(slices: Slices) -> dict[str, Any]:
    """Return matrix sizes, spacings, thickness, gaps, planes and tilts."""
    rows, columns = slices["rows"], slices["columns"]
    normal_S3 = _normals(slices)
    tilt_S, shear_S = _tilt_deg(normal_S3), _shear_deg(slices, normal_S3)
    planes = np.array(_PLANES, dtype=object)[np.abs(normal_S3).argmax(axis=1)]
    return {
        "matrix": common(rows, columns),
        "n_series_of_mixed_sizes": _count_mixed(slices, rows * 65536 + columns),
        "pixel_spacing_mm": distribution(slices["spacing_row_mm"]),
        "n_not_square": int(np.count_nonzero(slices["spacing_row_mm"] != slices["spacing_column_mm"])),
        "slice_thickness_mm": distribution(slices["slice_thickness_mm"]),
        **_steps(slices),
        "planes": common(planes),
        "tilt_deg": distribution(tilt_S),
        "n_tilted": int(np.count_nonzero(tilt_S > TILTED_DEG)),
        "shear_deg": distribution(shear_S),
        "n_sheared": int(np.count_nonzero(shear_S > TILTED_DEG)),
    }


def _steps(slices: Slices) -> dict[str, Any]:
    """Steps along the normal: their median by series, and where slices are missing."""
    median_S = np.full(len(slices.first), np.nan)
    gaps: list[tuple[float, int, int]] = []  # mm, row before, slices that would fit
    for series, rows in enumerate(slices.each()):
        step_mm = np.diff(slices["position_mm"][rows])
        if not len(step_mm):
            continue
        median = median_S[series] = np.median(step_mm)
        gaps += [
            (float(step_mm[i]), rows.start + int(i), round(step_mm[i] / median) - 1)
            for i in np.flatnonzero(step_mm > GAP * median)
        ]
    worst = sorted(gaps, key=lambda gap: -gap[0])[:N_WORST]
    with_gap = {int(slices.series_of_row[row]) for _, row, _ in gaps}
    return {
        "slice_spacing_mm": distribution(median_S),
        "n_series_with_gaps": len(with_gap),
        "n_missing_slices": sum(max(n, 1) for _, _, n in gaps),
        "widest_gaps": [{**slices.place(row), "mm": plain(mm)} for mm, row, _ in worst],
    }


def _normals(slices: Slices) -> Float64Array:
    """Slice normals [S, 3] by the first slice of each series, of no certain sign. Source: PS3.3 C.7.6.2.1.1."""
    row_S3, column_S3 = (
        np.stack([slices[f"iop_{direction}_{axis}"][slices.first] for axis in "xyz"], axis=1)
        for direction in ("row", "column")
    )
    normal_S3 = np.cross(row_S3, column_S3)
    return np.asarray(normal_S3 / np.linalg.norm(normal_S3, axis=1, keepdims=True))


def _tilt_deg(normal_S3: Float64Array) -> Float64Array:
    """Angle between slice normal and the nearest patient axis [S]: the tilt of an axial series against the body."""
    axis_S3 = np.eye(3)[np.abs(normal_S3).argmax(axis=1)]
    return _angle_deg(normal_S3, axis_S3)


def _shear_deg(slices: Slices, normal_S3: Float64Array) -> Float64Array:
    """Angle between slice normal and the way from first to last slice [S], NaN of a single slice.

    It is the tilt of a gantry under a table that moves straight: the slices are no right-angled stack.
    """
    position_N3 = np.stack([slices[f"ipp_{axis}_mm"] for axis in "xyz"], axis=1)
    way_S3 = position_N3[slices.first + slices.lengths - 1] - position_N3[slices.first]
    return np.where(slices.lengths > 1, _angle_deg(normal_S3, way_S3), np.nan)


def _angle_deg(one_S3: Float64Array, other_S3: Float64Array) -> Float64Array:
    """Angle between lines [S]; by the arc tangent, which is exact near 0 too."""
    across = np.linalg.norm(np.cross(one_S3, other_S3), axis=1)
    along = np.abs((one_S3 * other_S3).sum(axis=1))
    return np.asarray(np.degrees(np.arctan2(across, along)))


def _count_mixed(slices: Slices, values_N: npt.NDArray[Any]) -> int:
    """Count the series in which a value is not the same throughout."""
    differs_N = values_N != values_N[slices.first][slices.series_of_row]
    return int(np.count_nonzero(slices.per_series(differs_N)))
