"""Who is X-rayed, and how they stand or lie: the numbers by which one patient's radiograph differs from others'."""

from dataclasses import dataclass, replace

import numpy as np

from rsna_e2e.tools.synth.chest.organs import Heart
from rsna_e2e.tools.synth.chest.patient import Chest, draw_chest
from rsna_e2e.tools.synth.common.shapes import Point

SHOULDER: Point = (172.0, 10.0, 70.0)  # middle of the left joint
CT_DOME_MM = -94.0  # where the heart of `organs` rests on the diaphragm
MIDDLE_AGE_Y = {"PA": 47.0, "AP": 54.0}  # those who cannot stand are older on the whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """One patient. lung_density: of water's, without the vessels that are drawn; tilt_rad: yaw, roll and pitch.

    fall_mm: how far the diaphragm falls towards the wall. heart_width: of that of `organs`. vessel_scale: of the radii
    of vessels. left_lower_mm: by which the left dome of the diaphragm stands lower. bubble_mm: half the width and the
    height of the gas in the stomach.
    """

    sex: str
    age_y: int
    chest: Chest
    heart: Heart
    lung_density: float
    fall_mm: float
    heart_width: float
    vessel_scale: float
    left_lower_mm: float
    bubble_mm: tuple[float, float]
    is_upright: bool
    tilt_rad: tuple[float, float, float]
    centre_mm: tuple[float, float, float]

    @property
    def elbow(self) -> Point:
        """Where the left arm ends: for PA the hands are on the hips, which turns the shoulder blades out."""
        return (250.0, -12.0, -130.0) if self.is_upright else (216.0, 14.0, -210.0)

    @property
    def stretch(self) -> float:
        """How much longer than in `organs` the heart is, which follows the diaphragm."""
        return float(np.clip(self.chest.dome_mm / CT_DOME_MM, 0.9, 1.25))


def draw_person(rng: np.random.Generator, view: str) -> Person:
    """Draw one patient: standing and breathing in for PA, lying and breathing in less for AP."""
    age = int(np.clip(round(rng.normal(MIDDLE_AGE_Y[view], 17.0)), 16, 97))
    sex = "M" if rng.random() < 0.57 else "F"
    chest = draw_chest(rng)
    smaller = 0.94 if sex == "F" else 1.01
    dome = rng.normal(-116.0, 7.0) if view == "PA" else rng.normal(-98.0, 9.0)
    years = max(age, 20) - 20
    chest = replace(
        chest,
        scale=(smaller * chest.scale[0], smaller * chest.scale[1], smaller * chest.scale[2]),
        bust_mm=float(rng.uniform(14.0, 40.0)) if sex == "F" else 0.0,
        dome_mm=float(dome),
        fat_mm=float(np.clip(rng.normal(12.0, 6.0), 3.0, 30.0)),
        aorta_scale=float(np.clip(0.84 + 0.0038 * years + rng.normal(0.0, 0.05), 0.78, 1.25)),
        has_calcified_aorta=bool(rng.random() < (age - 45.0) / 60.0),
        emphysema=0.0,
    )
    size = rng.normal(1.0, 0.05) * (1.0 if view == "PA" else 1.03)
    return Person(
        sex=sex,
        age_y=age,
        chest=chest,
        heart=Heart(rv_mm=0.85 * chest.lv_mm, lv_mm=chest.lv_mm, scale=float(np.clip(size, 0.88, 1.2))),
        lung_density=float(rng.uniform(0.10, 0.15) if view == "PA" else rng.uniform(0.13, 0.20)),
        fall_mm=float(rng.uniform(44.0, 60.0)),
        heart_width=float(np.clip(rng.normal(0.86, 0.05), 0.76, 0.98)) * (1.0 if view == "PA" else 1.03),
        vessel_scale=float(rng.normal(0.88, 0.05)),
        left_lower_mm=float(rng.uniform(7.0, 17.0)),
        bubble_mm=_draw_bubble(rng, view),
        is_upright=view == "PA",
        tilt_rad=_draw_tilt(rng, view),
        centre_mm=(float(rng.normal(0.0, 5.0)), 0.0, float(rng.normal(0.0, 6.0))),
    )


def _draw_bubble(rng: np.random.Generator, view: str) -> tuple[float, float]:
    """Of those who stand most show one; where the patient lies, it spreads before the stomach's content."""
    wide, high = rng.uniform((10.0, 6.0), (28.0, 20.0))
    smaller = 1.0 if view == "PA" else 0.7
    is_seen = rng.random() < (0.85 if view == "PA" else 0.4)
    return (smaller * float(wide), smaller * float(high)) if is_seen else (1.0, 1.0)


def _draw_tilt(rng: np.random.Generator, view: str) -> tuple[float, float, float]:
    """Turned about the long axis, leaning sideways, leaning back; those who lie are straightened less."""
    yaw, roll, pitch = np.radians(rng.normal(0.0, (2.0, 1.0, 2.0) if view == "PA" else (5.0, 2.5, 4.0)))
    return float(yaw), float(roll), float(pitch)


def changed(person: Person, others: tuple[str, ...], rng: np.random.Generator) -> Person:
    """What diseases do to the shape of the patient's organs; `others` are names as in `findings.OTHERS`."""
    chest = person.chest
    if "cardiomegaly" in others:
        person = replace(person, heart_width=person.heart_width * float(rng.uniform(1.2, 1.42)))
    if "hyperinflation" in others:
        person = replace(
            person, lung_density=0.6 * person.lung_density, fall_mm=float(rng.uniform(12.0, 24.0)),
            heart_width=0.85 * person.heart_width, vessel_scale=0.85 * person.vessel_scale,
            chest=replace(chest, dome_mm=chest.dome_mm - float(rng.uniform(18.0, 30.0))),
        )  # fmt: skip
    if "congestion" in others:
        person = replace(
            person, lung_density=person.lung_density + float(rng.uniform(0.05, 0.1)),
            vessel_scale=float(rng.uniform(1.18, 1.35)) * person.vessel_scale,
        )  # fmt: skip
    if "atelectasis" in others:
        person = replace(
            person, left_lower_mm=person.left_lower_mm + float(rng.choice([-1.0, 1.0])) * float(rng.uniform(0.0, 22.0))
        )
    return person
