"""Draws how a chest is scanned: field of view, slices, direction, the patient's pose."""

import numpy as np

from rsna_e2e.tools.synth.chest.patient import Chest
from rsna_e2e.tools.synth.common.series import COLUMNS, ROWS, Series, rotation_matrix

FIELD_OF_VIEW_MM = (330.0, 420.0)
THIN_MM = (1.0, 1.25, 1.25, 1.5, 2.0, 2.5)  # thicknesses in use
THICK_MM = 3.0
MIN_SLICES, MAX_SLICES = 100, 300
MIN_THICK_SLICES, MAX_THICK_SLICES = 80, 100
TOP_MM = (62.0, 122.0)  # above the carina, canonical; varied, so that the place in a series tells little
LENGTH_MM = (215.0, 285.0)


def draw_series(rng: np.random.Generator, chest: Chest, *, is_thick: bool) -> Series:
    """Draw one acquisition of `chest`; every number that goes into the file is rounded before it is used."""
    rotation = rotation_matrix(*(float(np.radians(v)) for v in rng.normal(0.0, (2.5, 1.5, 2.0))))
    width = 320.0 * chest.scale[0] + 1.4 * chest.fat_mm
    spacing = round(float(np.clip(width * rng.normal(1.04, 0.05), *FIELD_OF_VIEW_MM)) / COLUMNS, 6)
    length = float(rng.uniform(*LENGTH_MM)) * chest.scale[2]
    thickness = THICK_MM if is_thick else float(rng.choice(THIN_MM))
    limits = (MIN_THICK_SLICES, MAX_THICK_SLICES) if is_thick else (MIN_SLICES, MAX_SLICES)
    n = int(np.clip(np.ceil(length / thickness), *limits))
    centre = tuple(round(float(v), 3) for v in rng.normal((0.0, 0.0, 0.0), (6.0, 6.0, 1.0)))
    table_z = round(float(rng.uniform(-900.0, 400.0)), 3)
    top = table_z + float(rng.uniform(*TOP_MM)) * chest.scale[2]
    heights = np.round(top - thickness * np.arange(n), 3)
    if rng.random() < 0.5:
        heights = heights[::-1]
    half = 0.5 * (COLUMNS - 1) * spacing
    origins = np.stack([np.full(n, -half), np.full(n, -0.5 * (ROWS - 1) * spacing), heights], axis=1)
    origins += np.array([rng.normal(0.0, 4.0), rng.normal(8.0, 4.0), 0.0])
    back = 109.0 + 0.6 * chest.muscle_mm + chest.fat_mm
    return Series(
        spacing_mm=spacing,
        thickness_mm=thickness,
        row_direction=(1.0, 0.0, 0.0),
        column_direction=(0.0, 1.0, 0.0),
        origins_mm=np.round(origins, 3),
        rotation=rotation,
        centre_mm=(centre[0], centre[1], table_z + centre[2]),
        table_y_mm=round(chest.scale[1] * back + centre[1] + 2.0, 3),
    )
