"""Reads DICOM files: out come CT slices in Hounsfield units, or a refusal with a stable reason code.

In goes a stream and the name of the file. Out comes for each slice first its header (`read_headers`, about a hundred
microseconds), so that slices can be put in order before any pixel is read, then its HU and what was repaired
(`read_hounsfield`). Elements are found and checked here, byte by byte; pydicom and the decoders behind it see
compressed frames alone, whose headers were checked. Both functions are meant for worker processes of one thread: they
silence stderr and Python's warnings while a decoder works, which concerns the whole process, and a decoder may end it.

Elements are found and checked here, byte by byte; pydicom, and the decoders it drives, see nothing but compressed
frames whose claims were checked. Reading is done in two steps, `read_headers` (about a hundred microseconds) and
`read_hounsfield`, so that slices can be put in order before any pixel is read. Both are meant for worker processes with
one thread: stderr and Python's warning filters, turned off while a decoder works, belong to the process, and a decoder
may end it.
"""

import os
from pathlib import Path

from rsna_e2e.core.records import Int16Image, RawFile, Refusal, SliceRecord
from rsna_e2e.dicom.header import SliceHeader, read_headers
from rsna_e2e.dicom.pixels import read_hounsfield
from rsna_e2e.dicom.refuse import refuse_on_error
from rsna_e2e.dicom.repairs import Repair

__all__ = ["Repair", "SliceHeader", "read_headers", "read_hounsfield", "read_slice", "read_slices", "refuse_on_error"]


def read_slice(path: Path) -> tuple[SliceRecord, Int16Image] | Refusal:
    """Read the first slice of a file whole: its record and its HU [rows, columns], or why it is refused."""
    result = read_slices(path, at_most=1)
    return result if isinstance(result, Refusal) else result[0]


def read_slices(path: Path, *, at_most: int | None = None) -> list[tuple[SliceRecord, Int16Image]] | Refusal:
    """Read the slices of a file whole, the first `at_most` of them: each one's record and HU [rows, columns]."""

    def read() -> list[tuple[SliceRecord, Int16Image]] | Refusal:
        with path.open("rb") as stream:
            raw_file = RawFile(str(path), os.fstat(stream.fileno()).st_size, 0)
            headers = read_headers(stream, raw_file)
            if isinstance(headers, Refusal):
                return headers
            slices = []
            for header in headers[:at_most]:
                result = read_hounsfield(stream, raw_file, header)
                if isinstance(result, Refusal):
                    return result
                slices.append(result)
            return slices

    return refuse_on_error(str(path), read)
