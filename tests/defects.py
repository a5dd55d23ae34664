"""Kinds of defect, and how each is planted into one slice of a clean series."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import phantoms
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, RLELossless

from rsna_e2e.core.reasons import Reason
from rsna_e2e.dicom import Repair

EXTRA = "extra.dcm"  # beside the slice, where a defect needs another file


@dataclass(frozen=True, slots=True)
class Defect:
    """plant: changes the file of a slice, or lays EXTRA beside it. found_as: how it must be found, a refusal or repair.

    refuses: which files are refused, "slice" or "extra".
    """

    plant: Callable[[Path], None]
    found_as: Reason | Repair
    refuses: tuple[str, ...] = ("slice",)


def _edited(path: Path, edit: Callable[[Dataset], None], *, to: str | None = None) -> None:
    dataset = phantoms.read(path)
    edit(dataset)
    dataset.save_as(path if to is None else path.with_name(to))


def tag(name: str, value: Any) -> Callable[[Path], None]:
    """Set a tag; None removes it."""

    def edit(dataset: Dataset) -> None:
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)

    return lambda path: _edited(path, edit)


def raw_text(name: str, text: bytes) -> Callable[[Path], None]:
    """Set the bytes of a decimal string, whatever pydicom thinks of them."""

    def plant(path: Path) -> None:
        _edited(path, lambda dataset: setattr(dataset, name, "7.125"))
        raw = path.read_bytes()
        old = b"DS\x06\x007.125 "
        assert raw.count(old) == 1
        path.write_bytes(raw.replace(old, b"DS" + struct.pack("<H", len(text)) + text))

    return plant


def cut(n_bytes: int) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[:-n_bytes])


def pixels(change: Callable[[np.ndarray], bytes], **tags: Any) -> Callable[[Path], None]:
    def edit(dataset: Dataset) -> None:
        dataset.PixelData = change(dataset.pixel_array)
        dataset["PixelData"].VR = "OW"
        for name, value in tags.items():
            if name == "PixelPaddingValue":
                dataset.add_new(name, "SS", value)  # one of two VRs, which pydicom does not choose here
            else:
                setattr(dataset, name, value)

    return lambda path: _edited(path, edit)


def another(**tags: Any) -> Callable[[Path], None]:
    """Lay a copy of the slice beside it, with other tags."""
    return lambda path: _edited(path, lambda dataset: [setattr(dataset, *pair) for pair in tags.items()], to=EXTRA)


def _other_pixels(path: Path) -> None:
    def edit(dataset: Dataset) -> None:
        dataset.PixelData = dataset.PixelData[::-1]

    _edited(path, edit, to=EXTRA)


def _damaged(syntax: str, at: int) -> Callable[[Path], None]:
    """Compress, and break the codestream `at` bytes behind its begin."""

    def plant(path: Path) -> None:
        _edited(path, lambda dataset: dataset.compress(syntax, generate_instance_uid=False))
        raw = bytearray(path.read_bytes())
        begin = raw.rindex(b"\xfe\xff\x00\xe0") + 8
        raw[begin + at : begin + at + 8] = bytes([0xA5]) * 8
        path.write_bytes(raw)

    return plant


def _mislabelled(path: Path) -> None:
    """Explicit little endian, called implicit."""
    raw = path.read_bytes()
    old, new = b"UI\x14\x001.2.840.10008.1.2.1\0", b"UI\x14\x001.2.840.10008.1.2\0\0\0"
    assert raw.count(old) == 1
    path.write_bytes(raw.replace(old, new))


def _twice(path: Path) -> None:
    raw = path.read_bytes()
    at = raw.index(b"\x28\x00\x53\x10DS")
    length = 8 + int.from_bytes(raw[at + 6 : at + 8], "little")
    path.write_bytes(raw[: at + length] + raw[at:])


def _foreign(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content)


def _cut_before_pixels(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[: raw.rindex(b"\xe0\x7f\x10\x00OW")])


def _no_preamble(path: Path) -> None:
    path.write_bytes(path.read_bytes()[132:])


UNSIGNED_12 = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0}
LYING_12 = pixels(lambda stored: (stored.astype("<i2") & 0xFFF).astype("<u2").tobytes(), **UNSIGNED_12)
ALL_PADDING = pixels(lambda stored: np.full_like(stored, -2000).tobytes(), PixelPaddingValue=-2000)
ALL_WATER = pixels(lambda stored: np.zeros_like(stored).tobytes(), PixelPaddingValue=0)
SAGITTAL = [0, 1, 0, 0, 0, -1]

DEFECTS = {
    "cut in the pixels": Defect(cut(9), Reason.TRUNCATED),
    "cut before the pixels": Defect(_cut_before_pixels, Reason.NO_PIXEL_DATA),
    "cut in a value": Defect(lambda path: path.write_bytes(path.read_bytes()[:500]), Reason.MALFORMED),
    "empty": Defect(_foreign(b""), Reason.NOT_DICOM),
    "text": Defect(_foreign(b"no image\n" * 99), Reason.NOT_DICOM),
    "no preamble": Defect(_no_preamble, Reason.NOT_DICOM),
    "mislabelled transfer syntax": Defect(_mislabelled, Reason.MALFORMED),
    "an element twice": Defect(_twice, Reason.MALFORMED),
    "another modality": Defect(tag("Modality", "MR"), Reason.NOT_CT),
    "another class": Defect(tag("SOPClassUID", "1.2.840.10008.5.1.4.1.1.7"), Reason.NOT_CT),
    "a localizer": Defect(tag("ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]), Reason.LOCALIZER),
    "no pixels": Defect(tag("PixelData", None), Reason.NO_PIXEL_DATA),
    "no position": Defect(tag("ImagePositionPatient", None), Reason.MISSING_TAG),
    "no orientation": Defect(tag("ImageOrientationPatient", None), Reason.MISSING_TAG),
    "no patient": Defect(tag("PatientID", None), Repair.PATIENT_BY_STUDY),
    "no slope": Defect(tag("RescaleSlope", None), Reason.MISSING_TAG),
    "no intercept": Defect(tag("RescaleIntercept", None), Reason.MISSING_TAG),
    "no sign": Defect(tag("PixelRepresentation", None), Reason.MISSING_TAG),
    "slope 0": Defect(tag("RescaleSlope", 0), Reason.BAD_VALUE),
    "slope nan": Defect(raw_text("RescaleSlope", b"nan "), Reason.BAD_VALUE),
    "intercept inf": Defect(raw_text("RescaleIntercept", b"inf "), Reason.BAD_VALUE),
    "intercept 1E400": Defect(raw_text("RescaleIntercept", b"1E400 "), Reason.BAD_VALUE),
    "a decimal comma": Defect(raw_text("RescaleSlope", b"1,5 "), Reason.BAD_VALUE),
    "two slopes": Defect(raw_text("RescaleSlope", b"1\\2 "), Reason.BAD_VALUE),
    "another unit": Defect(tag("RescaleType", "MGML"), Reason.NOT_HOUNSFIELD),
    "no unit": Defect(tag("RescaleType", "US"), Repair.UNSPECIFIED_UNIT),
    "no rows": Defect(tag("Rows", 0), Reason.BAD_VALUE),
    "too many rows": Defect(tag("Rows", 65535), Reason.BAD_VALUE),
    "one row too many": Defect(tag("Rows", 71), Reason.WRONG_PIXEL_LENGTH),
    "bits that contradict": Defect(tag("HighBit", 5), Reason.BAD_VALUE),
    "colour": Defect(tag("SamplesPerPixel", 3), Reason.UNSUPPORTED_PIXEL_FORMAT),
    "frames in a class of single slices": Defect(tag("NumberOfFrames", 2), Reason.MULTI_FRAME),
    "axes that are not orthogonal": Defect(tag("ImageOrientationPatient", [1, 0, 0, 1, 0, 0]), Reason.BAD_VALUE),
    "no spacing": Defect(tag("PixelSpacing", [0.5, 0]), Reason.BAD_VALUE),
    "damaged JPEG 2000": Defect(_damaged(JPEG2000Lossless, 0), Reason.DECODER_FAILED),
    "damaged RLE": Defect(_damaged(RLELossless, 4), Reason.CODESTREAM_MISMATCH),
    "another orientation": Defect(tag("ImageOrientationPatient", SAGITTAL), Reason.MIXED_ORIENTATION),
    "a copy": Defect(another(), Reason.DUPLICATE_SOP_UID, refuses=("extra",)),
    "a conflict": Defect(_other_pixels, Reason.CONFLICTING_SOP_UID, refuses=("slice", "extra")),
    "a second slice at its place": Defect(another(SOPInstanceUID="1.2.9"), Reason.SAME_POSITION, refuses=("extra",)),
    "a lost sign": Defect(LYING_12, Repair.WRAPPED_12BIT),
    "bits in use that are not": Defect(
        pixels(lambda stored: (stored.astype("<u2") | 0x1000).tobytes(), **UNSIGNED_12, RescaleIntercept=-1024),
        Repair.UNUSED_BITS,
    ),
    "inverted display": Defect(tag("PhotometricInterpretation", "MONOCHROME1"), Repair.MONOCHROME1),
    "padding": Defect(ALL_PADDING, Repair.PADDING_AS_AIR),
    "padding that is water": Defect(ALL_WATER, Repair.PADDING_KEPT),
}
