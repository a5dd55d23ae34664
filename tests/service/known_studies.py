"""Studies whose every pixel, map and probability is known, for tests of the pages that show them."""

# N slices, H, W rows and columns, L labels

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from rsna_e2e.tasks.ich import ICH

LABELS = list(ICH.slices.names)
SUBDURAL = LABELS.index("subdural")
MAP_SIDE = 16
MODEL = {"name": "ich-demo", "version": "1.0", "identity": "7d90aa51c2e4b603"}
XRAY_MODEL = {"name": "opacity-demo", "version": "0.2", "identity": "1b2c3d4e5f607182"}
HOSTILE = "<img src=x onerror=alert(1)>"
RIGHT_TO_LEFT = "\u202egnp.exe \u05d0\u05d1\u05d2"


@dataclass(kw_only=True)
class Series:
    """A series as the service gives it. pixels: int16 [N, H, W]; maps: uint8 [N, side, side] by label, each with its
    affine to the slice."""

    key: str
    pixels: npt.NDArray[np.int16]
    probability: npt.NDArray[np.float64]
    about: dict[str, Any]
    maps: dict[str, npt.NDArray[np.uint8]] = field(default_factory=dict)
    affine: tuple[float, ...] = ()
    boxes: list[dict[str, Any]] = field(default_factory=list)


def head(n: int, rows: int, columns: int, *, key: str, seed: int) -> Series:
    """A head of ellipses with blood below the skull on one side in the middle slices; two slices are missing."""
    rng = np.random.default_rng(seed)
    z, y, x = np.ogrid[-1 : 1 : n * 1j, -1.15 : 1.15 : rows * 1j, -1.25 : 1.25 : columns * 1j]  # type: ignore[misc]
    cap = np.sqrt(np.clip(1 - 0.72 * z**2, 0, 1))
    radius = np.sqrt((x / 0.86) ** 2 + y**2) / cap
    hu = np.where(radius < 0.99, 40.0, -1000.0)
    hu = np.where(radius < 0.95, 1100.0 - 300 * np.cos(9 * x), hu)
    brain = radius < 0.86
    hu = np.where(brain, np.where(radius > 0.72 + 0.03 * np.sin(30 * np.arctan2(y, x)), 38.0, 29.0), hu)
    ventricle = (((np.abs(x) - 0.14) / 0.09) ** 2 + ((y + 0.05 * z) / 0.3) ** 2 < 1) & (np.abs(z) < 0.45)
    hu = np.where(ventricle, 7.0, hu)
    blood = brain & (radius > 0.76) & (x > 0.25) & (np.abs(y) < 0.55) & (np.abs(z - 0.1) < 0.35)
    hu = np.where(blood, 68.0, hu)
    hu += rng.normal(0, 4, (n, rows, columns))
    hu[:, 0, :4] = [-32768, 32767, 0, 40]  # the ends of the range, and values in the middle of windows
    share = blood.reshape(n, -1).mean(axis=1) / blood.mean(axis=(1, 2)).max()
    probability = np.clip(rng.uniform(0.01, 0.12, (n, len(LABELS))), 0, 1)
    probability[:, SUBDURAL] = np.clip(0.04 + 0.92 * share, 0, 1)
    probability[:, LABELS.index("any")] = np.maximum(probability.max(axis=1), probability[:, SUBDURAL])
    place_mm = 5.0 * np.arange(n) + np.where(np.arange(n) > 27, 10.0, 0.0)
    cell = np.array([columns, rows]) / MAP_SIDE
    v, u = np.mgrid[:MAP_SIDE, :MAP_SIDE]
    spot = np.exp(-((u - 11.5) ** 2 + (v - 7) ** 2) / 3)
    about = {
        "spacing_mm": [0.5, 0.5],
        "place_mm": place_mm.tolist(),
        "row_direction": [1.0, 0.0, 0.0],
        "column_direction": [0.0, 0.966, -0.259],
        "windows": [
            {"name": "brain", "center": 40, "width": 80},
            {"name": "subdural", "center": 80, "width": 200},
            {"name": "soft", "center": 40, "width": 380},
            {"name": "bone", "center": 600, "width": 2800},
            {"name": "stroke", "center": 32, "width": 8},
        ],
        "flags": ["gaps in which 2 more slices would fit", "text burned into the pixels"],
        "values": "hu",
    }
    return Series(
        key=key,
        pixels=np.rint(hu).clip(-32768, 32767).astype("<i2"),
        probability=probability,
        about=about,
        maps={LABELS[SUBDURAL]: np.rint(255 * share[:, None, None] * spot).astype(np.uint8)},
        affine=(cell[0], 0.6, (cell[0] - 1) / 2 - 4, -0.6, cell[1], (cell[1] - 1) / 2 + 4),
    )


def stretched() -> Series:
    """A small series of pixels that are twice as high as wide, without places, windows, or anything found."""
    series = head(5, 64, 128, key="a51b00d200000002", seed=2)
    series.about |= {"spacing_mm": [1.0, 0.5], "place_mm": None, "flags": [], "windows": []}
    series.probability[:] = 0.02
    series.maps = {}
    return series


def chest() -> Series:
    """A radiograph with two boxes."""
    y, x = np.mgrid[-1:1:480j, -1:1:400j]  # type: ignore[misc]
    grey = 200 - 60 * np.abs(x) - 30 * y**2
    for side in (-0.45, 0.45):
        grey -= 120 * np.exp(-((((x - side) / 0.28) ** 2 + ((y + 0.05) / 0.6) ** 2) ** 2))
    grey += 15 * np.cos(26 * y + 6 * x**2) * (np.abs(x) < 0.85)
    grey += 60 * np.exp(-(((x + 0.45) / 0.16) ** 2 + ((y - 0.25) / 0.14) ** 2))
    boxes = [
        {"label": "opacity", "slice": 0, "x": 70.0, "y": 250.0, "width": 80.0, "height": 90.0, "score": 0.87},
        {"label": "opacity", "slice": 0, "x": 260.0, "y": 150.0, "width": 60.0, "height": 50.0, "score": 0.41},
        {"label": "opacity", "slice": 0, "x": 10.0, "y": 10.0, "width": 9.0, "height": 9.0, "score": 0.39},
    ]
    about = {
        "spacing_mm": None,
        "place_mm": None,
        "row_direction": None,
        "column_direction": None,
        "windows": [],
        "flags": [],
        "values": "grey",
    }
    pixels = np.rint(grey).clip(0, 255).astype("<i2")[None]
    return Series(key="c0ffee0000000001", pixels=pixels, probability=np.array([[0.87]]), about=about, boxes=boxes)


def series_json(series: Series) -> dict[str, Any]:
    n, rows, columns = series.pixels.shape
    size = {"height": MAP_SIDE, "width": MAP_SIDE}
    own = {"key": series.key, "n_slices": n, "rows": rows, "columns": columns}
    return own | series.about | {"heatmaps": dict.fromkeys(series.maps, size)}


def result_json(study: str, model: dict[str, str], labels: list[str], all_series: list[Series]) -> dict[str, Any]:
    """The result of a study, with the key slices that rise above a threshold of 0.4."""
    found = []
    for column, name in enumerate(labels):
        ranked = sorted(
            (-float(p), one.key, place) for one in all_series for place, p in enumerate(one.probability[:, column])
        )
        keys = [each for each in ranked if each[0] <= -0.4][:6] or ranked[:1]
        found.append(
            {
                "name": name,
                "level": "slices",
                "probability": -ranked[0][0],
                "threshold": 0.4,
                "is_learned": True,
                "above": ranked[0][0] <= -0.4,
                "key_slices": [{"series": key, "place": place} for _, key, place in keys],
            }
        )
    best = max(found, key=lambda label: label["probability"])
    return {
        "schema_name": "rsna_e2e.result/1",
        "study": study,
        "task": ICH.name,
        "model": model,
        "research_only": True,
        "sentence": f"Above threshold: {best['name']} (probability {best['probability']:.2f}). "
        "Research use only, not for diagnosis.",
        "labels": found,
        "series": [
            {
                "key": one.key,
                "n_slices": len(one.pixels),
                "place_mm": one.about["place_mm"] or [None] * len(one.pixels),
                "images": [f"image-{place}" for place in range(len(one.pixels))],
                "probability": one.probability.tolist(),
                "boxes": one.boxes,
            }
            for one in all_series
        ],
    }
