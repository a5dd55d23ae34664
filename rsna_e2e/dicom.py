"""One DICOM file in, one CT slice in Hounsfield units out, or a refusal with a stable reason.

pydicom finds the elements and decodes compressed pixels. Every value is checked here, because pydicom reads on where
the standard is broken: cut files give partial datasets, and slopes of "nan" pass. Reading is done in two steps,
`read_header` (some hundred microseconds) and `read_hounsfield`, so that slices can be put in order before any pixel is
read. Both are meant for worker processes with one thread: Python's warning filters belong to the process.
"""

import math
import os
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.filereader import data_element_generator
from pydicom.pixels import get_decoder

from rsna_e2e.elements import TAGS, Elements, RefusedError, read_file_meta
from rsna_e2e.hounsfield import has_unused_bits, is_wrapped_12bit, stored_values, to_hounsfield, unwrap_12bit
from rsna_e2e.reasons import Reason
from rsna_e2e.records import Int16Image, RawFile, Refusal, SliceRecord, printable

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"  # PS3.4 B.5
MAX_SIDE_PX = 4096  # no CT matrix is larger; guards memory against absurd claims

IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"  # PS3.5 A.1
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"  # PS3.5 A.2
EXPLICIT_BIG_ENDIAN = "1.2.840.10008.1.2.2"  # PS3.5 A.3, retired

# Decoder of each transfer syntax whose pixel data is encapsulated (PS3.5 A.4, PS3.6 A-1), pinned so that a further
# package on the machine changes nothing.
DECODING_PLUGINS = {
    "1.2.840.10008.1.2.5": "pylibjpeg",  # RLE lossless
    "1.2.840.10008.1.2.4.80": "pyjpegls",  # JPEG-LS lossless
    "1.2.840.10008.1.2.4.81": "pyjpegls",  # JPEG-LS near-lossless
    "1.2.840.10008.1.2.4.90": "pylibjpeg",  # JPEG 2000 lossless
    "1.2.840.10008.1.2.4.91": "pylibjpeg",  # JPEG 2000
    "1.2.840.10008.1.2.4.201": "pylibjpeg",  # HTJ2K lossless
    "1.2.840.10008.1.2.4.202": "pylibjpeg",  # HTJ2K lossless RPCL
    "1.2.840.10008.1.2.4.203": "pylibjpeg",  # HTJ2K
}
NATIVE_SYNTAXES = (IMPLICIT_LITTLE_ENDIAN, EXPLICIT_LITTLE_ENDIAN, EXPLICIT_BIG_ENDIAN)

# Names of what is done to values that the file spells wrongly; they land in the store's `repair` column.
WRAPPED_12BIT = "wrapped_12bit"  # the sign was lost in 12 unsigned bits, and is restored
UNUSED_BITS = "unused_bits"  # bits beyond BitsStored were set, and are cleared

PIXEL_DATA = 0x7FE00010
UNDEFINED_LENGTH = 0xFFFFFFFF

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceHeader:
    """A slice before its pixels are read: its record, and how its pixel data lies in the file.

    pixel_offset: bytes from the start of the file to the value of PixelData; None when it is encapsulated.
    """

    record: SliceRecord
    bits_allocated: int
    high_bit: int
    pixel_offset: int | None


def read_slice(path: Path) -> tuple[SliceRecord, Int16Image] | Refusal:
    """Read one file whole: its record and its HU [rows, columns], or why it is refused."""

    def read() -> tuple[SliceRecord, Int16Image] | Refusal:
        with path.open("rb", buffering=0) as stream:
            raw_file = RawFile(str(path), os.fstat(stream.fileno()).st_size, 0)
            header = read_header(stream, raw_file)
            return header if isinstance(header, Refusal) else read_hounsfield(stream, raw_file, header)

    return refuse_on_error(str(path), read, otherwise=Reason.MALFORMED)


def read_header(stream: BinaryIO, raw_file: RawFile) -> SliceHeader | Refusal:
    """Read everything but the pixels from a seekable stream that stands at its begin, and check it."""
    return refuse_on_error(raw_file.name, lambda: _read_header(stream, raw_file), otherwise=Reason.MALFORMED)


def read_hounsfield(
    stream: BinaryIO, raw_file: RawFile, header: SliceHeader
) -> tuple[SliceRecord, Int16Image] | Refusal:
    """Read the pixels of a file whose header was read: int16 HU [rows, columns], and the record with what was done."""
    return refuse_on_error(raw_file.name, lambda: _read_hounsfield(stream, header), otherwise=Reason.DECODER_FAILED)


def refuse_on_error(name: str, read: Callable[[], _T], *, otherwise: Reason) -> _T | Refusal:
    """Return what `read` does, or a refusal of the file called `name`: with `otherwise` for what nobody foresaw."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom warns about values that are judged here
            return read()
    except RefusedError as error:
        return Refusal(name, error.reason, error.detail)
    except OSError as error:
        return Refusal(name, Reason.UNREADABLE_FILE, os.strerror(error.errno or 0))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        # Hostile bytes make pydicom and its decoders raise nearly anything, a Rust panic outside Exception among them.
        # The text of such an error may quote the patient, so only its kind is kept.
        return Refusal(name, otherwise, type(error).__name__)


def _read_header(stream: BinaryIO, raw_file: RawFile) -> SliceHeader:
    meta = read_file_meta(stream)
    syntax = meta.transfer_syntax_uid
    if syntax not in NATIVE_SYNTAXES and syntax not in DECODING_PLUGINS:
        raise RefusedError(Reason.UNSUPPORTED_TRANSFER_SYNTAX, syntax)
    elements = Elements(
        data_element_generator(
            stream,
            is_implicit_VR=syntax == IMPLICIT_LITTLE_ENDIAN,
            is_little_endian=syntax != EXPLICIT_BIG_ENDIAN,
            stop_when=lambda tag, vr, length: int(tag) >= PIXEL_DATA,
            specific_tags=list(TAGS.values()),
        )
    )
    _check_is_ct_slice(elements, meta.sop_class_uid)
    length = _read_pixel_data_length(stream, syntax)
    bits_allocated, high_bit = _check_pixel_format(elements)
    record = _slice_record(raw_file.name, elements, syntax)
    n_bytes = record.rows * record.columns * bits_allocated // 8
    offset = stream.tell()
    _check_pixel_data_length(syntax, length=length, expected=n_bytes, present=raw_file.n_bytes - offset)
    is_native = syntax in NATIVE_SYNTAXES
    return SliceHeader(
        record=record,
        bits_allocated=bits_allocated,
        high_bit=high_bit,
        pixel_offset=offset if is_native else None,
    )


def _check_is_ct_slice(elements: Elements, meta_sop_class_uid: str) -> None:
    # The 2019 competition's files carry their SOP class in the file meta information only.
    sop_class_uid = elements.text("SOPClassUID", default=meta_sop_class_uid)
    modality = elements.text("Modality", default="")
    if sop_class_uid not in ("", CT_IMAGE_STORAGE):
        raise RefusedError(Reason.NOT_CT, f"SOP class {sop_class_uid}")
    if modality != "CT" and (modality or not sop_class_uid):
        raise RefusedError(Reason.NOT_CT, "Modality is not CT")
    if "LOCALIZER" in elements.text("ImageType", default="").upper().split("\\"):
        raise RefusedError(Reason.LOCALIZER, "ImageType says LOCALIZER (PS3.3 C.8.2.1.1.1)")
    if elements.integer("NumberOfFrames", default=1) != 1:
        raise RefusedError(Reason.MULTI_FRAME, "NumberOfFrames is not 1")


def _check_pixel_format(elements: Elements) -> tuple[int, int]:
    """Return bits allocated and the high bit. Source: PS3.3 C.7.6.3.1, PS3.5 8.1.1."""
    samples = elements.unsigned("SamplesPerPixel", default=1)
    photometric = elements.text("PhotometricInterpretation")
    bits_allocated = elements.unsigned("BitsAllocated")
    if samples != 1 or photometric != "MONOCHROME2" or bits_allocated not in (8, 16):
        detail = f"SamplesPerPixel {samples}, {photometric}, BitsAllocated {bits_allocated}"
        raise RefusedError(Reason.UNSUPPORTED_PIXEL_FORMAT, detail)
    bits_stored = elements.unsigned("BitsStored")
    high_bit = elements.unsigned("HighBit", default=bits_stored - 1)
    if not 1 <= bits_stored <= high_bit + 1 <= bits_allocated:
        detail = f"BitsAllocated {bits_allocated}, BitsStored {bits_stored}, HighBit {high_bit} contradict each other"
        raise RefusedError(Reason.BAD_VALUE, detail)
    if elements.unsigned("PixelRepresentation") > 1:
        raise RefusedError(Reason.BAD_VALUE, "PixelRepresentation is neither 0 nor 1")
    return bits_allocated, high_bit


def _slice_record(name: str, elements: Elements, syntax: str) -> SliceRecord:
    rows, columns = elements.unsigned("Rows"), elements.unsigned("Columns")
    if not (1 <= rows <= MAX_SIDE_PX and 1 <= columns <= MAX_SIDE_PX):
        raise RefusedError(Reason.BAD_VALUE, f"Rows {rows}, Columns {columns}; expected 1 to {MAX_SIDE_PX}")
    spacing = elements.numbers("PixelSpacing", 2)
    if min(spacing) <= 0:
        raise RefusedError(Reason.BAD_VALUE, f"PixelSpacing {spacing[0]:g} x {spacing[1]:g} mm")
    (slope,) = elements.numbers("RescaleSlope", 1)
    if slope == 0:
        raise RefusedError(Reason.BAD_VALUE, "RescaleSlope is 0")
    (intercept,) = elements.numbers("RescaleIntercept", 1)
    x, y, z = elements.numbers("ImagePositionPatient", 3)
    a, b, c, d, e, f = orientation = elements.numbers("ImageOrientationPatient", 6)
    _check_orientation(orientation)
    window_center, window_width = elements.first_window()
    return SliceRecord(
        image_id=printable(PurePath(name).stem),
        patient_id=elements.text("PatientID"),
        study_uid=elements.text("StudyInstanceUID"),
        series_uid=elements.text("SeriesInstanceUID"),
        sop_uid=elements.text("SOPInstanceUID"),
        rows=rows,
        columns=columns,
        image_position_mm=(x, y, z),
        image_orientation=(a, b, c, d, e, f),
        pixel_spacing_mm=(spacing[0], spacing[1]),
        slope=slope,
        intercept=intercept,
        bits_stored=elements.unsigned("BitsStored"),
        pixel_representation=elements.unsigned("PixelRepresentation"),
        window_center_hu=window_center,
        window_width_hu=window_width,
        transfer_syntax_uid=syntax,
    )


def _check_orientation(cosines: tuple[float, ...]) -> None:
    """Refuse axes that are not two orthogonal unit vectors (PS3.3 C.7.6.2.1.1), within what rounding explains."""
    row, column = cosines[:3], cosines[3:]
    lengths = math.hypot(*row), math.hypot(*column)
    product = sum(a * b for a, b in zip(row, column, strict=True))
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(product)) > 0.01:
        detail = "ImageOrientationPatient is not two orthogonal unit vectors"
        raise RefusedError(Reason.BAD_VALUE, detail)


def _read_pixel_data_length(file: BinaryIO, syntax: str) -> int:
    """Read the head of PixelData, which the file stands before, up to its value, and return the value's length.

    Source: PS3.5 7.1.2 and 7.1.3 (element heads).
    """
    size = 8 if syntax == IMPLICIT_LITTLE_ENDIAN else 12
    head = file.read(size)
    order = ">" if syntax == EXPLICIT_BIG_ENDIAN else "<"
    if len(head) < size or struct.unpack(order + "HH", head[:4]) != (0x7FE0, 0x0010):
        raise RefusedError(Reason.NO_PIXEL_DATA, "the file has none, or ends before it")
    if size == 12 and head[4:6] not in (b"OW", b"OB"):
        raise RefusedError(Reason.MALFORMED, "PixelData is neither OW nor OB")
    return int(struct.unpack(order + "L", head[-4:])[0])


def _check_pixel_data_length(syntax: str, *, length: int, expected: int, present: int) -> None:
    """Check the length of the pixel data, `present` bytes of it. Source: PS3.5 A.4, 7.1.1 (even lengths)."""
    if syntax in DECODING_PLUGINS:
        if length != UNDEFINED_LENGTH:
            raise RefusedError(Reason.MALFORMED, "compressed PixelData of defined length")
        return
    if length != expected + expected % 2:
        raise RefusedError(Reason.WRONG_PIXEL_LENGTH, f"pixel data {length} bytes, expected {expected}")
    if present < length:
        raise RefusedError(Reason.TRUNCATED, f"pixel data {present} bytes, expected {expected}")


def _read_hounsfield(stream: BinaryIO, header: SliceHeader) -> tuple[SliceRecord, Int16Image]:
    record, offset = header.record, header.pixel_offset
    is_signed = record.pixel_representation == 1
    words = _decode_words(stream, header) if offset is None else _read_words(stream, header, offset)
    # Decoders give the value in the low bits, wherever it stood before compression.
    high_bit = record.bits_stored - 1 if offset is None else header.high_bit
    stored = stored_values(words, bits_stored=record.bits_stored, high_bit=high_bit, is_signed=is_signed)
    if is_wrapped_12bit(
        bits_stored=record.bits_stored, is_signed=is_signed, slope=record.slope, intercept=record.intercept
    ):
        return _with_range(replace(record, repair=WRAPPED_12BIT), unwrap_12bit(stored))
    # Above a signed value both zeros and its sign are common; above an unsigned one nothing but zeros means nothing.
    is_foreign = not is_signed and has_unused_bits(words, bits_stored=high_bit + 1)
    result = to_hounsfield(stored, record.slope, record.intercept)
    record = replace(
        record,
        repair=UNUSED_BITS if is_foreign else "",
        n_rounded=result.n_rounded,
        n_saturated=result.n_saturated,
    )
    return _with_range(record, result.hu)


def _with_range(record: SliceRecord, hu: Int16Image) -> tuple[SliceRecord, Int16Image]:
    return replace(record, hu_min=int(hu.min()), hu_max=int(hu.max())), hu


def _read_words(stream: BinaryIO, header: SliceHeader, offset: int) -> npt.NDArray[np.uint16]:
    """Read uncompressed pixel data as it lies in the file, [rows, columns]."""
    order = ">" if header.record.transfer_syntax_uid == EXPLICIT_BIG_ENDIAN else "<"
    stored_type = np.dtype(f"{order}u{header.bits_allocated // 8}")
    words = np.empty((header.record.rows, header.record.columns), stored_type)
    stream.seek(offset)
    if stream.readinto(words.reshape(-1).view(np.uint8).data) != words.nbytes:  # type: ignore[attr-defined]
        raise RefusedError(Reason.TRUNCATED, "the file became shorter while it was read")
    return words.astype(np.uint16, copy=False)


def _decode_words(stream: BinaryIO, header: SliceHeader) -> npt.NDArray[np.uint16]:
    """Decode compressed pixel data, [rows, columns]."""
    record = header.record
    stream.seek(0)
    decoder = get_decoder(record.transfer_syntax_uid)
    plugin = DECODING_PLUGINS[record.transfer_syntax_uid]
    decoded, _ = decoder.as_array(pydicom.dcmread(stream), raw=True, decoding_plugin=plugin)
    if decoded.shape != (record.rows, record.columns) or decoded.dtype.kind not in "iu":
        raise RefusedError(Reason.DECODER_FAILED, f"decoded to {decoded.shape} of {decoded.dtype}")
    signed = decoded.astype(np.int16 if record.pixel_representation == 1 else np.uint16)
    return np.asarray(signed.view(np.uint16))
