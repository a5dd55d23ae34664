"""Presentation of X-rays: the one place where stored values become grey as on a reading screen, bones white.

A table of 65,536 entries holds what becomes of every int16: the file's VOI LUT or window, inversion of MONOCHROME1, and
random brightness, contrast and gamma in training. It is applied to the values that were read, in place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from rsna_e2e.config import AugmentConfig
from rsna_e2e.core.errors import UsageError
from rsna_e2e.core.records import Float64Array, Int16Array, Int16Image, Presentation, VoiLut
from rsna_e2e.store import Store
from rsna_e2e.tasks.task import Task

WHITE = 32767  # of presented values, which begin at 0, black

_WHAT = {"hu": "Hounsfield units of CT", "grey": "radiographs"}
_CACHED = 256  # tables of 128 kB
_BLOCK = 1 << 16  # values presented at a time: numpy makes indices of 8 bytes of them, which should stay in the cache


class Jitter(NamedTuple):
    """A change of shares of white: raised to `gamma`, spread `contrast`-fold about the middle, and `brightness`
    added."""

    brightness: float = 0.0
    contrast: float = 1.0
    gamma: float = 1.0

    def of(self, shares: Float64Array) -> Float64Array:
        """Return changed shares, black and white being the ends."""
        if self == STILL:
            return shares
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


def presentation_table(
    image: Presentation, luts: Mapping[str, VoiLut] = MappingProxyType({}), jitter: Jitter = STILL
) -> Int16Array:
    """Return presented values [65536], 0 (black) to `WHITE`, of each stored int16, taken as uint16 for its place.

    The file's LUT or window counts; without one, all greys of up to 8 bits are shown, and of more those from
    `low_grey` to `high_grey`. Padding is black. luts: by their sha256.
    """
    curve = _Curve(
        _ends(image),
        image.value_offset,
        (image.slope, image.intercept),
        _Lut(image.voi_lut, luts[image.voi_lut]) if image.voi_lut else _window(image),
        image.photometric == "MONOCHROME1",
        (image.padding_low, image.padding_high),
    )
    return _table(curve) if jitter == STILL else curve.table(jitter)


def present(values: Int16Array, table: Int16Array) -> None:
    """Replace stored values, flat, by what a table makes of them."""
    places = values.view(np.uint16)
    for begin in range(0, len(values), _BLOCK):
        block = slice(begin, begin + _BLOCK)
        # any mode but the default writes to `out` without a copy; no place is outside of the table
        np.take(table, places[block], out=values[block], mode="clip")


def read_shown(store: Store, rows: Sequence[int], values: Int16Array, jitters: Sequence[Jitter]) -> None:
    """Read slices one after another into `values`, flat, as `Store.read_slices` does: HU, or radiographs presented.

    jitters: one for each row.
    """
    store.read_slices(rows, values)
    if store.values == "grey":
        end = 0
        for row, jitter in zip(rows, jitters, strict=True):
            start, end = end, end + int(store.index["rows"][row]) * int(store.index["columns"][row])
            present(values[start:end], presentation_table(store.presentation(row), store.luts, jitter))


def shown_slice(store: Store, row: int) -> Int16Image:
    """Return one row of the index [rows, columns]: HU, or a radiograph presented. Raises StoreError for damage."""
    values = store.read_slice(row)
    if store.values == "grey":
        present(values.reshape(-1), presentation_table(store.presentation(row), store.luts))
    return values


def check_values(store: Store, task: Task) -> None:
    """Raise UsageError where a store holds no images of the kind that a task is for."""
    if store.values != task.inputs.values:
        raise UsageError(
            f"{store.path}: holds {_WHAT[store.values]}, and task {task.name} is for {_WHAT[task.inputs.values]}. "
            "Give a store of such, or another task"
        )


@dataclass(frozen=True, slots=True)
class _Window:
    """A function from values to shares of white. Source: PS3.3 C.11.2.1.2 and C.11.2.1.3."""

    function: str
    center: float
    width: float

    def __call__(self, values: Float64Array) -> Float64Array:
        if self.function == "SIGMOID":
            with np.errstate(over="ignore"):  # exp beyond float64 is black
                sigmoid: Float64Array = 1 / (1 + np.exp(-4 * (values - self.center) / self.width))
            return sigmoid
        is_exact = self.function == "LINEAR_EXACT"
        center, width = (self.center, self.width) if is_exact else (self.center - 0.5, self.width - 1)
        if width <= 0:  # of LINEAR, whose width of 1 is a step
            return (values > center).astype(np.float64)
        return (values - center) / width + 0.5


@dataclass(frozen=True, slots=True)
class _Lut:
    """A table from values to shares of white, known by its sha256. Source: PS3.3 C.11.2.1.1."""

    sha256: str
    lut: VoiLut = field(compare=False)

    def __call__(self, values: Float64Array) -> Float64Array:
        entries = self.lut.entries
        places = np.clip(np.rint(values) - self.lut.first, 0, len(entries) - 1).astype(np.int64)
        shares: Float64Array = entries[places] / (2.0**self.lut.bits - 1)
        return shares


@dataclass(frozen=True, slots=True)
class _Curve:
    """What a table depends on. ends: the first and last grey that there may be. rescale: slope and intercept. padding:
    the first and last grey of it."""

    ends: tuple[int, int]
    value_offset: int
    rescale: tuple[float, float]
    voi: _Window | _Lut
    is_inverted: bool
    padding: tuple[float, float]

    def table(self, jitter: Jitter) -> Int16Array:
        """Presented values [65536] of each stored value; black where it has more bits than it may."""
        low = max(self.ends[0], self.value_offset - (1 << 15))
        high = min(self.ends[1], self.value_offset + (1 << 15) - 1)
        grey = np.arange(low, high + 1, dtype=np.float64)
        slope, intercept = self.rescale
        shares = np.clip(self.voi(slope * grey + intercept), 0, 1)
        shown = np.rint(WHITE * jitter.of(1 - shares if self.is_inverted else shares))
        shown[(grey >= self.padding[0]) & (grey <= self.padding[1])] = 0  # nowhere, where these are NaN
        table = np.zeros(1 << 16, dtype=np.int16)
        table[np.arange(low, high + 1) - self.value_offset] = shown  # of negative ones from the end: as uint16
        return table


def _ends(image: Presentation) -> tuple[int, int]:
    """The first and last grey that the bits stored can tell, with a sign or without."""
    low = -(1 << image.bits_stored - 1) if image.pixel_representation else 0
    return low, low + (1 << image.bits_stored) - 1


def _window(image: Presentation) -> _Window:
    """The file's window, or one that shows everything."""
    if image.voi_function:
        return _Window(image.voi_function, image.window_center, image.window_width)
    low, high = _ends(image) if image.bits_stored <= 8 else (image.low_grey, image.high_grey)
    center = image.slope * (low + high) / 2 + image.intercept
    return _Window("LINEAR_EXACT", center, abs(image.slope) * max(high - low, 1))


@lru_cache(_CACHED)
def _table(curve: _Curve) -> Int16Array:
    table = curve.table(STILL)
    table.setflags(write=False)  # shared
    return table
