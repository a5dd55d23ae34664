"""Strict reading of single DICOM elements: a value is what the standard allows, or the file is refused.

Works on the undecoded bytes of the elements on an allow-list; no other tag of a file is ever looked at.
"""

import math
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO

from rsna_e2e.reasons import Reason

# PS3.6 section 6: the only tags that enter. Names, dates and free text do not.
TAGS = {
    "ImageType": 0x00080008,
    "SOPClassUID": 0x00080016,
    "SOPInstanceUID": 0x00080018,
    "Modality": 0x00080060,
    "PatientID": 0x00100020,
    "StudyInstanceUID": 0x0020000D,
    "SeriesInstanceUID": 0x0020000E,
    "ImagePositionPatient": 0x00200032,
    "ImageOrientationPatient": 0x00200037,
    "SamplesPerPixel": 0x00280002,
    "PhotometricInterpretation": 0x00280004,
    "NumberOfFrames": 0x00280008,
    "Rows": 0x00280010,
    "Columns": 0x00280011,
    "PixelSpacing": 0x00280030,
    "BitsAllocated": 0x00280100,
    "BitsStored": 0x00280101,
    "HighBit": 0x00280102,
    "PixelRepresentation": 0x00280103,
    "WindowCenter": 0x00281050,
    "WindowWidth": 0x00281051,
    "RescaleIntercept": 0x00281052,
    "RescaleSlope": 0x00281053,
}

# VRs whose length takes 4 bytes after 2 reserved ones in explicit VR (PS3.5 7.1.2).
LONG_VRS = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
MAX_META_BYTES = 1 << 16  # file meta information is a few hundred bytes; more is no honest file

# Decimal string (PS3.5 6.2, VR DS). Python's float() would also take "nan", "inf" and "1_0".
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


class RefusedError(Exception):
    """The file is not taken. Never leaves the reading of one file; becomes a `Refusal` there."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class FileMeta:
    """What matters of the file meta information (PS3.10 7.1); sop_class_uid is empty when it is not given."""

    transfer_syntax_uid: str
    sop_class_uid: str


def read_file_meta(file: BinaryIO) -> FileMeta:
    """Read preamble and file meta information, always explicit little endian, and stop before the data set.

    Done here and not by pydicom because that one inflates a deflated data set before anybody has said yes to it.
    """
    if file.read(132)[128:] != b"DICM":
        raise RefusedError(Reason.NOT_DICOM, "no DICM after a preamble of 128 bytes (PS3.10 7.1)")
    values: dict[int, bytes] = {}
    while len(head := file.read(8)) == 8:
        group, element, vr, length = struct.unpack("<HH2sH", head)
        if group != 0x0002:
            file.seek(-8, 1)
            break
        if vr in LONG_VRS:
            (length,) = struct.unpack("<L", file.read(4))
        if length > MAX_META_BYTES:
            raise RefusedError(Reason.MALFORMED, "file meta information of absurd length")
        values[element] = file.read(length)
    syntax = _decode(values.get(0x0010, b""))
    if not syntax:
        raise RefusedError(Reason.NO_TRANSFER_SYNTAX, "TransferSyntaxUID (0002,0010) is missing")
    return FileMeta(syntax, _decode(values.get(0x0002, b"")))


class Elements:
    """The elements of one data set on the allow-list, given as pydicom's undecoded elements."""

    def __init__(self, elements: Iterable[Any]) -> None:
        by_tag = {int(element.tag): element for element in elements}
        self._elements = {name: by_tag[tag] for name, tag in TAGS.items() if tag in by_tag}

    def text(self, name: str, *, default: str | None = None) -> str:
        """Return a text, without padding. Raises RefusedError when it is missing or empty and has no default."""
        raw = self._bytes(name)
        text = _decode(raw) if raw is not None else ""
        if text:
            return text
        if default is None:
            raise RefusedError(Reason.MISSING_TAG, _label(name))
        return default

    def unsigned(self, name: str, *, default: int | None = None) -> int:
        """Return a number of VR US, 16 bits without sign."""
        raw = self._bytes(name)
        if not raw:
            if default is None:
                raise RefusedError(Reason.MISSING_TAG, _label(name))
            return default
        if len(raw) != 2:
            raise RefusedError(Reason.BAD_VALUE, f"{_label(name)} is {len(raw)} bytes long, expected 2")
        return int.from_bytes(raw, "little" if self._elements[name].is_little_endian else "big")

    def integer(self, name: str, *, default: int) -> int:
        """Return a number of VR IS, digits in text."""
        text = self.text(name, default=str(default))
        if not re.fullmatch(r"[+-]?\d{1,12}", text):
            raise RefusedError(Reason.BAD_VALUE, f"{_label(name)} is not a whole number")
        return int(text)

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        """Return `count` finite numbers of VR DS."""
        values = _numbers(self.text(name))
        if values is None or len(values) != count:
            raise RefusedError(Reason.BAD_VALUE, f"{_label(name)} is not {count} finite decimal number(s)")
        return values

    def first_window(self) -> tuple[float, float] | tuple[None, None]:
        """Return the first window center and width in HU. It is only advice: None where it makes no sense."""
        centers = _numbers(self.text("WindowCenter", default=""))
        widths = _numbers(self.text("WindowWidth", default=""))
        if not centers or not widths or widths[0] <= 0:
            return None, None
        return centers[0], widths[0]

    def _bytes(self, name: str) -> bytes | None:
        element = self._elements.get(name)
        if element is None:
            return None
        value = element.value
        if value is None:
            return b""
        if not isinstance(value, bytes) or len(value) != element.length:
            raise RefusedError(Reason.MALFORMED, f"{_label(name)} is cut or nested")
        return value


def _numbers(text: str) -> tuple[float, ...] | None:
    parts = [part.strip(" ") for part in text.split("\\")]
    if not all(_DECIMAL.fullmatch(part) for part in parts):
        return None
    values = tuple(float(part) for part in parts)
    return values if all(map(math.isfinite, values)) else None


def _decode(raw: bytes) -> str:
    """Return text without padding. Identifiers need one spelling each, not their script: Latin-1 takes any byte."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return text.strip(" \0")


def _label(name: str) -> str:
    tag = TAGS[name]
    return f"{name} ({tag >> 16:04x},{tag & 0xFFFF:04x})"
