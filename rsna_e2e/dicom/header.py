"""Reads and checks everything in a file but its pixels: one header for each slice."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import Acquisition, Modality, RawFile, Refusal, SliceRecord, VoiLut
from rsna_e2e.dicom.acquisition import read_acquisition
from rsna_e2e.dicom.element_scanner import ByteReader, FileMeta, PixelElement, read_data_set, read_file_meta
from rsna_e2e.dicom.elements import Elements, RefusedError, shown
from rsna_e2e.dicom.enhanced_ct import frame_elements
from rsna_e2e.dicom.frame_offsets import frame_places
from rsna_e2e.dicom.header_ct import check_is_ct, ct_record
from rsna_e2e.dicom.header_xr import check_is_xray, voi_lut, xray_record
from rsna_e2e.dicom.image_ids import image_id_of
from rsna_e2e.dicom.inflate import inflate
from rsna_e2e.dicom.refuse import refuse_on_error
from rsna_e2e.dicom.syntaxes import Syntax, readable_syntax

_NO_ACQUISITION = Acquisition()  # X-rays are no volumes


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceHeader:
    """A slice before its pixels are read: its record, and how its pixel data lies in the file.

    pixel_offset, pixel_length: in bytes, in the stream or in what a deflated one inflates to; of a compressed slice
    they span its fragments. is_swapped: 8-bit pixels are exchanged in pairs. padding_low, padding_high: the file calls
    stored values in this range padding; None where it does not. acquisition: what tells volumes of its
    series apart. lut_bytes: of the entries of its VOI LUT, 0 without one.
    """

    record: SliceRecord
    bits_allocated: int
    pixel_offset: int
    pixel_length: int
    is_swapped: bool
    is_monochrome1: bool
    padding_low: int | None
    padding_high: int | None
    acquisition: Acquisition
    lut_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _PixelFormat:
    """How the pixels of all frames are written, and which stored values are padding."""

    bits_allocated: int
    is_monochrome1: bool
    padding: tuple[int, int] | tuple[None, None]


@dataclass(frozen=True, slots=True)
class _Opened:
    """A file that was read up to its pixels. n_bytes: of the stream that `reader` reads, which may be inflated."""

    reader: ByteReader
    n_bytes: int
    meta: FileMeta
    syntax: Syntax
    elements: Elements
    pixels: PixelElement | None


def read_headers(stream: BinaryIO, raw_file: RawFile, modality: Modality = "ct") -> list[SliceHeader] | Refusal:
    """Read everything but the pixels from a seekable stream that stands at its begin, and check it.

    Returns a header for each frame, in the file's order; files but those of enhanced CT have one.
    """
    return refuse_on_error(raw_file.name, lambda: _read_headers(stream, raw_file, modality))


def read_voi_lut(stream: BinaryIO, raw_file: RawFile) -> VoiLut | None:
    """Read the VOI LUT of an X-ray, whose header was read, again. None where there is none. Raises RefusedError."""
    stream.seek(0)
    return voi_lut(_open(stream, raw_file, "xr").elements)


def _open(stream: BinaryIO, raw_file: RawFile, modality: Modality) -> _Opened:
    reader = ByteReader(stream)
    meta = read_file_meta(reader)
    syntax = readable_syntax(meta.transfer_syntax_uid)
    n_bytes = raw_file.n_bytes
    if syntax.is_deflated:
        inflated = inflate(stream, begin=reader.tell())
        n_bytes = len(inflated.getbuffer())
        reader = ByteReader(inflated)
    data_set, pixels = read_data_set(reader, syntax, modality)
    elements = Elements(data_set, byte_order="big" if syntax.is_big_endian else "little")
    return _Opened(reader, n_bytes, meta, syntax, elements, pixels)


def _read_headers(stream: BinaryIO, raw_file: RawFile, modality: Modality) -> list[SliceHeader]:
    opened = _open(stream, raw_file, modality)
    with opened.elements.named_if_refused():
        return _headers(opened, image_id_of(raw_file.name), modality)


def _headers(opened: _Opened, stem: str, modality: Modality) -> list[SliceHeader]:
    """Return the headers of a file's slices. stem: what its name is as an image id."""
    elements, syntax, pixels = opened.elements, opened.syntax, opened.pixels
    n_frames = None
    if modality == "ct":
        n_frames = check_is_ct(elements, opened.meta.sop_class_uid)
    else:
        check_is_xray(elements, opened.meta.sop_class_uid)
    if pixels is None:
        raise RefusedError(Reason.NO_PIXEL_DATA, "the file has no PixelData, or ends before it")
    form = _pixel_format(elements)
    slices = [elements] if n_frames is None else frame_elements(elements, n_frames)
    records = _records(slices, opened, stem, modality, has_frames=n_frames is not None)
    frame_bytes = records[0].rows * records[0].columns * form.bits_allocated // 8
    places = frame_places(
        opened.reader, syntax, pixels, n_frames=len(records), frame_bytes=frame_bytes, n_bytes_of_stream=opened.n_bytes
    )
    is_swapped = syntax.is_big_endian and form.bits_allocated == 8 and pixels.vr == b"OW"
    if is_swapped and frame_bytes % 2 and len(records) > 1:
        raise RefusedError(Reason.UNSUPPORTED_PIXEL_FORMAT, "big endian frames of an odd number of 8-bit pixels")
    return [
        SliceHeader(
            record=record,
            bits_allocated=form.bits_allocated,
            pixel_offset=offset,
            pixel_length=length,
            is_swapped=is_swapped,
            is_monochrome1=form.is_monochrome1,
            padding_low=form.padding[0],
            padding_high=form.padding[1],
            acquisition=read_acquisition(of_slice) if modality == "ct" else _NO_ACQUISITION,
            lut_bytes=_lut_bytes(of_slice, record),
        )
        for of_slice, record, (offset, length) in zip(slices, records, places, strict=True)
    ]


def _lut_bytes(elements: Elements, record: SliceRecord) -> int:
    if record.xray is None or not record.xray.voi_lut:
        return 0
    lut = voi_lut(elements)
    return lut.n_bytes if lut else 0


def _records(
    slices: Sequence[Elements], opened: _Opened, stem: str, modality: Modality, *, has_frames: bool
) -> list[SliceRecord]:
    uid = opened.syntax.uid
    if modality == "xr":
        return [xray_record(opened.elements, opened.meta.sop_class_uid, uid, image_id=stem)]
    return [
        ct_record(elements, uid, image_id=f"{stem}_{number}" if has_frames else stem, number=number)
        for number, elements in enumerate(slices, start=1)
    ]


def _pixel_format(elements: Elements) -> _PixelFormat:
    """Source: PS3.3 C.7.6.3.1 and C.7.5.1.1.2, PS3.5 8.1.1."""
    samples = elements.unsigned("SamplesPerPixel", default=1)
    photometric = elements.text("PhotometricInterpretation")
    bits_allocated = elements.unsigned("BitsAllocated")
    if samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2") or bits_allocated not in (8, 16):
        detail = f"SamplesPerPixel {samples}, {shown(photometric)}, BitsAllocated {bits_allocated}"
        raise RefusedError(Reason.UNSUPPORTED_PIXEL_FORMAT, detail)
    bits_stored = elements.unsigned("BitsStored")
    high_bit = elements.unsigned("HighBit", default=bits_stored - 1)
    if not 1 <= bits_stored <= bits_allocated or high_bit != bits_stored - 1:
        detail = f"BitsAllocated {bits_allocated}, BitsStored {bits_stored}, HighBit {high_bit} contradict each other"
        raise RefusedError(Reason.BAD_VALUE, detail)
    is_signed = elements.unsigned("PixelRepresentation")
    if is_signed > 1:
        raise RefusedError(Reason.BAD_VALUE, "PixelRepresentation is neither 0 nor 1")
    value = elements.stored_value("PixelPaddingValue", is_signed=is_signed == 1)
    limit = elements.stored_value("PixelPaddingRangeLimit", is_signed=is_signed == 1)
    limit = value if limit is None else limit
    padding = (None, None) if value is None or limit is None else (min(value, limit), max(value, limit))
    return _PixelFormat(bits_allocated, photometric == "MONOCHROME1", padding)
