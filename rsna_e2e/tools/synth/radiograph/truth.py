"""Labels of a radiograph: measured from what opacities add to it, not drawn."""

# h x w pixels of the rendering grid, K boxes

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from rsna_e2e.core.records import Float32Array
from rsna_e2e.tools.synth.radiograph.detector import signal_of
from rsna_e2e.tools.synth.radiograph.findings import Findings
from rsna_e2e.tools.synth.radiograph.render import Rendering
from rsna_e2e.tools.synth.radiograph.scene import Scene

# An opacity is called visible where it takes at least MIN_CONTRAST of the photons that arrive, scattered ones included,
# and at least MIN_NOISE standard deviations of their number on 1 mm2; boxes enclose what hangs together of it, on
# MIN_CM2 at least. 4 % is less than a rib takes; 4 cm2 is a spot of 2.3 cm.
MIN_CONTRAST = 0.04
MIN_NOISE = 3.0
MIN_CM2 = 4.0
NORMAL, OTHER, OPACITY = "Normal", "No Lung Opacity / Not Normal", "Lung Opacity"  # the competition's classes
Box = tuple[int, int, int, int]  # x, y, width, height in pixels of the file


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """The class of an image, and boxes of its opacities."""

    name: str
    boxes: tuple[Box, ...]


def visible(path: Float32Array, added: Float32Array, scatter: Float32Array, *, photons: float) -> npt.NDArray[np.bool_]:
    """Where opacities are visible [h, w]. path: line integrals with them; photons: per mm2 of the open beam."""
    after = signal_of(path, scatter)
    before = signal_of(path - added, scatter)
    lost = before - after
    return np.asarray((lost >= MIN_CONTRAST * before) & (lost >= MIN_NOISE * np.sqrt(before / np.float32(photons))))


def boxes_of(mask: npt.NDArray[np.bool_], pixel_mm: float, shape: tuple[int, int]) -> tuple[Box, ...]:
    """Boxes around the parts of a mask [h, w] that are large enough, in pixels of a file of `shape`, largest first."""
    parts, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    found = []
    for part, (rows, columns) in enumerate(ndimage.find_objects(parts), start=1):
        area = int(np.count_nonzero(parts[rows, columns] == part))
        if area * pixel_mm**2 >= 100.0 * MIN_CM2:
            found.append((area, rows, columns))
    found.sort(key=lambda one: -one[0])
    return tuple(
        _box(rows, columns, (shape[0] / mask.shape[0], shape[1] / mask.shape[1])) for _, rows, columns in found
    )


def _box(rows: slice, columns: slice, larger: tuple[float, float]) -> Box:
    """Whole pixels of the file that hold those of the mask."""
    y, x = int(rows.start * larger[0]), int(columns.start * larger[1])
    return x, y, int(np.ceil(columns.stop * larger[1])) - x, int(np.ceil(rows.stop * larger[0])) - y


def labels_of(scene: Scene, rendering: Rendering, scatter: Float32Array, shape: tuple[int, int]) -> Labels:
    """Labels of an image of `shape`: an opacity that nobody can see makes no opacity, but no normal image either."""
    photons = scene.exposure.photons
    boxes = boxes_of(visible(rendering.path, rendering.added, scatter, photons=photons), scene.beam.pixel_mm, shape)
    return Labels(name=OPACITY if boxes else class_without(scene.findings), boxes=boxes)


def class_without(findings: Findings) -> str:
    """Class of an image on which no opacity is visible."""
    return OTHER if findings.others or findings.opacities else NORMAL
