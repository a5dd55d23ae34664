"""Converts 16-bit words to stored values, and stored values to int16 Hounsfield units."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.records import Int16Array, Int16Image

StoredImage = npt.NDArray[np.int16] | npt.NDArray[np.uint16]

INT16 = np.iinfo(np.int16)

AIR_HU = -1000  # by definition of the unit
_WRAPPED_12BIT = (4096 + AIR_HU, 4095)  # what -1000 to -1 become in 12 bits without sign
_AIR_HU = (AIR_HU - 100, AIR_HU + 100)  # what scanners measure of it, with their noise
_LEAST_AIR = 0.01  # of the pixels of a slice; around a head it is a third of them
_NOISE_HU = 16  # different values of air; its noise goes over some tens of HU
MEASURABLE_HU = (AIR_HU + 1, 3071)  # above air, up to the end of CT's usual 12 bits that begin at -1024


@dataclass(frozen=True, slots=True)
class Hounsfield:
    """HU [rows, columns], and how many of them are not slope * stored + intercept exactly."""

    hu: Int16Image
    n_rounded: int
    n_saturated: int


def stored_values(words: npt.NDArray[np.uint16], *, bits_stored: int, is_signed: bool) -> StoredImage:
    """Take each word's `bits_stored` lowest bits, and extend the sign when there is one.

    Source: PS3.5 8.1.1 (HighBit is one less than BitsStored). Other bits of a word do not belong to the value.
    """
    if bits_stored == 16:
        return words.view(np.int16) if is_signed else words
    if has_unused_bits(words, bits_stored=bits_stored) or is_signed:
        words = words & np.uint16((1 << bits_stored) - 1)
    if not is_signed:
        return words
    # Two's complement: flipping the sign bit and taking it away again, modulo 2^16, fills the bits above with it.
    sign = np.uint16(1 << (bits_stored - 1))
    return ((words ^ sign) - sign).view(np.int16)


def whole_values(words: npt.NDArray[np.uint16], *, bits_allocated: int, is_signed: bool) -> StoredImage:
    """Take all bits of each word, of which the file has `bits_allocated`, 8 or 16, and extend the sign of 8."""
    if not is_signed:
        return words
    return words.astype(np.int8).astype(np.int16) if bits_allocated == 8 else words.view(np.int16)


def has_unused_bits(words: npt.NDArray[np.uint16], *, bits_stored: int) -> bool:
    """Tell whether any word has a bit set above its `bits_stored` lowest ones."""
    return int(words.max()) >> bits_stored != 0


def has_unused_bits_of_signed(words: npt.NDArray[np.uint16], *, bits_stored: int, bits_allocated: int) -> bool:
    """Tell whether the bits above any signed value are neither zeros nor its sign, both of which are common.

    bits_allocated: 8 or 16, those of a word in which a sign may go on.
    """
    if bits_stored == bits_allocated:
        return False
    whole = whole_values(words, bits_allocated=bits_allocated, is_signed=True)
    # As a number of all bits, a value that goes on as its sign is itself, and with zeros above less than 2^bits_stored.
    return int(whole.min()) < -(1 << (bits_stored - 1)) or int(whole.max()) >= 1 << bits_stored


def to_hounsfield(stored: StoredImage, slope: float, intercept: float) -> Hounsfield:
    """Return slope * stored + intercept as int16.

    Exact where the result is an integer within int16; else computed in float64, rounded half to even, saturated, and
    counted. Source: PS3.3 C.11.1.1.2 (output units = m * stored + b).
    """
    ends = [slope * float(stored.min()) + intercept, slope * float(stored.max()) + intercept]
    if slope.is_integer() and intercept.is_integer() and min(ends) >= INT16.min and max(ends) <= INT16.max:
        # Arithmetic modulo 2^16 is exact for a result that fits, so uint16 needs no wider type.
        words = stored.view(np.uint16)
        if slope != 1:
            words = words * np.uint16(int(slope) % 65536)
        return Hounsfield((words + np.uint16(int(intercept) % 65536)).view(np.int16), 0, 0)
    with np.errstate(over="ignore"):
        exact = stored.astype(np.float64) * slope + intercept
    rounded = np.rint(exact)
    clipped = np.clip(rounded, INT16.min, INT16.max)
    return Hounsfield(
        clipped.astype(np.int16), int(np.count_nonzero(rounded != exact)), int(np.count_nonzero(clipped != rounded))
    )


def is_wrapped_12bit(*, bits_stored: int, is_signed: bool, slope: float, intercept: float) -> bool:
    """Tell whether a slice has HU that were written into 12 unsigned bits, and so lost their sign.

    Unsigned 12-bit values with an intercept near 0 have no room for air. Of RSNA 2019's first training set these are
    123 images, with intercept 0 or 1; other intercepts may be genuine, and are applied as they are. Source: the
    public analyses of that data set.
    """
    return bits_stored == 12 and not is_signed and slope == 1 and intercept in (0, 1)


def unwrap_12bit(stored: StoredImage) -> Int16Image:
    """Return the HU behind wrapped 12-bit values: 3096 to 4095 stand for -1000 to -1, the others for themselves."""
    values = stored.astype(np.int16)
    return np.where(values >= _WRAPPED_12BIT[0], values - np.int16(4096), values)


def is_padding(whole: StoredImage, stored: StoredImage, *, low: int, high: int) -> npt.NDArray[np.bool_]:
    """Mark pixels whose value lies from `low` to `high`, in the bits stored or in all bits of the word (`whole`).

    Padding of -2000 beside unsigned 12-bit values fills all 16 bits, which cut to 12 would be bone.
    Source: PS3.3 C.7.5.1.1.2.
    """
    if low == high:
        return np.asarray((stored == low) | (whole == low))
    return np.asarray(((stored >= low) & (stored <= high)) | ((whole >= low) & (whole <= high)))


def has_air(hu: Int16Array, *, is_measured: bool) -> bool:
    """Tell whether a share of these values lies where the air around every patient does, if they are HU.

    is_measured: it must have the noise of a measurement. The background of a map may be painted in the HU of air.
    """
    air = hu[(hu >= _AIR_HU[0]) & (hu <= _AIR_HU[1])]
    return air.size > _LEAST_AIR * hu.size and (not is_measured or len(np.unique(air)) >= _NOISE_HU)


def can_be_measured(low: float, high: float) -> bool:
    """Tell whether tissue, bone or metal may have any HU in this range, so that padding cannot be told from it."""
    return low <= MEASURABLE_HU[1] and high >= MEASURABLE_HU[0]


def can_be_measured_if_wrapped(low: int, high: int) -> bool:
    """Tell the same of the HU that stored values between these stand for when they are wrapped (`unwrap_12bit`)."""
    wrapped_low, wrapped_high = max(low, _WRAPPED_12BIT[0]), min(high, _WRAPPED_12BIT[1])
    is_wrapped = wrapped_low <= wrapped_high
    return can_be_measured(low, high) or (is_wrapped and can_be_measured(wrapped_low - 4096, wrapped_high - 4096))
