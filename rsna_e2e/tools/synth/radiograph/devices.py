"""What was put on or into the patient, or beside them: electrodes, tubes, a pacemaker, the letter of a side."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tools.synth.chest.tubes import Layer, Tubes
from rsna_e2e.tools.synth.chest.vessels import OESOPHAGUS, SVC, TRACHEA
from rsna_e2e.tools.synth.radiograph.beam import Beam
from rsna_e2e.tools.synth.radiograph.patient import Person

BEDSIDE_RATE = 0.6  # of AP images that show any
PACEMAKER_RATE = {"PA": 0.03, "AP": 0.08}
METAL, OPAQUE_LINE = 14.0, 6.0  # density above flesh, of water's
LETTERS = {  # strokes in a square of 1
    "L": (((0.0, 1.0), (0.0, 0.0)), ((0.0, 0.0), (0.6, 0.0))),
    "R": (
        ((0.0, 0.0), (0.0, 1.0)), ((0.0, 1.0), (0.5, 1.0)), ((0.5, 1.0), (0.6, 0.76)), ((0.6, 0.76), (0.5, 0.5)),
        ((0.5, 0.5), (0.0, 0.5)), ((0.25, 0.5), (0.6, 0.0)),
    ),
}  # fmt: skip
NO_TUBES = Tubes.along([(0.0, 0.0, 0.0), (0.0, 1.0, 0.0)], 1.0, Layer.SOFT).at(np.zeros(0, np.int64))


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """Tubes in the canonical chest with the density of each, corners [n, 3] of a metal box, the letter on the image."""

    names: tuple[str, ...]
    tubes: Tubes
    density: Float64Array
    box: Float64Array
    letter: str


def draw_devices(rng: np.random.Generator, person: Person, view: str) -> Devices:
    """Draw all devices of one image."""
    parts: dict[str, list[tuple[Tubes, float]]] = {}
    if view == "AP" and rng.random() < BEDSIDE_RATE:
        if rng.random() < 0.75:
            parts["leads"] = _leads(rng, person)
        if rng.random() < 0.4:
            parts["endotracheal tube"] = [_line([*_above(TRACHEA[0]), (0.0, -6.0, 42.0 + rng.normal(0.0, 8.0))], 0.9)]
        if rng.random() < 0.4:
            end = (48.0, -10.0, person.chest.dome_mm - 60.0)
            parts["gastric tube"] = [_line([*_above(OESOPHAGUS[0]), *OESOPHAGUS[0][1:], end], 0.8)]
        if rng.random() < 0.5:
            neck = [(-40.0, -18.0, 150.0), (-36.0, -26.0, 80.0)]
            parts["central line"] = [_line([*neck, *SVC[0][:3]], 0.8)]
        if not parts:
            parts["leads"] = _leads(rng, person)
    box = np.zeros((0, 3))
    if rng.random() < PACEMAKER_RATE[view]:
        parts["pacemaker"], box = _pacemaker(rng, person)
    pieces = [piece for found in parts.values() for piece in found]
    return Devices(
        names=tuple(parts),
        tubes=Tubes.join(NO_TUBES, *(tubes for tubes, _ in pieces)),
        density=np.concatenate([np.zeros(0), *(np.full(len(tubes), density) for tubes, density in pieces)]),
        box=box,
        letter=str(rng.choice(["L", "R", ""], p=[0.6, 0.25, 0.15])),
    )


def _above(points: tuple[tuple[int, int, int], ...]) -> list[tuple[float, float, float]]:
    """Where something that goes down from the neck comes from."""
    x, y, _ = points[0]
    return [(x + 2.0, y - 4.0, 240.0), (float(x), float(y), 130.0)]


def _line(points: list[tuple[float, float, float]], radius_mm: float) -> tuple[Tubes, float]:
    return Tubes.along(_smooth(points), radius_mm, Layer.SOFT), OPAQUE_LINE


def _leads(rng: np.random.Generator, person: Person) -> list[tuple[Tubes, float]]:
    """Electrodes on the skin of the front, each with a wire that leads to one side."""
    found = []
    side = 1.0 if rng.random() < 0.5 else -1.0
    front = -100.0 - person.chest.fat_mm
    places = [(-88.0, 62.0), (92.0, 60.0), (80.0, -96.0), (-90.0, -100.0), (30.0, -40.0)]
    for index in rng.permutation(len(places))[: int(rng.integers(3, 6))].tolist():
        x, z = rng.normal(places[index], 10.0)
        disc = Tubes.along([(x, front, z), (x, front + 1.0, z)], 9.0, Layer.SOFT)
        snap = Tubes.along([(x, front, z), (x, front + 2.0, z)], 3.2, Layer.SOFT)
        end = np.array([side * 150.0, front + 30.0, -230.0 + 40.0 * rng.random()])
        start = np.array([x, front - 2.0, z])
        t = np.linspace(0.0, 1.0, 14)[:, None]
        sag = np.array([rng.normal(0.0, 40.0), 0.0, rng.normal(0.0, 20.0)])
        wire = start + (end - start) * t + np.sin(np.pi * t) * sag + np.sin(2.0 * np.pi * t) * rng.normal(0.0, 14.0, 3)
        found += [(disc, 2.5), (snap, METAL), (Tubes.along(wire, 0.55, Layer.SOFT), 9.0)]
    return found


def _pacemaker(rng: np.random.Generator, person: Person) -> tuple[list[tuple[Tubes, float]], Float64Array]:
    """A lead through the superior vena cava to the right ventricle, and the corners of its box under the collarbone."""
    x, z = rng.normal((98.0, 40.0), 8.0)
    turn = np.linspace(0.0, 2.0 * np.pi, 33)[:-1]
    round_off = (np.abs(np.cos(turn)) ** 3.0 + np.abs(np.sin(turn)) ** 3.0) ** (-1.0 / 3.0)
    front = -88.0 - 0.5 * person.chest.fat_mm
    box = np.stack(
        [x + 23.0 * round_off * np.cos(turn), np.full(32, front), z + 19.0 * round_off * np.sin(turn)], axis=1
    )
    lead = [
        (x - 6.0, front, z + 17.0), (x - 26.0, front, z + 26.0), (50.0, -52.0, 66.0), (10.0, -44.0, 58.0),
        (-22.0, -36.0, 52.0), *SVC[0][1:], (-26.0, -22.0, -84.0), (-8.0, -32.0, -100.0), (18.0, -46.0, -105.0),
        (42.0, -52.0, -104.0),
    ]  # fmt: skip
    return [(Tubes.along(_smooth(lead), 0.9, Layer.SOFT), METAL)], box


def _smooth(points: Sequence[tuple[float, float, float]]) -> Float64Array:
    """A curve through points, as points [n, 3] close to each other."""
    at = np.array(points, np.float64)
    places = np.linspace(0.0, len(at) - 1.0, 8 * len(at))
    return np.asarray(CubicSpline(np.arange(len(at)), at)(places))


def strokes(letter: str, beam: Beam) -> Tubes:
    """The letter of the side, on the detector near the upper corner of that side; no tubes for an empty one."""
    size = 14.0
    side = 1.0 if letter == "L" else -1.0
    corner = (side * (0.5 * beam.columns * beam.pixel_mm - 22.0) - 0.3 * size, 0.5 * beam.rows * beam.pixel_mm - 34.0)
    lines = [
        Tubes.along(
            [(corner[0] + size * x + beam.x_mm, beam.detector_y_mm, corner[1] + size * z + beam.z_mm) for x, z in line],
            0.9,
            Layer.SOFT,
        )
        for line in LETTERS.get(letter, ())
    ]
    return Tubes.join(NO_TUBES, *lines)
