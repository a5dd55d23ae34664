"""Contact sheets: slices from end to end of a few series drawn by a seed, in the windows of the task; radiographs."""

from typing import Any

import numpy as np

from rsna_e2e.core.records import Float32Array
from rsna_e2e.evaluation.inspection.slices import Rows, Slices
from rsna_e2e.evaluation.report.boxes import picture_with_boxes
from rsna_e2e.evaluation.report.theme import data_uri
from rsna_e2e.evaluation.report.thumbnails import fitted, jpeg, windowed
from rsna_e2e.loader.present import shown_slice
from rsna_e2e.store import Store
from rsna_e2e.tasks.windows import named_windows

N_POSITIVE, N_NEGATIVE = 4, 2
N_SHOWN = 8
SIDE = 128
N_RADIOGRAPHS = 6  # with the headline label, and as many without
RADIOGRAPH_SIDE = 256


def contact_sheets(slices: Slices, store: Store, *, seed: int) -> list[dict[str, Any]]:
    """Return the series to show: positive and negative ones drawn by `seed`, or any where there are no labels."""
    return [_sheet(slices, store, series) for series in _choose(slices, seed, (N_POSITIVE, N_NEGATIVE))]


def radiographs(slices: Slices, store: Store, *, seed: int) -> list[dict[str, Any]]:
    """Return radiographs to show, as they are presented and with their boxes: with and without the headline label."""
    chosen = _choose(slices, seed, (N_RADIOGRAPHS, N_RADIOGRAPHS))
    return [_radiograph(slices, store, int(slices.first[series])) for series in chosen]


def _radiograph(slices: Slices, store: Store, row: int) -> dict[str, Any]:
    window = next(iter(named_windows(slices.task).values()))
    values = shown_slice(store, row)
    picture: Float32Array = windowed(values, [window], side=RADIOGRAPH_SIDE)[0]
    names, is_positive_L = slices.task.slices.names, np.nan_to_num(slices.labels[row]) > 0
    age_y = float(slices["age_y"][row])
    return {
        "name": slices["series_key"][row][:8],
        "uri": picture_with_boxes(
            picture,
            fitted(*values.shape, side=RADIOGRAPH_SIDE),
            truth=slices.box_edges[slices.box_rows == row],
        ),
        "facts": [slices["view"][row], slices["sex"][row], "" if np.isnan(age_y) else f"{age_y:.0f} y"],
        "labels": [names[i] for i in np.flatnonzero(is_positive_L)],
        "is_known": bool((~np.isnan(slices.labels[row])).any()),
        "is_positive": bool(is_positive_L[slices.task.headline_index]),
    }


def _choose(slices: Slices, seed: int, n_shown: tuple[int, int]) -> list[int]:
    """Positive and negative series, so many of each."""
    rng = np.random.default_rng(seed)
    headline_N = np.nan_to_num(slices.labels[:, slices.task.headline_index]) > 0
    n_positive_S = slices.per_series(headline_N)
    chosen: list[int] = []
    for is_such_S, n in zip((n_positive_S > 0, n_positive_S == 0), n_shown, strict=True):
        # those of few slices last: they show little
        candidates = rng.permutation(np.flatnonzero(is_such_S & (slices.lengths >= min(N_SHOWN, slices.lengths.max()))))
        others = rng.permutation(np.flatnonzero(is_such_S))
        ordered = dict.fromkeys([*candidates.tolist(), *others.tolist()])
        chosen += list(ordered)[:n]
    return chosen


def _sheet(slices: Slices, store: Store, series: int) -> dict[str, Any]:
    first, n = int(slices.first[series]), int(slices.lengths[series])
    labels_TL = np.nan_to_num(slices.labels[first : first + n]) > 0
    is_known = bool((~np.isnan(slices.labels[first : first + n])).any())
    headline = slices.task.headline_index
    names, windows_hu = slices.task.slices.names, tuple(named_windows(slices.task).values())
    images = []
    for place in _shown(labels_TL[:, headline]).tolist():
        picture_CSS = windowed(store.read_slice(first + place), windows_hu, side=SIDE)
        images.append(
            {
                "uri": data_uri("image/jpeg", jpeg(picture_CSS.reshape(-1, SIDE))),
                "position_mm": float(slices["position_mm"][first + place]),
                "others": [names[i] for i in np.flatnonzero(labels_TL[place]) if i != headline],
                "is_positive": bool(labels_TL[place, headline]),
            }
        )
    return {
        "name": slices["series_key"][first][:8],
        "n_slices": n,
        "n_positive": int(labels_TL[:, headline].sum()),
        "is_known": is_known,
        "images": images,
    }


def _shown(is_positive_T: Any) -> Rows:
    """Evenly spaced slices from end to end; among them the middle one of the positive slices."""
    places = np.unique(np.linspace(0, len(is_positive_T) - 1, N_SHOWN).round().astype(np.int64))
    positive = np.flatnonzero(is_positive_T)
    if len(positive) and not is_positive_T[places].any():
        middle = positive[len(positive) // 2]
        places[np.abs(places - middle).argmin()] = middle
    return places
