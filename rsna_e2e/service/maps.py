"""Maps of what a model sees, as files from which one slice is read at a time."""

# T slices of a series, h, w sides of a map

from pathlib import Path

import numpy as np

from rsna_e2e.core.files import write_json
from rsna_e2e.inference.activation_maps import ActivationMaps, shares_of
from rsna_e2e.service.folders import HEATMAPS, heatmap_name
from rsna_e2e.serving.study_page import StudyMaps


def write_maps(maps: StudyMaps, folder: Path) -> None:
    """Write for each series and label the mean of its runs' maps, uint8 [T, h, w], and what HEATMAPS says of them.

    255 is the brightest of the series, and all above it. affine: of each slice six numbers a to f, from a cell at
    column x, row y, counted at centres from 0, to the slice's column a x + b y + c and row d x + e y + f. Of runs whose
    maps differ in size, or see other parts of a slice, the first is taken alone.
    """
    said: dict[str, dict[str, object]] = {}
    for (series, label), made in maps.items():
        first = made.of_runs[0]
        shares = [
            shares_of(one.maps, brightest)
            for one, brightest in zip(made.of_runs, made.brightest, strict=True)
            if _is_alike(one, first)
        ]
        values = (np.mean(shares, axis=0) * 255).round().astype(np.uint8)
        (folder / heatmap_name(series, label)).write_bytes(values.tobytes())
        said.setdefault(series, {})[label] = {
            "height": values.shape[1],
            "width": values.shape[2],
            "affine": [_to_slice(first, place) for place in range(len(values))],
        }
    write_json(folder / HEATMAPS, said)


def _is_alike(one: ActivationMaps, other: ActivationMaps) -> bool:
    return one.maps.shape == other.maps.shape and one.size == other.size and np.array_equal(one.affine, other.affine)


def _to_slice(one: ActivationMaps, place: int) -> list[float]:
    """Return the matrix from a cell of the map to a pixel of the slice, row after row."""
    height, width = one.maps.shape[1:]
    cell_33 = np.array(  # to a pixel of the network's image: cells share it evenly, and centres are at half of each
        [
            [one.size / width, 0, (one.size / width - 1) / 2],
            [0, one.size / height, (one.size / height - 1) / 2],
            [0, 0, 1],
        ]
    )
    return [float(value) for value in (one.affine[place].astype(np.float64) @ cell_33).ravel()]
