"""The content box of a slice: the smallest rectangle around all pixels that are content, or that windows show."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.records import Int16Image

Windows = Sequence[tuple[float, float]]
BoolArray = npt.NDArray[np.bool_]

# Content of a store: fat, at about -120 HU, and what is denser. It is where the windows of intracranial hemorrhage
# begin to show something, and the same for every task, so that one store serves all.
CONTENT_FROM_HU = -148


def content_threshold_hu(windows_hu: Windows) -> int:
    """Return the lowest integer HU that reaches grey level 1 in any window.

    windows_hu: (center, width) each. Grey level of a pixel is floor(255 * (hu - lower) / width) with
    lower = center - width / 2 (LINEAR_EXACT, PS3.3 C.11.2.1.3.2), so level 1 begins at lower + width / 255.
    """
    return min(math.ceil(center - width / 2 + width / 255) for center, width in windows_hu)


def content_box(hu: Int16Image, windows_hu: Windows) -> tuple[int, int, int, int] | None:
    """Return the bounding box (x0, y0, x1, y1), x1 and y1 exclusive, of what reaches grey level 1 in any window.

    hu: [H, W] int16 in HU. windows_hu: (center, width) each. None when nothing does (a slice of air).
    """
    return bounding_box(hu >= content_threshold_hu(windows_hu))


def bounding_box(is_content: BoolArray) -> tuple[int, int, int, int] | None:
    """Return x0, y0, x1, y1 (the last two exclusive) of what is true in [H, W]; None when nothing is."""
    (columns,) = np.nonzero(is_content.any(axis=0))
    (rows,) = np.nonzero(is_content.any(axis=1))
    if len(rows) == 0:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
