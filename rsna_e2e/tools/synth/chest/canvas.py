"""A plane of pixels that organs are painted on, each only where it is."""

# a x b coarse samples of a distance field, h x w fine pixels of a window

from functools import lru_cache

import numpy as np

from rsna_e2e.core.records import Float32Array
from rsna_e2e.tools.synth.chest.tubes import Int64Array, Window
from rsna_e2e.tools.synth.common.resample import MARGIN, refine
from rsna_e2e.tools.synth.common.series import FINE
from rsna_e2e.tools.synth.common.shapes import Field, coverage

COARSE_STEP = 3  # fine pixels between the places where distances are computed
AIR_HU = -1000.0


@lru_cache(maxsize=1)
def coarse_pixels() -> Int64Array:
    """Fine pixels (rows or columns) at which distances are computed, with the margin that interpolation needs."""
    margin = MARGIN * COARSE_STEP
    return np.arange(-margin, -(-FINE // COARSE_STEP) * COARSE_STEP + margin, COARSE_STEP)


class Canvas:
    """An image in HU [FINE, FINE] that begins as air."""

    def __init__(self, pixel_mm: float) -> None:
        self.pixel_mm = pixel_mm
        self.hu: Float32Array = np.full((FINE, FINE), AIR_HU, np.float32)

    def paint(self, field: Field, value: float | Float32Array, *, width_mm: float = 0.0, strength: float = 1.0) -> None:
        """Blend `value` (HU, or an image of them [FINE, FINE]) over the inside of a coarse field.

        width_mm is that of the edge, at least a pixel's; strength is how much of what lies below is hidden.
        """
        width = max(width_mm, self.pixel_mm)
        found = near(field, 0.5 * width + 0.5 * self.pixel_mm)
        if found is not None:
            distance, window = found
            share = coverage(distance, width)
            if strength != 1.0:
                share *= np.float32(strength)
            self.blend(share, value, window)

    def blend(
        self, share: Float32Array, value: float | Float32Array, window: Window = (slice(None), slice(None))
    ) -> None:
        """Blend `value` over a share [h, w] of the pixels of a window."""
        hu = self.hu[window]
        hu += share * ((value if isinstance(value, float) else value[window]) - hu)


def _window(field: Field, reach: float) -> Window | None:
    """Coarse cells [rows, columns], without margin, that hold all places where the field is below `reach`."""
    inside = field < reach
    spans = []
    for axis in (1, 0):
        hits = np.flatnonzero(inside.any(axis=axis))
        if len(hits) == 0:
            return None
        n = field.shape[1 - axis] - 2 * MARGIN
        low, high = max(int(hits[0]) - MARGIN - 1, 0), min(int(hits[-1]) - MARGIN + 2, n)
        if low >= high:
            return None
        spans.append(slice(low, high))
    return spans[0], spans[1]


def near(field: Field, reach_mm: float) -> tuple[Float32Array, Window] | None:
    """Fine distances in the window [h, w] that holds all places below `reach_mm` of a coarse field; None if nowhere."""
    window = _window(field, reach_mm)
    if window is None:
        return None
    part = field[tuple(slice(s.start, s.stop + 2 * MARGIN) for s in window)]
    rows, columns = (slice(s.start * COARSE_STEP, min(s.stop * COARSE_STEP, FINE)) for s in window)
    fine = refine(part, COARSE_STEP)[: rows.stop - rows.start, : columns.stop - columns.start]
    return fine, (rows, columns)


def within(coarse: Field, window: Window) -> Float32Array:
    """Interpolate a coarse field to the fine pixels of a window that `near` gave."""
    part = coarse[tuple(slice(s.start // COARSE_STEP, -(-s.stop // COARSE_STEP) + 2 * MARGIN) for s in window)]
    return refine(part, COARSE_STEP)[: window[0].stop - window[0].start, : window[1].stop - window[1].start]
