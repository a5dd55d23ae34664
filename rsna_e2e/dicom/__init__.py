"""Reads DICOM files: out come CT slices in Hounsfield units, or radiographs as stored, or a refusal with a reason code.

In goes a stream and the name of the file. Out comes for each slice first its header (`read_any_headers`, about a
hundred microseconds), so that slices can be put in order before any pixel is read, then its values and what was
repaired (`read_values`): HU of CT (`read_hounsfield`), and of X-rays, which may be PNG or JPEG files too, what the file
stores. Elements are found and checked here, byte by byte; pydicom, and the decoders it drives, see nothing but
compressed frames whose claims were checked. All this is meant for worker processes with one thread: stderr and Python's
warning filters, turned off while a decoder works, belong to the process, and a decoder may end it.
"""

import os
from pathlib import Path

from rsna_e2e.core.records import Int16Image, Modality, RawFile, Refusal, SliceRecord
from rsna_e2e.dicom.header import SliceHeader, read_headers
from rsna_e2e.dicom.modalities import read_any_headers, read_values
from rsna_e2e.dicom.pixels import read_hounsfield
from rsna_e2e.dicom.refuse import refuse_on_error
from rsna_e2e.dicom.repairs import Repair

__all__ = [
    "Repair",
    "SliceHeader",
    "read_any_headers",
    "read_headers",
    "read_hounsfield",
    "read_slice",
    "read_slices",
    "read_values",
    "refuse_on_error",
]


def read_slice(path: Path, modality: Modality = "ct") -> tuple[SliceRecord, Int16Image] | Refusal:
    """Read the first slice of a file whole: its record and its values [rows, columns], or why it is refused."""
    result = read_slices(path, modality, at_most=1)
    return result if isinstance(result, Refusal) else result[0]


def read_slices(
    path: Path, modality: Modality = "ct", *, at_most: int | None = None
) -> list[tuple[SliceRecord, Int16Image]] | Refusal:
    """Read the slices of a file whole, the first `at_most` of them: each one's record and values [rows, columns]."""

    def read() -> list[tuple[SliceRecord, Int16Image]] | Refusal:
        with path.open("rb") as stream:
            raw_file = RawFile(str(path), os.fstat(stream.fileno()).st_size, 0)
            headers = read_any_headers(stream, raw_file, modality)
            if isinstance(headers, Refusal):
                return headers
            slices = []
            for header in headers[:at_most]:
                result = read_values(stream, raw_file, header)
                if isinstance(result, Refusal):
                    return result
                slices.append(result)
            return slices

    return refuse_on_error(str(path), read)
