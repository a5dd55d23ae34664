"""What every file says of its slices, of whatever modality: identifiers, size, and how values are written."""

from typing import Any

from rsna_e2e.core.limits import LEAST_PIXELS, MAX_FRAMES
from rsna_e2e.core.reasons import Reason
from rsna_e2e.dicom.elements import Elements, RefusedError
from rsna_e2e.dicom.repairs import Repair


def common_fields(elements: Elements, syntax_uid: str) -> tuple[dict[str, Any], list[Repair]]:
    """Return the fields of a `SliceRecord` that all modalities have, but for the size, and what was repaired of
    them."""
    burned_in = elements.text("BurnedInAnnotation", default="").upper()
    patient_id, study_uid = elements.identifier("PatientID", default=""), elements.identifier("StudyInstanceUID")
    fields = {
        "patient_id": patient_id or study_uid,  # Type 2, so it may be empty (PS3.3 C.7.1.1)
        "study_uid": study_uid,
        "series_uid": elements.identifier("SeriesInstanceUID"),
        "sop_uid": elements.identifier("SOPInstanceUID"),
        "bits_stored": elements.unsigned("BitsStored"),
        "pixel_representation": elements.unsigned("PixelRepresentation"),
        "transfer_syntax_uid": syntax_uid,
        "burned_in_annotation": burned_in if burned_in in ("YES", "NO") else "",
    }
    return fields, [] if patient_id else [Repair.PATIENT_BY_STUDY]


def number_of_frames(elements: Elements) -> int:
    """Return NumberOfFrames, in bounds."""
    n_frames = elements.integer("NumberOfFrames", default=1)
    if n_frames > MAX_FRAMES:
        raise RefusedError(Reason.TOO_LARGE, f"NumberOfFrames {n_frames}; expected up to {MAX_FRAMES}")
    if n_frames < 1:
        raise RefusedError(Reason.BAD_VALUE, f"NumberOfFrames {n_frames}")
    return n_frames


def matrix(elements: Elements, sides_px: tuple[int, int]) -> tuple[int, int]:
    """Return Rows and Columns. sides_px: the least and greatest that each may be."""
    rows, columns = elements.unsigned("Rows"), elements.unsigned("Columns")
    check_sides(rows, columns, sides_px)
    return rows, columns


def check_sides(rows: int, columns: int, sides_px: tuple[int, int]) -> None:
    """Raise RefusedError for an image that is larger than any, or has no two pixels."""
    least, most = sides_px
    if min(rows, columns) < least or max(rows, columns) > most or rows * columns < LEAST_PIXELS:
        detail = f"Rows {rows}, Columns {columns}; expected {least} to {most}, and more than one pixel"
        raise RefusedError(Reason.BAD_VALUE, detail)
