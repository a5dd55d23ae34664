"""The values that each column of a store may hold: those that `prepare` writes, and no others."""

# N slices

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.limits import (
    FARTHEST_MM,
    LEAST_PIXELS,
    LENGTHS_MM,
    MAX_AGE_Y,
    MAX_FRAMES,
    MAX_POSITION_MM,
    MAX_WINDOW_GREY,
    MAX_WINDOW_HU,
    ROUNDED_AXES,
    SIDES_PX,
    XRAY_SIDES_PX,
)
from rsna_e2e.core.records import Column, Values

Mask = npt.NDArray[np.bool_]


class Range(NamedTuple):
    """Numbers from `low` to `high`; `is_advice`: or NaN, where a file does not say."""

    low: float
    high: float
    is_advice: bool = False


_INT16 = (-32768, 32767)
_MOST = np.finfo(np.float64).max  # of what is finite
_COUNT = Range(0, SIDES_PX[1] ** 2)  # of pixels
_COSINE = Range(-1 - ROUNDED_AXES, 1 + ROUNDED_AXES)
_SIDE = Range(*SIDES_PX)
_CORNER = Range(0, SIDES_PX[1])
_ANY = Range(0, 2**64)  # checksums; and where slices lie, which `checks` holds against the shards

NUMBERS = {
    "slice_index": Range(0, 2**31),
    "position_mm": Range(-FARTHEST_MM, FARTHEST_MM),
    "frame_number": Range(1, MAX_FRAMES),
    "rows": _SIDE,
    "columns": _SIDE,
    **{f"ipp_{axis}_mm": Range(-MAX_POSITION_MM, MAX_POSITION_MM) for axis in "xyz"},
    **{f"iop_{way}_{axis}": _COSINE for way in ("row", "column") for axis in "xyz"},
    "spacing_row_mm": Range(*LENGTHS_MM),
    "spacing_column_mm": Range(*LENGTHS_MM),
    "slope": Range(-_MOST, _MOST),
    "intercept": Range(-_MOST, _MOST),
    "bits_stored": Range(1, 16),
    "pixel_representation": Range(0, 1),
    "window_center_hu": Range(-MAX_WINDOW_HU, MAX_WINDOW_HU, is_advice=True),
    "window_width_hu": Range(0, MAX_WINDOW_HU, is_advice=True),
    "slice_thickness_mm": Range(*LENGTHS_MM, is_advice=True),
    "n_rounded": _COUNT,
    "n_saturated": _COUNT,
    "n_padding": _COUNT,
    "hu_min": Range(*_INT16),
    "hu_max": Range(*_INT16),
    **{f"content_{corner}": _CORNER for corner in ("x0", "y0", "x1", "y1")},
    "checksum": _ANY,
    "byte_offset": _ANY,
    "stored_bytes": _ANY,
    "packed_checksum": _ANY,
}
_GREY = Range(-32768, 65535)
_XRAY_COUNT = Range(0, XRAY_SIDES_PX[1] ** 2)
_XRAY_SIDE = Range(*XRAY_SIDES_PX)
_XRAY_CORNER = Range(0, XRAY_SIDES_PX[1])

# Of X-rays
XRAY_NUMBERS = NUMBERS | {
    "rows": _XRAY_SIDE,
    "columns": _XRAY_SIDE,
    **{f"content_{corner}": _XRAY_CORNER for corner in ("x0", "y0", "x1", "y1")},
    **{name: _XRAY_COUNT for name in ("n_rounded", "n_saturated", "n_padding")},
    "value_offset": Range(0, 1 << 15),
    "window_center": Range(-MAX_WINDOW_GREY, MAX_WINDOW_GREY, is_advice=True),
    "window_width": Range(0, MAX_WINDOW_GREY, is_advice=True),
    "padding_low": _GREY._replace(is_advice=True),
    "padding_high": _GREY._replace(is_advice=True),
    "low_grey": _GREY,
    "high_grey": _GREY,
    "age_y": Range(0, MAX_AGE_Y, is_advice=True),
    "imager_spacing_mm": Range(*LENGTHS_MM, is_advice=True),
}
LABEL = Range(0, 1, is_advice=True)
SHARE = Range(0, 1)

# What is NaN in a store whose slices came without their place in space
GEOMETRY = {name for name in NUMBERS if name.startswith(("ipp_", "iop_", "spacing_"))}
_UNKNOWN = Range(1, 0, is_advice=True)

# What texts are, as regular expressions of RE2: nothing moves a cursor or breaks a line. In identifiers ESC may begin
# another script, as where files are read (`Elements.identifier`).
_PRINTABLE = r"[^\p{Cc}\p{Cf}\p{Zl}\p{Zp}]*"
_NAME = r"[^\p{Cc}\p{Cf}\p{Zl}\p{Zp}]+"
_IDENTIFIER = r"[^\x00-\x1a\x1c-\x1f\x7f]*"
_CODES = r"[A-Za-z0-9_+]*"
TEXTS = {
    "series_key": _PRINTABLE,
    "image_id": _NAME,
    "patient_id": _IDENTIFIER,
    "study_uid": _IDENTIFIER,
    "series_uid": _IDENTIFIER,
    "sop_uid": _IDENTIFIER,
    "split": "train|test",
    "burned_in_annotation": _CODES,
    "transfer_syntax_uid": "[0-9.]*",
    "decoder": _PRINTABLE,
    "repair": _CODES,
    "shard": _PRINTABLE,
    "photometric": "MONOCHROME[12]",
    "voi_function": "LINEAR|LINEAR_EXACT|SIGMOID|LUT|",
    "voi_lut": "([0-9a-f]{64})?",
    "view": "[A-Z0-9_ ]{0,16}",
    "sex": "[FMO]?",
    "path": _PRINTABLE,
    "reason": _CODES,
    "detail": _PRINTABLE,
}
FREE_TEXTS = {name for name, pattern in TEXTS.items() if pattern in (_PRINTABLE, _IDENTIFIER)}  # as ASCII may be any


def first_outside(column: Column, allowed: Range) -> int | None:
    """Return the first row of numbers [N] or [N, L] out of range, None where there is none."""
    if not column.size:
        return None
    low, high = np.fmin.reduce(column, axis=None), np.fmax.reduce(column, axis=None)  # NaN only where all are
    has_nan = not allowed.is_advice and np.isnan(column).any()
    if not has_nan and (np.isnan(low) or (low >= allowed.low and high <= allowed.high)):
        return None
    is_good = (column >= allowed.low) & (column <= allowed.high) | (allowed.is_advice & np.isnan(column))
    return int(np.argmin(is_good.reshape(len(column), -1).all(axis=1)))


def outside_ranges(
    index: Mapping[str, Column], *, has_geometry: bool = True, values: Values = "hu"
) -> Iterator[tuple[str, int]]:
    """Yield columns of an index with a number out of range, and its first such row."""
    for name, allowed in (XRAY_NUMBERS if values == "grey" else NUMBERS).items():
        is_unknown = name in GEOMETRY and not has_geometry
        if (row := first_outside(index[name], _UNKNOWN if is_unknown else allowed)) is not None:
            yield name, row


def contradictions(index: Mapping[str, Column], *, values: Values = "hu") -> Iterator[tuple[str, int]]:
    """Yield columns of an index that contradict other columns, with the first such row; all values are in range."""
    for name, is_good in chain(_relations(index), _relations_of_xrays(index) if values == "grey" else ()):
        if not is_good.all():
            yield name, int(np.argmin(is_good))


def _relations(index: Mapping[str, Column]) -> Iterator[tuple[str, Mask]]:
    """Yield the name of a relation, and where [N] it holds."""
    x0, y0, x1, y1 = (index[f"content_{corner}"] for corner in ("x0", "y0", "x1", "y1"))
    is_inside = (x0 < x1) & (y0 < y1) & (x1 <= index["columns"]) & (y1 <= index["rows"])
    yield "content box", is_inside | ((x0 | y0 | x1 | y1) == 0)
    n_pixels = index["rows"] * index["columns"]
    yield "rows", n_pixels >= LEAST_PIXELS
    for name in ("n_rounded", "n_saturated", "n_padding"):
        yield name, index[name] <= n_pixels
    yield "hu_min", index["hu_min"] <= index["hu_max"]
    yield "slope", index["slope"] != 0
    yield "orientation", _are_axes(index) | np.isnan(index["iop_row_x"])
    is_in_series = index["series_key"][1:] == index["series_key"][:-1]
    is_rising = index["position_mm"][1:] > index["position_mm"][:-1]
    yield "position_mm", np.append(True, is_rising | ~is_in_series)
    for name in ("patient_id", "study_uid", "series_uid"):
        yield name, np.append(True, (index[name][1:] == index[name][:-1]) | ~is_in_series)
    yield "byte_offset", _are_apart(index)


def _relations_of_xrays(index: Mapping[str, Column]) -> Iterator[tuple[str, Mask]]:
    yield "value_offset", np.isin(index["value_offset"], (0, 1 << 15))
    function, has_window = index["voi_function"], ~np.isnan(index["window_width"])
    yield "voi_lut", (function == "LUT") == (index["voi_lut"] != "")
    yield "window_width", (has_window | (function == "") | (function == "LUT")) & ~(index["window_width"] == 0)
    yield "window_center", np.isnan(index["window_center"]) != has_window
    yield "low_grey", index["low_grey"] <= index["high_grey"]


def _are_axes(index: Mapping[str, Column]) -> Mask:
    """Where the axes are orthogonal unit vectors, within the tolerance that files are read with."""
    row, column = ([index[f"iop_{way}_{axis}"] for axis in "xyz"] for way in ("row", "column"))
    lengths = [axis[0] ** 2 + axis[1] ** 2 + axis[2] ** 2 for axis in (row, column)]
    product = row[0] * column[0] + row[1] * column[1] + row[2] * column[2]
    low, high = (1 - 2 * ROUNDED_AXES) ** 2, (1 + 2 * ROUNDED_AXES) ** 2
    is_unit = [(low <= length) & (length <= high) for length in lengths]
    are_axes: Mask = is_unit[0] & is_unit[1] & (np.abs(product) <= 2 * ROUNDED_AXES)
    return are_axes


def _are_apart(index: Mapping[str, Column]) -> Mask:
    """Where the bytes of a slice do not overlap those of the slice before it in its shard."""
    begin, end = index["byte_offset"], index["byte_offset"] + index["stored_bytes"]
    is_first: Mask = np.append(True, index["shard"][1:] != index["shard"][:-1])
    is_apart: Mask = is_first | np.append(True, begin[1:] >= end[:-1])
    if is_apart.all() and len(np.unique(index["shard"][is_first])) == np.count_nonzero(is_first):
        return is_apart  # as they are written
    shard_N = np.unique(index["shard"], return_inverse=True)[1]
    order = np.lexsort((begin, shard_N))
    is_apart[order[0]] = True
    is_apart[order[1:]] = (shard_N[order[1:]] != shard_N[order[:-1]]) | (begin[order[1:]] >= end[order[:-1]])
    return is_apart
