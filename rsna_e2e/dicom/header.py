"""Reads and checks everything in a file but its pixels: one header for each slice."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from rsna_e2e.core.limits import (
    LEAST_PIXELS,
    LENGTHS_MM,
    MAX_FRAMES,
    MAX_POSITION_MM,
    MAX_WINDOW_HU,
    ROUNDED_AXES,
    SIDES_PX,
)
from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import Acquisition, RawFile, Refusal, SliceRecord
from rsna_e2e.dicom.acquisition import read_acquisition
from rsna_e2e.dicom.element_scanner import ByteReader, FileMeta, read_data_set, read_file_meta
from rsna_e2e.dicom.elements import Elements, RefusedError, shown
from rsna_e2e.dicom.enhanced_ct import frame_elements
from rsna_e2e.dicom.frame_offsets import frame_places
from rsna_e2e.dicom.image_ids import image_id_of
from rsna_e2e.dicom.inflate import inflate
from rsna_e2e.dicom.refuse import refuse_on_error
from rsna_e2e.dicom.repairs import Repair, joined
from rsna_e2e.dicom.syntaxes import readable_syntax

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"  # PS3.4 B.5
ENHANCED_CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceHeader:
    """A slice before its pixels are read: its record, and how its pixel data lies in the file.

    pixel_offset, pixel_length: in bytes, in the stream or in what a deflated one inflates to; of a compressed slice
    they span its fragments. is_swapped: 8-bit pixels are exchanged in pairs. padding_low, padding_high: the file calls
    stored values in this range padding; None where it does not. acquisition: what tells volumes of its
    series apart.
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


@dataclass(frozen=True, slots=True)
class _PixelFormat:
    """How the pixels of all frames are written, and which stored values are padding."""

    bits_allocated: int
    is_monochrome1: bool
    padding: tuple[int, int] | tuple[None, None]


def read_headers(stream: BinaryIO, raw_file: RawFile) -> list[SliceHeader] | Refusal:
    """Read everything but the pixels from a seekable stream that stands at its begin, and check it.

    Returns a header for each frame, in the file's order; files but those of enhanced CT have one.
    """
    return refuse_on_error(raw_file.name, lambda: _read_headers(stream, raw_file))


def _read_headers(stream: BinaryIO, raw_file: RawFile) -> list[SliceHeader]:
    reader = ByteReader(stream)
    meta = read_file_meta(reader)
    syntax = readable_syntax(meta.transfer_syntax_uid)
    n_bytes = raw_file.n_bytes
    if syntax.is_deflated:
        inflated = inflate(stream, begin=reader.tell())
        n_bytes = len(inflated.getbuffer())
        reader = ByteReader(inflated)
    data_set, pixels = read_data_set(reader, syntax)
    elements = Elements(data_set, byte_order="big" if syntax.is_big_endian else "little")
    with elements.named_if_refused():
        n_frames = _check_is_ct(elements, meta)
        if pixels is None:
            raise RefusedError(Reason.NO_PIXEL_DATA, "the file has no PixelData, or ends before it")
        form = _pixel_format(elements)
        slices = [elements] if n_frames is None else frame_elements(elements, n_frames)
        stem = image_id_of(raw_file.name)
        records = _slice_records(slices, syntax.uid, has_frames=n_frames is not None, stem=stem)
        frame_bytes = records[0].rows * records[0].columns * form.bits_allocated // 8
        places = frame_places(
            reader, syntax, pixels, n_frames=len(records), frame_bytes=frame_bytes, n_bytes_of_stream=n_bytes
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
                acquisition=read_acquisition(of_slice),
            )
            for of_slice, record, (offset, length) in zip(slices, records, places, strict=True)
        ]


def _check_is_ct(elements: Elements, meta: FileMeta) -> int | None:
    """Return the number of frames of a file of enhanced CT, and None for one that holds a single slice."""
    # The 2019 competition's files carry their SOP class in the file meta information only.
    sop_class_uid = elements.text("SOPClassUID", default=meta.sop_class_uid)
    modality = elements.text("Modality", default="")
    if sop_class_uid not in ("", CT_IMAGE_STORAGE, ENHANCED_CT_IMAGE_STORAGE):
        raise RefusedError(Reason.NOT_CT, f"SOP class {shown(sop_class_uid)}")
    if modality != "CT" and (modality or not sop_class_uid):
        raise RefusedError(
            Reason.NOT_CT, f"Modality is {shown(modality)}" if modality else "neither SOPClassUID nor Modality says CT"
        )
    if "LOCALIZER" in elements.text("ImageType", default="").upper().split("\\"):
        raise RefusedError(Reason.LOCALIZER, "ImageType says LOCALIZER (PS3.3 C.8.2.1.1.1)")
    n_frames = elements.integer("NumberOfFrames", default=1)
    if n_frames > MAX_FRAMES:
        raise RefusedError(Reason.TOO_LARGE, f"NumberOfFrames {n_frames}; expected up to {MAX_FRAMES}")
    if n_frames < 1:
        raise RefusedError(Reason.BAD_VALUE, f"NumberOfFrames {n_frames}")
    if sop_class_uid == ENHANCED_CT_IMAGE_STORAGE:
        return n_frames
    if n_frames > 1:
        raise RefusedError(Reason.MULTI_FRAME, f"NumberOfFrames {n_frames} in a single-frame SOP class")
    return None


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


def _slice_records(slices: Sequence[Elements], syntax_uid: str, *, has_frames: bool, stem: str) -> list[SliceRecord]:
    return [
        _slice_record(elements, syntax_uid, image_id=f"{stem}_{number}" if has_frames else stem, number=number)
        for number, elements in enumerate(slices, start=1)
    ]


def _slice_record(elements: Elements, syntax_uid: str, *, image_id: str, number: int) -> SliceRecord:
    rows, columns = _matrix(elements)
    pixel_spacing_mm = _pixel_spacing(elements)
    slope, intercept, unit = _rescale(elements)
    image_position_mm, image_orientation = _image_position(elements), _image_orientation(elements)
    window_center, window_width = elements.first_window(at_most=MAX_WINDOW_HU)
    burned_in = elements.text("BurnedInAnnotation", default="").upper()
    patient_id, study_uid = elements.identifier("PatientID", default=""), elements.identifier("StudyInstanceUID")
    return SliceRecord(
        image_id=image_id,
        patient_id=patient_id or study_uid,  # Type 2, so it may be empty (PS3.3 C.7.1.1)
        study_uid=study_uid,
        series_uid=elements.identifier("SeriesInstanceUID"),
        sop_uid=elements.identifier("SOPInstanceUID"),
        frame_number=number,
        rows=rows,
        columns=columns,
        image_position_mm=image_position_mm,
        image_orientation=image_orientation,
        pixel_spacing_mm=pixel_spacing_mm,
        slope=slope,
        intercept=intercept,
        bits_stored=elements.unsigned("BitsStored"),
        pixel_representation=elements.unsigned("PixelRepresentation"),
        window_center_hu=window_center,
        window_width_hu=window_width,
        transfer_syntax_uid=syntax_uid,
        slice_thickness_mm=elements.first_between("SliceThickness", *LENGTHS_MM),
        burned_in_annotation=burned_in if burned_in in ("YES", "NO") else "",
        repair=joined([*([] if patient_id else [Repair.PATIENT_BY_STUDY]), *unit]),
    )


def _matrix(elements: Elements) -> tuple[int, int]:
    """Return Rows and Columns, in bounds."""
    rows, columns = elements.unsigned("Rows"), elements.unsigned("Columns")
    if min(rows, columns) < SIDES_PX[0] or max(rows, columns) > SIDES_PX[1] or rows * columns < LEAST_PIXELS:
        detail = f"Rows {rows}, Columns {columns}; expected {SIDES_PX[0]} to {SIDES_PX[1]}, and more than one pixel"
        raise RefusedError(Reason.BAD_VALUE, detail)
    return rows, columns


def _pixel_spacing(elements: Elements) -> tuple[float, float]:
    """Return PixelSpacing, between rows and between columns, in mm and in bounds."""
    between_rows, between_columns = elements.numbers("PixelSpacing", 2)
    if min(between_rows, between_columns) < LENGTHS_MM[0] or max(between_rows, between_columns) > LENGTHS_MM[1]:
        raise RefusedError(Reason.BAD_VALUE, f"PixelSpacing {between_rows:g} x {between_columns:g} mm")
    return between_rows, between_columns


def _image_position(elements: Elements) -> tuple[float, float, float]:
    """Return ImagePositionPatient, in mm and in bounds."""
    x, y, z = elements.numbers("ImagePositionPatient", 3)
    if max(abs(x), abs(y), abs(z)) > MAX_POSITION_MM:
        detail = f"ImagePositionPatient lies more than {MAX_POSITION_MM:,.0f} mm from the origin"
        raise RefusedError(Reason.BAD_VALUE, detail)
    return x, y, z


def _rescale(elements: Elements) -> tuple[float, float, list[Repair]]:
    """Return slope and intercept of the rescale to HU, and a repair where the unit is unspecified.

    GDCM, and so SimpleITK, writes US (unspecified) for every CT; scanners write it for perfusion maps, and name these
    in ImageType or FrameType. `pixels` checks in addition that the slice has air at about -1000. Source: PS3.3 C.11.1,
    C.8.15.3.10, and C.8.16.1.3 (image flavor).
    """
    (slope,) = elements.numbers("RescaleSlope", 1)
    if slope == 0:
        raise RefusedError(Reason.BAD_VALUE, "RescaleSlope is 0")
    (intercept,) = elements.numbers("RescaleIntercept", 1)
    # Perfusion maps, electron density and more are stored as CT too; the unit alone tells them apart.
    unit = elements.text("RescaleType", default="HU")
    if unit == "HU":
        return slope, intercept, []
    is_map = any("PERFUSION" in elements.text(name, default="").upper() for name in ("ImageType", "FrameType"))
    if unit == "US" and slope == 1 and intercept.is_integer() and not is_map:
        return slope, intercept, [Repair.UNSPECIFIED_UNIT]
    detail = "" if unit != "US" else f" (unspecified), {'of PERFUSION' if is_map else f'RescaleSlope {slope:g}'}"
    raise RefusedError(Reason.NOT_HOUNSFIELD, f"RescaleType is {shown(unit)}{detail}")


def _image_orientation(elements: Elements) -> tuple[float, float, float, float, float, float]:
    """Return ImageOrientationPatient: two orthogonal unit vectors, but for rounding (PS3.3 C.7.6.2.1.1)."""
    a, b, c, d, e, f = elements.numbers("ImageOrientationPatient", 6)
    row, column = (a, b, c), (d, e, f)
    lengths = math.hypot(*row), math.hypot(*column)
    product = sum(a * b for a, b in zip(row, column, strict=True))
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(product)) > ROUNDED_AXES:
        detail = "ImageOrientationPatient is not two orthogonal unit vectors"
        raise RefusedError(Reason.BAD_VALUE, detail)
    return a, b, c, d, e, f
