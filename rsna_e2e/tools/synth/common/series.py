"""Geometry of a series: the place of every pixel, and of the patient in the scanner."""

# All positions in mm. World frame: the scanner's, LPS as in DICOM, x left, y back (down: the patient lies supine), z up
# the body. Body frame: that of the anatomy, of a head or a chest.

from dataclasses import dataclass

import numpy as np

from rsna_e2e.core.records import Float64Array

ROWS = 512
COLUMNS = 512
FINE = COLUMNS // 2  # pixels of the rendering grid; CT's own resolution is about two pixels of the file


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Geometry of one series: slice k's first pixel centre is `origins_mm[k]`, in the order of acquisition."""

    spacing_mm: float
    thickness_mm: float
    row_direction: tuple[float, float, float]
    column_direction: tuple[float, float, float]
    origins_mm: Float64Array  # [N, 3]
    rotation: Float64Array  # [3, 3], columns are the body frame's axes in the world
    centre_mm: tuple[float, float, float]  # origin of the body frame in the world
    table_y_mm: float

    @property
    def n_slices(self) -> int:
        """Number of slices."""
        return len(self.origins_mm)

    @property
    def normal(self) -> Float64Array:
        """Slice normal, from the row towards the column direction."""
        return np.cross(self.row_direction, self.column_direction)


def rotation_matrix(yaw: float, roll: float, pitch: float) -> Float64Array:
    """Rotation matrix: pitch about x, then roll about y, then yaw about z (radians)."""
    cz, sz, cy, sy, cx, sx = np.cos(yaw), np.sin(yaw), np.cos(roll), np.sin(roll), np.cos(pitch), np.sin(pitch)
    about_z = np.array([[cz, -sz, 0.0], [sz, cz, 0.0], [0.0, 0.0, 1.0]])
    about_y = np.array([[cy, 0.0, sy], [0.0, 1.0, 0.0], [-sy, 0.0, cy]])
    about_x = np.array([[1.0, 0.0, 0.0], [0.0, cx, -sx], [0.0, sx, cx]])
    return np.asarray(about_z @ about_y @ about_x)
