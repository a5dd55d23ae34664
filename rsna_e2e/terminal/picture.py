"""Pictures for terminals: a slice with heatmaps over it, and what each cell of a terminal shows of it."""

# H, W rows and columns of a picture

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.records import BoolImage, Float32Array
from rsna_e2e.evaluation.explain import coloured

Bytes = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]  # red, green, blue, 0 to 255

# Of models, in their order, again from the first after the last. Orange, sky blue, bluish green, yellow, reddish purple
# of M. Okabe and K. Ito's palette, which people with any form of colour blindness tell apart.
MODEL_COLOURS: tuple[tuple[str, Colour], ...] = (
    ("orange", (230, 159, 0)),
    ("sky blue", (86, 180, 233)),
    ("green", (0, 158, 115)),
    ("yellow", (240, 228, 66)),
    ("purple", (204, 121, 167)),
)
_RED = np.array([1.0, 0.0, 0.0], dtype=np.float32)  # of the mean
_OPACITY = 0.6  # of its highest value
_HALF = 0.5  # of its highest value: where the outline of a model's map runs
_SHADES = " .:-=+*#%@"  # from black to white, where there is no colour


def model_colour(number: int) -> tuple[str, Colour]:
    """Return the colour of a model, counted from 0, and what it is called."""
    return MODEL_COLOURS[number % len(MODEL_COLOURS)]


def plain_picture(grey_HW: Float32Array) -> Float32Array:
    """Return a grey picture of values in [0, 1] as [H, W, 3]."""
    return np.repeat(grey_HW[..., None], 3, axis=2)


def mapped_picture(grey_HW: Float32Array, share_HW: Float32Array) -> Float32Array:
    """Return a grey picture with the heatmap of one model over it [H, W, 3]; share_HW: of its brightest value."""
    return coloured(grey_HW, share_HW, brightest=1.0)


def overlay(grey_HW: Float32Array, shares: Sequence[Float32Array]) -> Float32Array:
    """Return a grey picture with the mean heatmap of all models in red, and the outline of each in its colour, around
    where it is at least half as bright as at its brightest [H, W, 3]. shares: of each model [H, W], 0 to 1."""
    mean_HW1 = np.mean(shares, axis=0)[..., None]
    picture: Float32Array = plain_picture(grey_HW) * (1 - _OPACITY * mean_HW1) + _RED * _OPACITY * mean_HW1
    for number, share_HW in enumerate(shares):
        picture[outline(share_HW >= _HALF)] = np.array(model_colour(number)[1], dtype=np.float32) / 255
    return picture.astype(np.float32)


def outline(region_HW: BoolImage) -> BoolImage:
    """Return the pixels of a region that have a neighbour above, below, left or right outside of it, or none there."""
    around = np.pad(region_HW, 1)
    inner = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    found: BoolImage = region_HW & ~inner
    return found


def half_blocks(picture_HW3: Float32Array) -> tuple[Bytes, Bytes]:
    """Return the colours [H / 2, W, 3] of the upper and of the lower half of each cell, for `▀` in the upper colour on
    the lower one. H is even; values in [0, 1] become 0 to 255."""
    assert picture_HW3.shape[0] % 2 == 0
    values: Bytes = np.rint(255 * np.clip(picture_HW3, 0, 1)).astype(np.uint8)
    return values[0::2], values[1::2]


def shaded(grey_HW: Float32Array, share_HW: Float32Array | None = None) -> list[str]:
    """Return a picture as H / 2 lines of W characters, for terminals without colours: the brighter a cell, the fuller
    its character; where a heatmap is at least half as bright as at its brightest, its tenths, 5 to 9."""
    grey_hW = grey_HW.reshape(-1, 2, grey_HW.shape[1]).mean(axis=1)
    shades = np.array(list(_SHADES))[np.rint(grey_hW * (len(_SHADES) - 1)).astype(np.int64)]
    if share_HW is not None:
        share_hW = share_HW.reshape(-1, 2, share_HW.shape[1]).max(axis=1)
        tenths = np.clip((10 * share_hW).astype(np.int64), 0, 9)
        shades = np.where(share_hW >= _HALF, tenths.astype(str), shades)
    return ["".join(line) for line in shades]
