"""Converts the words of a frame to HU: padding, lost signs and unused bits are handled, and each repair is named."""

from dataclasses import replace
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import Int16Array, Int16Image, RawFile, Refusal, SliceRecord
from rsna_e2e.dicom.elements import RefusedError
from rsna_e2e.dicom.header import SliceHeader
from rsna_e2e.dicom.hounsfield import (
    AIR_HU,
    Hounsfield,
    StoredImage,
    can_be_measured,
    can_be_measured_if_wrapped,
    has_air,
    has_unused_bits,
    has_unused_bits_of_signed,
    is_padding,
    is_wrapped_12bit,
    stored_values,
    to_hounsfield,
    unwrap_12bit,
    whole_values,
)
from rsna_e2e.dicom.refuse import refuse_on_error
from rsna_e2e.dicom.repairs import Repair, has_repair, joined
from rsna_e2e.dicom.stored_pixels import Frame, read_frame

Mask = npt.NDArray[np.bool_]


def read_hounsfield(
    stream: BinaryIO, raw_file: RawFile, header: SliceHeader
) -> tuple[SliceRecord, Int16Image] | Refusal:
    """Read the pixels of a slice whose header was read: int16 HU [rows, columns], and the record with what was done."""
    return refuse_on_error(raw_file.name, lambda: _read_hounsfield(stream, header))


def _read_hounsfield(stream: BinaryIO, header: SliceHeader) -> tuple[SliceRecord, Int16Image]:
    record, frame = header.record, read_frame(stream, header)
    is_signed = record.pixel_representation == 1
    stored = stored_values(frame.words, bits_stored=frame.bits_stored, is_signed=is_signed)
    padding = padding_in(header, frame, stored)
    repairs = [
        *map(Repair, filter(None, record.repair.split("+"))),
        *([Repair.MONOCHROME1] if header.is_monochrome1 else []),
        *([Repair.CODESTREAM_SIGN] if frame.lost_its_sign else []),
    ]
    if has_unused_bits_in(frame, padding, is_signed=is_signed):
        repairs.append(Repair.UNUSED_BITS)
    if _is_wrapped(record):
        repairs.append(Repair.WRAPPED_12BIT)
        result = Hounsfield(unwrap_12bit(stored), 0, 0)
    else:
        result = to_hounsfield(stored, record.slope, record.intercept)
    if has_repair(record.repair, Repair.UNSPECIFIED_UNIT):
        # Values that are HU as they are stored may be computed; others come from a scanner.
        measured = result.hu if padding is None else result.hu[~padding]
        _check_has_air(measured, is_measured=record.intercept != 0)
    if padding is not None:
        kind, result = _without_padding(header, stored, result, padding)
        repairs.append(kind)
    record = replace(
        record,
        decoder=frame.decoder,
        repair=joined(repairs),
        n_rounded=result.n_rounded,
        n_saturated=result.n_saturated,
        n_padding=0 if padding is None else int(np.count_nonzero(padding)),
        hu_min=int(result.hu.min()),
        hu_max=int(result.hu.max()),
    )
    return record, result.hu


def padding_in(header: SliceHeader, frame: Frame, stored: StoredImage) -> Mask | None:
    """Mark the pixels that the file calls padding; None when there are none."""
    if header.padding_low is None or header.padding_high is None:
        return None
    padding = is_padding(whole_in(header, frame), stored, low=header.padding_low, high=header.padding_high)
    return padding if padding.any() else None


def whole_in(header: SliceHeader, frame: Frame) -> StoredImage:
    """Return the values that all bits of the words of a file are."""
    is_signed = header.record.pixel_representation == 1
    return whole_values(frame.words, bits_allocated=frame.bits_allocated, is_signed=is_signed)


def _is_wrapped(record: SliceRecord) -> bool:
    is_signed = record.pixel_representation == 1
    return is_wrapped_12bit(
        bits_stored=record.bits_stored, is_signed=is_signed, slope=record.slope, intercept=record.intercept
    )


def _check_has_air(hu: Int16Array, *, is_measured: bool) -> None:
    if not has_air(hu, is_measured=is_measured):
        detail = "RescaleType is US (unspecified), and the pixels hold no air near -1000, as HU do around a patient"
        raise RefusedError(Reason.NOT_HOUNSFIELD, detail)


def has_unused_bits_in(frame: Frame, padding: Mask | None, *, is_signed: bool) -> bool:
    """Whether bits above BitsStored mean something in a pixel that is no padding."""
    words = frame.words if padding is None else frame.words[~padding]
    if words.size == 0:
        return False
    if is_signed:
        return has_unused_bits_of_signed(words, bits_stored=frame.bits_stored, bits_allocated=frame.bits_allocated)
    return has_unused_bits(words, bits_stored=frame.bits_stored)


def _padding_can_be_measured(record: SliceRecord, low: int, high: int) -> bool:
    if _is_wrapped(record):
        return can_be_measured_if_wrapped(low, high)
    return can_be_measured(*sorted(record.slope * end + record.intercept for end in (low, high)))


def _without_padding(
    header: SliceHeader, stored: StoredImage, result: Hounsfield, padding: Mask
) -> tuple[Repair, Hounsfield]:
    """Set padding to the HU of air, unless its HU could have been measured; padding is not counted as rounded or
    saturated."""
    record = header.record
    assert header.padding_low is not None
    assert header.padding_high is not None
    if _padding_can_be_measured(record, header.padding_low, header.padding_high):
        return Repair.PADDING_KEPT, result
    hu = np.where(padding, np.int16(AIR_HU), result.hu)
    if result.n_rounded == result.n_saturated == 0 or padding.all():
        return Repair.PADDING_AS_AIR, Hounsfield(hu, 0, 0)
    measured = to_hounsfield(stored[~padding], record.slope, record.intercept)
    return Repair.PADDING_AS_AIR, Hounsfield(hu, measured.n_rounded, measured.n_saturated)
