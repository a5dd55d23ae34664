"""Presentation of X-rays: the one place where stored values become grey as on a reading screen, bones white.

A table of 65,536 entries holds what becomes of every int16: the file's VOI LUT or window, inversion of MONOCHROME1, and
random brightness, contrast and gamma in training. It is applied to the values that were read, in place.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from rsna_e2e.config import AugmentConfig
from rsna_e2e.core.records import Column, Float64Array, Int16Array

WHITE = 32767  # of presented values, which begin at 0, black

_CACHED = 256  # tables of 128 kB
_BLOCK = 1 << 16  # values presented at a time: numpy makes indices of 8 bytes of them, which should stay in the cache
_STORED: Int16Array = np.arange(1 << 16, dtype=np.uint16).view(np.int16)


@dataclass(frozen=True, slots=True)
class VoiLut:
    """A table from grey to shares of white. values: uint16, little endian, of `first` and each grey after it.

    bits: of an entry, so that 2^bits - 1 is white. Greys before and after are as the first and last entry. Source:
    PS3.3 C.11.2.1.1.
    """

    first: int
    bits: int
    values: bytes

    def __call__(self, grey: Float64Array) -> Float64Array:
        entries = np.frombuffer(self.values, dtype="<u2")
        places = np.clip(grey - self.first, 0, len(entries) - 1).astype(np.int64)
        shares: Float64Array = entries[places] / (2.0**self.bits - 1)
        return shares


@dataclass(frozen=True, slots=True)
class Window:
    """A function from grey to shares of white, by its name in DICOM. Source: PS3.3 C.11.2.1.2 and C.11.2.1.3."""

    function: Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]
    center: float
    width: float

    def __call__(self, grey: Float64Array) -> Float64Array:
        if self.function == "SIGMOID":
            with np.errstate(over="ignore"):  # exp beyond float64 is black
                sigmoid: Float64Array = 1 / (1 + np.exp(-4 * (grey - self.center) / self.width))
            return sigmoid
        is_exact = self.function == "LINEAR_EXACT"
        center, width = (self.center, self.width) if is_exact else (self.center - 0.5, self.width - 1)
        if width <= 0:  # of LINEAR, whose width of 1 is a step
            return (grey > center).astype(np.float64)
        return (grey - center) / width + 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Presentation:
    """How one image is to be shown, by the columns of a store's index that are named so.

    Its grey is the stored value plus `value_offset`. window_center, window_width: None where the file has none.
    low_grey, high_grey: percentiles of the image, shown black and white where the file says nothing and has more than 8
    bits; with up to 8, all of their range is shown.
    """

    value_offset: int = 0
    photometric: str = "MONOCHROME2"
    voi_function: str = ""
    voi_lut: VoiLut | None = None
    window_center: float | None = None
    window_width: float | None = None
    bits_stored: int
    pixel_representation: int = 0
    low_grey: int
    high_grey: int

    @property
    def voi(self) -> VoiLut | Window:
        """What turns grey into shares of white, or of black for MONOCHROME1: the file's choice, or what shows all."""
        if self.voi_lut is not None:
            return self.voi_lut
        if self.window_center is not None and self.window_width is not None and self.window_width > 0:
            function = self.voi_function if self.voi_function in ("LINEAR_EXACT", "SIGMOID") else "LINEAR"
            return Window(function, self.window_center, self.window_width)  # type: ignore[arg-type]
        low, high = self.low_grey, self.high_grey
        if self.bits_stored <= 8:
            low = -(1 << self.bits_stored - 1) if self.pixel_representation else 0
            high = low + (1 << self.bits_stored) - 1
        return Window("LINEAR_EXACT", (low + high) / 2, max(high - low, 1))


class Jitter(NamedTuple):
    """A change of shares of white: raised to `gamma`, spread `contrast`-fold about the middle, and `brightness`
    added."""

    brightness: float = 0.0
    contrast: float = 1.0
    gamma: float = 1.0

    def of(self, shares: Float64Array) -> Float64Array:
        """Return shares that were changed, black and white being the ends."""
        changed = shares if self.gamma == 1 else shares**self.gamma
        return np.clip(self.contrast * (changed - 0.5) + 0.5 + self.brightness, 0, 1)


STILL = Jitter()


def draw_jitter(rng: np.random.Generator, config: AugmentConfig) -> Jitter:
    """Draw a change of grey; every draw takes three random values."""
    brightness, contrast, gamma = rng.uniform(-1.0, 1.0, 3).tolist()
    return Jitter(
        brightness * config.brightness_limit,
        1 + contrast * config.contrast_limit,
        (1 + config.gamma_limit) ** gamma,
    )


def presentation_table(image: Presentation, jitter: Jitter = STILL) -> Int16Array:
    """Return presented values [65536], 0 (black) to `WHITE`, of each stored int16, taken as uint16 for its place."""
    of_image = image.value_offset, image.voi, image.photometric == "MONOCHROME1"
    return _table(*of_image) if jitter == STILL else _as_int16(jitter.of(_shares(*of_image)))


def present(values: Int16Array, table: Int16Array) -> None:
    """Replace stored values, flat, by what a table makes of them."""
    places = values.view(np.uint16)
    for begin in range(0, len(values), _BLOCK):
        block = slice(begin, begin + _BLOCK)
        # any mode but the default writes to `out` without a copy; no place is outside of the table
        np.take(table, places[block], out=values[block], mode="clip")


def presentation_of(index: Mapping[str, Column], row: int, luts: Mapping[str, VoiLut]) -> Presentation:
    """Return how the image in a row of a store's index is to be shown. luts: by the sha256 in column voi_lut."""
    center, width = float(index["window_center"][row]), float(index["window_width"][row])
    has_window = not (np.isnan(center) or np.isnan(width))
    return Presentation(
        value_offset=int(index["value_offset"][row]),
        photometric=str(index["photometric"][row]),
        voi_function=str(index["voi_function"][row]),
        voi_lut=luts[index["voi_lut"][row]] if index["voi_lut"][row] else None,
        window_center=center if has_window else None,
        window_width=width if has_window else None,
        bits_stored=int(index["bits_stored"][row]),
        pixel_representation=int(index["pixel_representation"][row]),
        low_grey=int(index["low_grey"][row]),
        high_grey=int(index["high_grey"][row]),
    )


@lru_cache(_CACHED)
def _table(value_offset: int, voi: VoiLut | Window, is_inverted: bool) -> Int16Array:
    table = _as_int16(_shares(value_offset, voi, is_inverted))
    table.setflags(write=False)  # shared
    return table


def _shares(value_offset: int, voi: VoiLut | Window, is_inverted: bool) -> Float64Array:
    """Shares of white [65536], 0 to 1."""
    shares = np.clip(voi(_STORED.astype(np.float64) + value_offset), 0, 1)
    return 1 - shares if is_inverted else shares


def _as_int16(shares: Float64Array) -> Int16Array:
    return np.rint(WHITE * shares).astype(np.int16)
