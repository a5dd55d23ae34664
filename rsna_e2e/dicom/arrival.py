"""Whose a file is, read from its header when it arrives; all else of it is read later, by processes that may die."""

from dataclasses import dataclass
from typing import BinaryIO

from rsna_e2e.core.records import Refusal
from rsna_e2e.dicom.element_scanner import ByteReader, read_allowed, read_file_meta
from rsna_e2e.dicom.elements import Elements
from rsna_e2e.dicom.inflate import InflatedHead
from rsna_e2e.dicom.refuse import refuse_on_error
from rsna_e2e.dicom.syntaxes import readable_syntax
from rsna_e2e.dicom.tags import ARRIVAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """What an instance belongs to, and by what its study is looked up; the last three may be empty."""

    study_uid: str
    sop_uid: str
    patient_id: str
    accession: str
    study_date: str


def read_arrival(stream: BinaryIO) -> Arrival | Refusal:
    """Read the few elements of `ARRIVAL` in a DICOM file whose stream stands at its begin, within the scanner's limits.

    Returns a refusal, which names no file, of what is no DICOM file, has another transfer syntax than those that are
    read, or lacks one of its UIDs.
    """
    return refuse_on_error("", lambda: _read(stream))


def _read(stream: BinaryIO) -> Arrival:
    reader = ByteReader(stream)
    meta = read_file_meta(reader)
    syntax = readable_syntax(meta.transfer_syntax_uid)
    if syntax.is_deflated:
        reader = ByteReader(InflatedHead(stream, begin=reader.tell()))
    data_set, _ = read_allowed(reader, syntax, ARRIVAL)
    elements = Elements(data_set, byte_order="big" if syntax.is_big_endian else "little")
    return Arrival(
        study_uid=elements.identifier("StudyInstanceUID"),
        sop_uid=elements.identifier("SOPInstanceUID"),
        patient_id=elements.identifier("PatientID", default=""),
        accession=elements.advice("AccessionNumber"),
        study_date=elements.advice("StudyDate"),
    )
