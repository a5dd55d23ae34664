"""Says which patient a slice is of, where its file does not, or where the pixels of two patients are the same."""

# N slices

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from rsna_e2e.core.records import Column, Rows
from rsna_e2e.dicom.repairs import Repair, mark_repaired
from rsna_e2e.store.prepare.tables import Table, to_numpy

_PIXELS = ("rows", "columns", "value_offset", "checksum")  # by which X-rays are the same


def with_patients(headers: Table) -> Table:
    """Return headers in which slices without a PatientID have that of other slices of their study.

    Where these have none, or several, the study stands for the patient, as in each header by itself.
    """
    is_open = mark_repaired(to_numpy(headers, "repair").tolist(), Repair.PATIENT_BY_STUDY)
    if not is_open.any():
        return headers
    patients, studies = to_numpy(headers, "patient_id"), to_numpy(headers, "study_uid")
    named: dict[str, set[str]] = {}
    for study, patient in zip(studies[~is_open], patients[~is_open], strict=True):
        named.setdefault(study, set()).add(patient)
    for row in np.flatnonzero(is_open):
        known = named.get(studies[row], set())
        if len(known) == 1:
            patients[row] = next(iter(known))
    place = headers.column_names.index("patient_id")
    return headers.set_column(place, headers.field(place), [patients.tolist()])


def with_patients_of_xrays(index: Mapping[str, Column], patients: Sequence[str], rows: Rows) -> dict[str, Column]:
    """Return the columns of X-rays in which those without a PatientID are of the patient that the label file names, and
    patients of whom there are two images with the same pixels are one: the one whose id comes first.

    So no image is learned from and predicted, under two names. Images of one value say nothing. patients: that the
    rows of the label table name, "" for none, () where it names none at all; rows [N]: of each image, -1 for none.
    """
    ids, repairs = index["patient_id"].copy(), index["repair"].copy()
    if len(patients):
        for row in np.flatnonzero(mark_repaired(repairs.tolist(), Repair.PATIENT_BY_STUDY) & (rows >= 0)).tolist():
            if patient := patients[rows[row]]:
                ids[row] = patient
                repairs[row] = repairs[row].replace(Repair.PATIENT_BY_STUDY, Repair.PATIENT_BY_LABELS)
    first_of = _joined(ids, [ids[same].tolist() for same in _same_pixels(index)])
    for row, patient in enumerate(ids.tolist()):
        if (first := first_of.get(patient, patient)) != patient:
            ids[row] = first
            repairs[row] = "+".join(filter(None, [repairs[row], Repair.PATIENT_BY_PIXELS]))
    return {**index, "patient_id": ids, "repair": repairs}


def _same_pixels(index: Mapping[str, Column]) -> Iterator[Rows]:
    """Yield the rows of X-rays with the same pixels, two of them or more."""
    rows = np.flatnonzero(index["hu_min"] < index["hu_max"])
    columns = [index[name][rows] for name in _PIXELS]
    order = np.lexsort(columns)
    is_new = np.any([column[order[1:]] != column[order[:-1]] for column in columns], axis=0)
    groups = np.split(rows[order], np.flatnonzero(is_new) + 1)
    return (group for group in groups if len(group) > 1)


def _joined(ids: Column, same: Sequence[Sequence[str]]) -> dict[str, str]:
    """Return for patients that are the same as others, directly or through them, the first of these by id."""
    first_of: dict[str, str] = {}

    def first(patient: str) -> str:
        while (other := first_of.get(patient, patient)) != patient:
            patient = other
        return patient

    for patients in same:
        roots = sorted({first(patient) for patient in patients})
        first_of |= dict.fromkeys(roots[1:], roots[0])
    return {patient: first(patient) for patient in first_of}
