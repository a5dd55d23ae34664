"""The geometry of a radiograph: from a place in the patient to one on the detector.

World frame: LPS, mm, x to the patient's left, y to the back, z to the top. Seen along the beam: u to the patient's left
(to the right on the image), v up, both in the plane of the detector, and w along the ray, towards the back.
"""

from dataclasses import dataclass, replace

import numpy as np

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tools.synth.common.shapes import Field


@dataclass(frozen=True, slots=True, kw_only=True)
class Beam:
    """A point source, and a detector of `rows` x `columns` square pixels at right angles to the central ray.

    The detector lies at `detector_y_mm`, before the chest for PA, behind it for AP; the source `sid_mm` away on the
    other side. The central ray runs at (`x_mm`, `z_mm`) and meets the middle of the detector.
    """

    view: str
    sid_mm: float
    detector_y_mm: float
    x_mm: float
    z_mm: float
    pixel_mm: float
    rows: int
    columns: int

    def magnification(self, y: Field) -> Field:
        """How much larger than it is something at depth `y` (mm) appears on the detector."""
        return np.asarray(self.sid_mm / (self.sid_mm - np.abs(y - self.detector_y_mm)))

    def seen(self, points: Float64Array) -> Float64Array:
        """Places (u, v, w) [..., 3] of points [..., 3]: rays become parallel, and lengths grow by the magnification."""
        larger = self.magnification(points[..., 1])
        u, v = points[..., 0] - self.x_mm, points[..., 2] - self.z_mm
        return np.stack([u * larger, v * larger, points[..., 1] * larger], axis=-1)

    def halved(self) -> "Beam":
        """The same with pixels twice as large."""
        return replace(self, pixel_mm=2.0 * self.pixel_mm, rows=self.rows // 2, columns=self.columns // 2)

    @property
    def u_mm(self) -> Float64Array:
        """u of the columns' centres, from left to right on the image."""
        return np.asarray((np.arange(self.columns) - 0.5 * (self.columns - 1)) * self.pixel_mm)

    @property
    def v_mm(self) -> Float64Array:
        """v of the rows' centres, from top to bottom."""
        return np.asarray((0.5 * (self.rows - 1) - np.arange(self.rows)) * self.pixel_mm)
