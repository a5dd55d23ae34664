"""How a file spells grey values: bits, which end is white, and the window or table that makes them what is shown."""

# H x W pixels of a file

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.records import Float32Array

Stored = npt.NDArray[np.uint16]

LIKE_COMPETITION = 0.4  # share of files that are Secondary Captures of 8 bits, JPEG baseline
MONOCHROME1_RATE = 0.25
BITS = (8, 10, 12, 14, 15, 16)
VOI_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID", "LUT", "")
VOI_RATES = (0.35, 0.1, 0.15, 0.2, 0.2)
LUT_ENTRIES, LUT_BITS = 4096, 12
SIGMOID_END = 0.01  # what a sigmoid is used to, from black and from white, where it runs on for ever
SIGMOID_NARROWER = 0.4  # so that this much of it fits the stored values
SIDES = ((1.0, 1.0), (1.0, 1.0), (1.0, 0.82), (0.82, 1.0))  # rows and columns of the size: 43 x 43, 35 x 43 cm


@dataclass(frozen=True, slots=True, kw_only=True)
class Spelling:
    """One way to write an image. voi: of VOI_FUNCTIONS; center and width in stored values, NaN where there are none.

    lut_first, lut_curve: first stored value of a VOI LUT and the exponent of its curve. sides: rows and columns, of the
    size asked for. is_dx: of the two classes that are no Secondary Capture.
    """

    is_capture: bool
    is_dx: bool
    bits: int
    is_monochrome1: bool
    voi: str
    center: float = np.nan
    width: float = np.nan
    lut_first: int = 0
    lut_curve: float = 1.0
    sides: tuple[float, float] = (1.0, 1.0)

    @property
    def largest(self) -> int:
        """The largest value that a pixel can hold."""
        return (1 << self.bits) - 1

    @property
    def lut(self) -> Stored:
        """The table of a VOI LUT, of LUT_BITS each."""
        t = np.linspace(0.0, 1.0, LUT_ENTRIES)
        return np.rint(_curve(t, self.lut_curve) * ((1 << LUT_BITS) - 1)).astype(np.uint16)


def draw_spelling(rng: np.random.Generator) -> Spelling:
    """Draw one."""
    is_capture = bool(rng.random() < LIKE_COMPETITION)
    is_monochrome1 = bool(rng.random() < MONOCHROME1_RATE)
    bits = int(rng.choice(BITS))
    voi = str(rng.choice(VOI_FUNCTIONS, p=VOI_RATES))
    sides = SIDES[int(rng.integers(len(SIDES)))]
    is_dx = bool(rng.random() < 0.5)
    share, middle, curve = rng.uniform((0.5, 0.42, 1.15), (0.8, 0.58, 1.6))
    if is_capture:
        return Spelling(is_capture=True, is_dx=False, bits=8, is_monochrome1=is_monochrome1, voi="")
    whole = 1 << bits
    if bits < 12 and voi == "LUT":  # fewer values than entries
        voi = "LINEAR"
    windowed = voi in VOI_FUNCTIONS[:3]
    share *= SIGMOID_NARROWER if voi == "SIGMOID" else 1.0
    return Spelling(
        is_capture=False,
        is_dx=is_dx,
        bits=bits,
        is_monochrome1=is_monochrome1,
        voi=voi,
        center=float(round(middle * whole)) if windowed else np.nan,
        width=float(round(share * whole)) if windowed else np.nan,
        lut_first=int(rng.integers(0, whole - LUT_ENTRIES + 1)) if voi == "LUT" else 0,
        lut_curve=float(curve) if voi == "LUT" else 1.0,
        sides=sides,
    )


def _curve(t: npt.NDArray[np.float64], exponent: float) -> npt.NDArray[np.float64]:
    """An S from 0 to 1, steepest in the middle; the inverse has the inverse exponent."""
    high, low = t**exponent, (1.0 - t) ** exponent
    return np.asarray(high / (high + low))


def to_stored(shown: Float32Array, spelling: Spelling) -> Stored:
    """Stored values of an image [H, W] that is to be shown as `shown`: 0 black, 1 white, beyond them as well.

    The inverses of the VOI functions of PS3.3 C.11.2.1.2 and C.11.2.1.3, after which MONOCHROME1 shows 0 as white.
    """
    values = (1.0 - shown) if spelling.is_monochrome1 else shown
    values = values.astype(np.float64)
    center, width = spelling.center, spelling.width
    if spelling.voi == "LINEAR":
        stored = (values - 0.5) * (width - 1.0) + center - 0.5
    elif spelling.voi == "LINEAR_EXACT":
        stored = (values - 0.5) * width + center
    elif spelling.voi == "SIGMOID":
        inside = np.clip(values, SIGMOID_END, 1.0 - SIGMOID_END)
        stored = center + 0.25 * width * np.log(inside / (1.0 - inside))
    elif spelling.voi == "LUT":
        position = _curve(np.clip(values, 0.0, 1.0), 1.0 / spelling.lut_curve)
        stored = spelling.lut_first + position * (LUT_ENTRIES - 1)
    else:  # shown by their own range
        stored = np.clip(values, 0.0, 1.0) * spelling.largest
    return np.clip(np.rint(stored), 0, spelling.largest).astype(np.uint16)
