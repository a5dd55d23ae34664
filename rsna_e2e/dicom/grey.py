"""Reads the values of radiographs: exactly those that the file stores, and what is counted of them."""

import math
from dataclasses import replace
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.records import Int16Image, RawFile, Refusal, SliceRecord
from rsna_e2e.dicom.header import SliceHeader
from rsna_e2e.dicom.hounsfield import StoredImage, stored_values
from rsna_e2e.dicom.pixels import Mask, has_unused_bits_in, padding_in, whole_in
from rsna_e2e.dicom.rasters import is_raster_header, read_raster
from rsna_e2e.dicom.refuse import refuse_on_error
from rsna_e2e.dicom.repairs import Repair, joined
from rsna_e2e.dicom.stored_pixels import Frame, read_frame

# Of the values that are no padding: what a radiograph shows lies between, where nothing says how to show it
LOW_SHARE, HIGH_SHARE = 0.005, 0.995

_ROWS_AT_ONCE = 512  # so that counting takes little memory
_N_GREY = 1 << 16
_LEAST_GREY = -(1 << 15)


def read_grey(stream: BinaryIO, raw_file: RawFile, header: SliceHeader) -> tuple[SliceRecord, Int16Image] | Refusal:
    """Read the values of a radiograph whose header was read: int16 [rows, columns], which are its stored values less
    `value_offset`, and the record with what was counted."""
    return refuse_on_error(raw_file.name, lambda: _read_grey(stream, header))


def _read_grey(stream: BinaryIO, header: SliceHeader) -> tuple[SliceRecord, Int16Image]:
    is_raster = is_raster_header(header)
    frame, repairs = read_raster(stream, header) if is_raster else (read_frame(stream, header), [])
    is_signed = header.record.pixel_representation == 1
    stored = stored_values(frame.words, bits_stored=frame.bits_stored, is_signed=is_signed)
    padding = padding_in(header, frame, stored)
    if header.is_monochrome1:
        repairs.append(Repair.MONOCHROME1)
    if frame.lost_its_sign:
        repairs.append(Repair.CODESTREAM_SIGN)
    if has_unused_bits_in(frame, padding, is_signed=is_signed):
        repairs.append(Repair.UNUSED_BITS)
    if padding is not None:
        repairs.append(Repair.PADDING_KEPT)
    return _counted(header, frame, stored, padding, repairs)


def _counted(
    header: SliceHeader, frame: Frame, stored: StoredImage, padding: Mask | None, repairs: list[Repair]
) -> tuple[SliceRecord, Int16Image]:
    record = header.record
    assert record.xray is not None
    values = _less_offset(_with_whole_padding(header, frame, stored, padding), record.xray.value_offset)
    low, high = percentiles(stored if padding is None or padding.all() else stored[~padding])
    record = replace(
        record,
        decoder=frame.decoder,
        repair=joined([*map(Repair, filter(None, record.repair.split("+"))), *repairs]),
        n_padding=0 if padding is None else int(np.count_nonzero(padding)),
        hu_min=int(values.min()),
        hu_max=int(values.max()),
        xray=replace(
            record.xray,
            padding_low=_or_nan(header.padding_low),
            padding_high=_or_nan(header.padding_high),
            low_grey=low,
            high_grey=high,
        ),
    )
    return record, values


def _with_whole_padding(header: SliceHeader, frame: Frame, stored: StoredImage, padding: Mask | None) -> StoredImage:
    """Return stored values, but all bits of the word where these alone tell padding: of -2000 in 12 bits without sign
    the bits stored would be bone, and its grey that of bones elsewhere."""
    if padding is None:
        return stored
    assert header.padding_low is not None
    assert header.padding_high is not None
    is_told_by_all_bits = padding & ((stored < header.padding_low) | (stored > header.padding_high))
    return np.where(is_told_by_all_bits, whole_in(header, frame), stored)


def _or_nan(value: int | None) -> float:
    return math.nan if value is None else float(value)


def _less_offset(stored: StoredImage, offset: int) -> Int16Image:
    """Return values less an offset of 0 or 2^15 as int16, which they fit then."""
    words = stored.view(np.uint16)
    return (words - np.uint16(offset)).view(np.int16) if offset else words.view(np.int16)


def percentiles(stored: npt.NDArray[np.int16] | npt.NDArray[np.uint16]) -> tuple[int, int]:
    """Return the least values that `LOW_SHARE` and `HIGH_SHARE` of these, [H, W] or flat, do not exceed."""
    offset = 0 if stored.dtype.kind == "u" else -_LEAST_GREY
    counts = np.zeros(_N_GREY, dtype=np.int64)
    flat = stored.reshape(-1)
    step = _ROWS_AT_ONCE * max(stored.shape[-1] if stored.ndim > 1 else 1024, 1)
    for begin in range(0, len(flat), step):
        part = flat[begin : begin + step]
        counts += np.bincount(part.astype(np.int32) + offset if offset else part, minlength=_N_GREY)
    reached = np.cumsum(counts)
    low, high = np.searchsorted(reached, [np.ceil(share * len(flat)) for share in (LOW_SHARE, HIGH_SHARE)])
    return int(low) - offset, int(high) - offset
