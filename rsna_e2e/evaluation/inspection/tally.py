"""Summaries of columns as plain numbers for JSON: distributions and most common values; None where unknown."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

N_BINS = 30
N_COMMON = 8

Numbers = npt.NDArray[Any]


def plain(value: Any) -> Any:
    """Return a number or text as JSON has it; None for NaN."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def distribution(values: Numbers, *, bins: int = N_BINS) -> dict[str, Any]:
    """Return count, unknown ones, extremes, median and a histogram of numbers; NaN is unknown.

    The histogram's edges are one more than its counts; both are empty where nothing varies.
    """
    known = values[np.isfinite(values.astype(np.float64))].astype(np.float64)
    found: dict[str, Any] = {"n": len(known), "n_unknown": len(values) - len(known)}
    if not len(known):
        return found | {"min": None, "median": None, "max": None, "mean": None, "edges": [], "counts": []}
    low, high = known.min(), known.max()
    found |= {"min": plain(low), "median": plain(np.median(known)), "max": plain(high), "mean": plain(known.mean())}
    if high - low <= 1e-6 * max(abs(high), abs(low)):  # the same, written with more or less digits
        return found | {"edges": [], "counts": []}
    counts, edges = np.histogram(known, bins=bins)
    return found | {"edges": edges.tolist(), "counts": counts.tolist()}


def whole_numbers(values: Numbers, *, at_most: int) -> dict[str, Any]:
    """Return a distribution of whole numbers from 0, one bin each; those above `at_most` share the last."""
    found = distribution(values, bins=1)
    if not len(values):
        return found
    counts = np.bincount(np.minimum(values.astype(np.int64), at_most))
    return found | {"edges": (np.arange(len(counts) + 1) - 0.5).tolist(), "counts": counts.tolist()}


def common(*columns: Numbers, at_most: int = N_COMMON) -> dict[str, Any]:
    """Return the most common values, or combinations of values of several columns, and how many there are in all."""
    n = len(columns[0])
    codes = np.zeros(n, dtype=np.int64)
    for column in columns:
        distinct, code = np.unique(column, return_inverse=True)
        codes = codes * max(len(distinct), 1) + code
        codes = np.unique(codes, return_inverse=True)[1]  # stay small
    _, first, counts = np.unique(codes, return_index=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:at_most]
    return {
        "n_distinct": len(counts),
        "values": [
            {
                "value": [plain(column[first[i]]) for column in columns],
                "n": int(counts[i]),
                "share": float(counts[i] / n),
            }
            for i in order
        ],
    }
