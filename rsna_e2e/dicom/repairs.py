"""Names of the repairs to a slice's values, as they stand in the store's `repair` column."""

from collections import Counter
from collections.abc import Iterable, Sequence
from enum import StrEnum

import numpy as np
import numpy.typing as npt


class Repair(StrEnum):
    """Name of a repair to values of a slice. A name, once published, keeps its meaning."""

    PATIENT_BY_STUDY = "patient_by_study"  # PatientID is empty: the study stands for the patient
    UNSPECIFIED_UNIT = "unspecified_unit"  # RescaleType says US, unspecified; the values are HU
    MONOCHROME1 = "monochrome1"  # meant to be shown inverted; HU are what they are (PS3.3 C.7.6.3.1.2)
    WRAPPED_12BIT = "wrapped_12bit"  # the sign was lost in 12 unsigned bits, and is restored
    UNUSED_BITS = "unused_bits"  # bits beyond BitsStored meant nothing, and are cleared
    CODESTREAM_SIGN = "codestream_sign"  # JPEG 2000 says unsigned of signed values: PixelRepresentation is right
    PADDING_AS_AIR = "padding_as_air"  # pixels that the file calls padding are set to the HU of air
    PADDING_KEPT = "padding_kept"  # so called, but their HU could have been measured: they stay
    # of X-rays
    FOR_PROCESSING = "for_processing_without_window"  # raw values of a detector, and nothing says how to show them
    VOI_IGNORED = "voi_ignored"  # a window, its function or a VOI LUT that cannot be right is not applied
    EQUAL_CHANNELS = "equal_channels"  # red, green and blue are the same, and become one
    EXIF_ORIENTATION = "exif_orientation"  # EXIF says that the image is to be turned; it is not
    PATIENT_BY_LABELS = "patient_by_labels"  # the label file names the patient
    PATIENT_BY_PIXELS = "patient_by_pixels"  # of another patient is an image with these very pixels: they are one


def count_repairs(spelt: Iterable[str]) -> dict[str, int]:
    """Count the repairs of slices, the commonest first. spelt: the `repair` column."""
    return dict(Counter(name for names in spelt if names for name in names.split("+")).most_common())


def joined(repairs: Iterable[Repair]) -> str:
    """Return names as the `repair` column spells them."""
    return "+".join(repairs)


def has_repair(spelt: str, repair: Repair) -> bool:
    """Whether a value of the `repair` column names this repair."""
    return repair in spelt.split("+")


def mark_repaired(spelt: Sequence[str], repair: Repair) -> npt.NDArray[np.bool_]:
    """Mark the slices [N] with this repair. spelt: the `repair` column."""
    return np.fromiter((has_repair(names, repair) for names in spelt), dtype=bool, count=len(spelt))
