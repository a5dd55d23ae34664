"""Plain data that modules hand to each other: one slice, one refused file, and how progress is reported."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

Int16Image = npt.NDArray[np.int16]
Int16Array = npt.NDArray[np.int16]  # flat
Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]  # row numbers of a table, such as the index of a store
Column = npt.NDArray[Any]  # of a table: numbers, or objects that are all text
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
class SliceRecord:
    """What one CT slice (one SOP instance, or a frame of one) says about itself, apart from its pixels.

    Names are DICOM's keywords in snake case, with units. `image_id` is what label files refer to, see `image_ids`; of
    enhanced CT, with the frame. `frame_number` counts from 1, and is 1 where a file holds one slice.
    `image_position_mm` is ImagePositionPatient [3], `image_orientation` is ImageOrientationPatient [6],
    `pixel_spacing_mm` is PixelSpacing (between rows, between columns); all three are NaN in a source that
    does not tell them, as HDF5 shards. `burned_in_annotation` is YES, NO, or empty where the file does not say.

    What reading the pixels adds: `decoder`, the plugin and its version, empty for uncompressed pixels; `repair`, what
    was done to values that the file spells wrongly, names joined by "+"; `n_rounded` and `n_saturated`, pixels whose HU
    are not slope * stored + intercept exactly; `n_padding`, those that the file says are none; `hu_min` and `hu_max`.
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
