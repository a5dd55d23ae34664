"""Reads files of either modality: CT in DICOM form, or radiographs, which may be PNG and JPEG files as well."""

from typing import BinaryIO

from rsna_e2e.core.records import Int16Image, Modality, RawFile, Refusal, SliceRecord
from rsna_e2e.dicom.grey import read_grey
from rsna_e2e.dicom.header import SliceHeader, read_headers
from rsna_e2e.dicom.pixels import read_hounsfield
from rsna_e2e.dicom.rasters import is_raster, read_raster_header


def read_any_headers(stream: BinaryIO, raw_file: RawFile, modality: Modality) -> list[SliceHeader] | Refusal:
    """Read the headers of a file of this modality, whose stream stands at its begin; X-rays may be PNG or JPEG."""
    if modality == "xr" and is_raster(stream):
        return read_raster_header(stream, raw_file)
    return read_headers(stream, raw_file, modality)


def read_values(stream: BinaryIO, raw_file: RawFile, header: SliceHeader) -> tuple[SliceRecord, Int16Image] | Refusal:
    """Read the pixels of a slice whose header was read: HU of CT; of X-rays, what is stored less `value_offset`."""
    read = read_hounsfield if header.record.xray is None else read_grey
    return read(stream, raw_file, header)
