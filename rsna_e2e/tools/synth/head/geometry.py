"""Draws how a head is scanned: field of view, spacing, gantry tilt, the patient's pose; and says what lies where."""

# S sub-planes of a slice, a x b fine pixels (half the file's resolution)

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tools.synth.common.series import COLUMNS, ROWS, Series, rotation_matrix
from rsna_e2e.tools.synth.common.shapes import Points
from rsna_e2e.tools.synth.head.patient import Head

FineGrid = npt.NDArray[np.int64]

MIN_SLICES = 24
MAX_SLICES = 60
BELOW_MM = (44.0, 60.0)  # of the canonical head that is taken under the commissures, from base to foramen magnum
ABOVE_MM = 89.0
HEAD_MM = 200.0  # from forehead to back, canonical


def draw_series(rng: np.random.Generator, head: Head) -> Series:
    """Draw one acquisition of `head`; every number that goes into the file is rounded before it is used."""
    tilted = rng.random() < 0.3
    tilt = round(float(np.radians(rng.uniform(5.0, 22.0))), 4) if tilted else 0.0
    # cos and sin as a file holds them: the competition's data has e.g. (1, 0, 0, 0, .968, -.250)
    cos, sin = round(float(np.cos(tilt)), 6), round(float(np.sin(tilt)), 6)
    lean = np.radians(rng.normal(6.0, 5.0)) - tilt  # planes rise towards the forehead, as the orbitomeatal line does
    rotation = rotation_matrix(
        float(np.radians(rng.normal(0.0, 4.0))), float(np.radians(rng.normal(0.0, 2.5))), float(lean)
    )
    # the competition's data has 0.479 mm on average; never so little that the vault would not fit
    spacing = round(float(np.clip(rng.normal(0.479, 0.03), (HEAD_MM * head.scale[1] + 18.0) / ROWS, 0.56)), 6)
    below = rng.uniform(*BELOW_MM) * head.scale[2]
    length = below + ABOVE_MM * head.scale[2]
    thickness = max(float(rng.choice((2.5, 3.0, 4.0, 5.0, 5.0, 5.0))), float(np.ceil(length / MAX_SLICES * 4.0) / 4.0))
    n = int(np.clip(np.ceil(length / thickness), MIN_SLICES, MAX_SLICES))
    step = thickness / cos  # the table moves along z, whichever way the gantry leans
    centre = tuple(round(float(v), 3) for v in rng.normal((0.0, 0.0, 0.0), (5.0, 5.0, 1.0)))
    table_z = round(float(rng.uniform(-400.0, 900.0)), 3)
    start = table_z - below / cos + step * rng.uniform(0.0, 1.0)
    heights = np.round(start + step * np.arange(n), 3)
    if rng.random() < 0.5:
        heights = heights[::-1]
    half = 0.5 * (COLUMNS - 1) * spacing
    # a tilted plane meets the head's axis at z = height + sin * half field of view in front of its first row
    origins = np.stack([np.full(n, -half), np.full(n, -half * cos), heights + sin * half], axis=1)
    origins += np.array([rng.normal(0.0, 2.0), rng.normal(4.0, 3.0), 0.0])
    return Series(
        spacing_mm=spacing,
        thickness_mm=thickness,
        row_direction=(1.0, 0.0, 0.0),
        column_direction=(0.0, cos, 0.0 - sin),
        origins_mm=np.round(origins, 3),
        rotation=rotation,
        centre_mm=(centre[0], centre[1], table_z + centre[2]),
        table_y_mm=round(float(head.scale[1] * rng.uniform(98.0, 106.0) + centre[1]), 3),
    )


def places(series: Series, k: int, rows: FineGrid, columns: FineGrid, offsets: Float64Array) -> Points:
    """Head-frame places [S, a, b] of samples at fine pixels `rows` [a] and `columns` [b] of each sub-plane."""
    # fine pixel i covers the file's pixels 2 i and 2 i + 1, whose common centre is at 2 i + 1/2
    v, u = ((2.0 * pixels + 0.5) * series.spacing_mm for pixels in (rows, columns))
    to_head = series.rotation.T
    start = to_head @ (series.origins_mm[k] - np.array(series.centre_mm))
    along_u, along_v = to_head @ np.array(series.row_direction), to_head @ np.array(series.column_direction)
    along_w = to_head @ series.normal
    xyz = [
        (start[i] + along_w[i] * offsets[:, None, None] + along_v[i] * v[:, None] + along_u[i] * u).astype(np.float32)
        for i in range(3)
    ]
    return Points(*xyz)
