"""Pixel values of a data set: bits, rescale, windows, transfer syntaxes, repairs, extremes, and the HU histogram."""

# N slices, L labels

from collections.abc import Sequence
from typing import Any

import numpy as np

from rsna_e2e.core.records import Progress
from rsna_e2e.dicom.hounsfield import is_wrapped_12bit
from rsna_e2e.dicom.repairs import count_repairs
from rsna_e2e.evaluation.inspection.slices import Rows, Slices
from rsna_e2e.evaluation.inspection.tally import common
from rsna_e2e.loader.present import shown_slice
from rsna_e2e.store import Store

HISTOGRAM_HU = (-1100, 3100)  # air to dense metal; beyond it lie padding and errors
BIN_HU = 20
BIN_GREY = 512
N_EXTREME = 5

# Bounds in HU of what is commonly told apart: air, fat and the like, water to blood, contrast and bone.
TISSUES = (
    ("air", -32768, -200),
    ("fat and edges", -200, 0),
    ("water, soft tissue, blood", 0, 100),
    ("bone", 100, 32768),
)


def describe_values(slices: Slices) -> dict[str, Any]:
    """Describe pixel values by the columns of the index; without a store, counts that need pixels are absent."""
    return {
        "bits": _bits(slices),
        "slopes": common(slices["slope"]),
        "intercepts": common(slices["intercept"]),
        "windows": common(*(_shown(slices, name) for name in _windows_of(slices))),
        "syntaxes": common(slices["transfer_syntax_uid"], slices["decoder"]),
        "n_wrapped_12bit": _count_wrapped(slices),
        "n_burned_in": int(np.count_nonzero(slices["burned_in_annotation"] == "YES")),
        "burned_in_annotation": common(slices["burned_in_annotation"]),
        **(_of_pixels(slices) if slices.store else {}),
    }


def histogram(
    store: Store, rows: Rows, progress: Progress, *, windows_hu: Sequence[tuple[float, float]] = ()
) -> dict[str, Any]:
    """Count the HU of all pixels of these rows.

    windows_hu: (center, width) of windows in which mean and standard deviation of the pixels are told, from 0 to 1.
    """
    counts = _count(store, rows, progress, "HU histogram")
    low, high = (bound + (1 << 15) for bound in HISTOGRAM_HU)
    n = int(counts.sum())
    share = {name: float(counts[a + (1 << 15) : b + (1 << 15)].sum() / max(n, 1)) for name, a, b in TISSUES}
    return {
        "n_slices": len(rows),
        "n_pixels": n,
        "edges_hu": list(range(HISTOGRAM_HU[0], HISTOGRAM_HU[1] + 1, BIN_HU)),
        "counts": counts[low:high].reshape(-1, BIN_HU).sum(axis=1).tolist(),
        "n_below": int(counts[:low].sum()),
        "n_above": int(counts[high:].sum()),
        "tissue_shares": share,
        "windows": [_windowed(counts, center, width) for center, width in windows_hu],
    }


def grey_histogram(
    store: Store, rows: Rows, progress: Progress, *, windows: Sequence[tuple[float, float]] = ()
) -> dict[str, Any]:
    """Count the greys of all pixels of radiographs as they are shown, 0 (black) to 32767 (white).

    windows: as in `histogram`, of these greys.
    """
    counts = _count(store, rows, progress, "histogram of grey")[1 << 15 :]
    n = int(counts.sum())
    return {
        "n_slices": len(rows),
        "n_pixels": n,
        "edges": list(range(0, len(counts) + 1, BIN_GREY)),
        "counts": counts.reshape(-1, BIN_GREY).sum(axis=1).tolist(),
        "black_share": float(counts[0] / max(n, 1)),
        "white_share": float(counts[-1] / max(n, 1)),
        "windows": [_windowed(np.append(np.zeros(1 << 15), counts), center, width) for center, width in windows],
    }


def _count(store: Store, rows: Rows, progress: Progress, what: str) -> Rows:
    """Count each value [65536], from -32768 on, in slices read one after another, so memory does not grow with them."""
    counts = np.zeros(1 << 16, dtype=np.int64)
    for done, row in enumerate(rows.tolist(), start=1):
        values = shown_slice(store, row)
        counts += np.bincount(values.reshape(-1).view(np.uint16), minlength=len(counts))
        progress(done, len(rows), what)
    return np.roll(counts, 1 << 15)  # two's complement: index 0 is now -32768


def _windowed(counts: Rows, center_hu: float, width_hu: float) -> dict[str, Any]:
    """Return mean and standard deviation of pixels in a window (LINEAR_EXACT, PS3.3 C.11.2.1.3.2), from 0 to 1.

    counts: of each HU or grey, the lowest being -32768.
    """
    values = np.clip((np.arange(len(counts)) - (1 << 15) - center_hu) / width_hu + 0.5, 0, 1)
    n = max(int(counts.sum()), 1)
    mean = float(counts @ values / n)
    std = float(np.sqrt(counts @ (values - mean) ** 2 / n))
    return {"center_hu": center_hu, "width_hu": width_hu, "mean": mean, "std": std}


def _bits(slices: Slices) -> list[dict[str, Any]]:
    """Bits stored and pixel representation, with the prevalence of each label among slices that have it."""
    forms = slices.prevalence_by(slices["bits_stored"], slices["pixel_representation"])
    kinds = (one.pop("value") for one in forms)
    return [
        {"bits_stored": bits, "is_signed": representation == 1, **one}
        for (bits, representation), one in zip(kinds, forms, strict=True)
    ]


def _count_wrapped(slices: Slices) -> int:
    """Slices of 12 bits without sign and room for air: repaired in a store, to be repaired in raw files."""
    if slices.are_radiographs:
        return 0
    names = ("bits_stored", "pixel_representation", "slope", "intercept")
    return sum(
        one["n"]
        for one in common(*(slices[name] for name in names), at_most=len(slices))["values"]
        if is_wrapped_12bit(
            bits_stored=one["value"][0],
            is_signed=one["value"][1] == 1,
            slope=one["value"][2],
            intercept=one["value"][3],
        )
    )


def _of_pixels(slices: Slices) -> dict[str, Any]:
    repairs = count_repairs(slices["repair"].tolist())
    offset_N = slices["value_offset"] if slices.are_radiographs else 0  # to the grey in their files
    low_N, high_N = (slices[name].astype(np.int64) + offset_N for name in ("hu_min", "hu_max"))
    return {
        "repairs": [{"name": name, "n_slices": n} for name, n in repairs.items()],
        "pixels": [
            {"name": name, "n_pixels": int(slices[f"n_{name}"].sum()), "n_slices": int((slices[f"n_{name}"] > 0).sum())}
            for name in ("rounded", "saturated", "padding")
        ],
        "lowest": _extremes(slices, low_N, np.argsort(low_N, kind="stable")),
        "highest": _extremes(slices, high_N, np.argsort(-high_N, kind="stable")),
        "n_constant": int(np.count_nonzero(low_N == high_N)),
    }


def _extremes(slices: Slices, values_N: Rows, order: Rows) -> list[dict[str, Any]]:
    return [{**slices.place(row), "hu": int(values_N[row])} for row in order[:N_EXTREME].tolist()]


def _windows_of(slices: Slices) -> tuple[str, str]:
    """The columns of the file's window."""
    names = ("window_center", "window_width")
    return names if slices.are_radiographs else (f"{names[0]}_hu", f"{names[1]}_hu")


def _shown(slices: Slices, name: str) -> Any:
    """A column in which unknown values are equal to each other."""
    distinct, places = np.unique(slices[name], return_inverse=True)
    return np.array(["unknown" if np.isnan(value) else f"{value:g}" for value in distinct], dtype=object)[places]
