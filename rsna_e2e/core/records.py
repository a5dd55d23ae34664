"""Plain data that modules hand to each other: one slice, one refused file, and how progress is reported."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

Int16Image = npt.NDArray[np.int16]
Int16Array = npt.NDArray[np.int16]  # flat
BoolImage = npt.NDArray[np.bool_]
Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]  # row numbers of a table, such as the index of a store
Column = npt.NDArray[Any]  # of a table: numbers, or objects that are all text
Modality = Literal["ct", "xr"]  # computed tomography; X-rays of one projection: CR, DX and RG
Values = Literal["hu", "grey"]  # what a store holds: Hounsfield units, or stored values of X-rays
IdRule = Literal["name", "path", "sop_uid"]  # what image ids are, see `dicom.image_ids`

# The same in words; of two that fit equally well, the first is taken
ID_RULES: dict[IdRule, str] = {"name": "file names", "path": "paths", "sop_uid": "SOP Instance UIDs"}

N_FOLDS = 5  # of a store, unless told


class Progress(Protocol):
    """Called as work proceeds: `done` of `total` units, and a short note such as "31 refused"."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


def no_progress(done: int, total: int, note: str = "") -> None:
    """A `Progress` that shows nothing."""


def never() -> bool:
    """An `is_stopping` callback that never asks to stop."""
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class XrayGrey:
    """What the grey of an X-ray image means and how it is to be shown.

    `value_offset`: grey = value in the store + offset, where grey is the stored value of the file, exactly.
    `photometric` is MONOCHROME1 or MONOCHROME2. `voi_function` is LINEAR, LINEAR_EXACT or SIGMOID, of `window_center`
    and `window_width`, which are in grey * slope + intercept; LUT, of the table whose sha256 is `voi_lut`; or empty.
    Grey from `padding_low` to `padding_high` is padding. `low_grey` and `high_grey`: 0.5 and 99.5 percentile of the
    rest. NaN where a file says nothing.
    """

    value_offset: int
    photometric: str
    voi_function: str = ""
    voi_lut: str = ""
    window_center: float = math.nan
    window_width: float = math.nan
    padding_low: float = math.nan
    padding_high: float = math.nan
    low_grey: int = 0
    high_grey: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class XrayRecord(XrayGrey):
    """What an X-ray image says beyond what a `SliceRecord` has; these are columns of the index of a store of X-rays.

    `view`: ViewPosition. `sex`: M, F, O or empty. `age_y`: in years, at most 90. `imager_spacing_mm`: between rows, at
    the detector where the file says so. NaN where a file says nothing.
    """

    view: str = ""
    sex: str = ""
    age_y: float = math.nan
    imager_spacing_mm: float = math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Presentation(XrayGrey):
    """What turns the values of an X-ray image into what is shown: columns of the index. NaN is `math.nan` itself, so
    that equal presentations are equal and have one hash."""

    slope: float
    intercept: float
    bits_stored: int
    pixel_representation: int


@dataclass(frozen=True, slots=True)
class VoiLut:
    """A VOI LUT (PS3.3 C.11.2.1.1). first: the value, after slope and intercept, that `entries` [n] begin with; what is
    lower has the first entry, what is higher the last. bits: 8 to 16, those of an entry."""

    first: int
    bits: int
    entries: npt.NDArray[np.uint16]

    @property
    def n_bytes(self) -> int:
        """Of its entries."""
        return 2 * len(self.entries)

    @property
    def sha256(self) -> str:
        """By which the index names it."""
        head = f"{self.first} {self.bits} {len(self.entries)}\0".encode()
        return hashlib.sha256(head + self.entries.astype("<u2").tobytes()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceRecord:
    """What one CT slice (one SOP instance, or a frame of one), or one X-ray, says about itself, apart from its pixels.

    Names are DICOM's keywords in snake case, with units. `image_id` is what label files refer to, see `image_ids`; of
    enhanced CT, with the frame. `frame_number` counts from 1, and is 1 where a file holds one slice.
    `image_position_mm` is ImagePositionPatient [3], `image_orientation` is ImageOrientationPatient [6],
    `pixel_spacing_mm` is PixelSpacing (between rows, between columns); all three are NaN in a source that
    does not tell them, as HDF5 shards. `burned_in_annotation` is YES, NO, or empty where the file does not say.

    What reading the pixels adds: `decoder`, the plugin and its version, empty for uncompressed pixels; `repair`, what
    was done to values that the file spells wrongly, names joined by "+"; `n_rounded` and `n_saturated`, pixels whose HU
    are not slope * stored + intercept exactly; `n_padding`, those that the file says are none; `hu_min` and `hu_max`,
    of an X-ray the least and greatest value in the store. `xray`: what only X-rays say; None of CT.
    """

    image_id: str
    patient_id: str
    study_uid: str
    series_uid: str
    sop_uid: str
    rows: int
    columns: int
    image_position_mm: tuple[float, float, float]
    image_orientation: tuple[float, float, float, float, float, float]
    pixel_spacing_mm: tuple[float, float]
    slope: float
    intercept: float
    bits_stored: int
    pixel_representation: int
    window_center_hu: float | None
    window_width_hu: float | None
    transfer_syntax_uid: str
    frame_number: int = 1
    slice_thickness_mm: float | None = None
    burned_in_annotation: str = ""
    decoder: str = ""
    repair: str = ""
    n_rounded: int = 0
    n_saturated: int = 0
    n_padding: int = 0
    hu_min: int = 0
    hu_max: int = 0
    xray: XrayRecord | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquisition:
    """How a slice was acquired and reconstructed; this tells the volumes of a series apart.

    Names are DICOM's keywords in snake case. Texts are as in the file, numbers are finite; empty, or None, where the
    file has none, or none of the right form. `acquisition_time` holds date and time, those of the frame if it has its
    own. None of this is stored.
    """

    image_type: str = ""
    frame_type: str = ""
    stack_id: str = ""
    convolution_kernel: str = ""
    reconstruction_diameter: float | None = None
    kvp: float | None = None
    acquisition_number: float | None = None
    frame_acquisition_number: float | None = None
    temporal_position_identifier: float | None = None
    temporal_position_index: float | None = None
    instance_number: float | None = None
    acquisition_time: str = ""
    content_time: str = ""


@dataclass(frozen=True, slots=True)
class RawFile:
    """A file of a folder or archive: its name there, its size in bytes, and a number that changes when it does.

    offset: where its bytes begin in an archive, as that counts them; 0 in a folder.
    """

    name: str
    n_bytes: int
    stamp: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """A file that was refused: its path as given, a stable reason code, and a detail for people to read.

    has_label: whether it has a label, once labels are known. sop_uid: as far as its header could be read.
    """

    path: str
    reason: str
    detail: str
    has_label: bool = False
    sop_uid: str = field(default="", compare=False)


def some(names: Sequence[str], *, most: int) -> str:
    """Return the first `most` of names as text for people."""
    return ", ".join(map(printable, names[:most])) + ", ..." * (len(names) > most)


def printable(text: str) -> str:
    """Return what others wrote, such as a file name, for any file or terminal.

    What is no UTF-8, moves the cursor or breaks a line is escaped.
    """
    if text.isprintable():
        return text
    encodable = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in encodable)
