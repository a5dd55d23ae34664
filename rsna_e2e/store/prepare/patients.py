"""Assigns slices without a PatientID to the patient of their study."""

import numpy as np

from rsna_e2e.dicom.repairs import Repair, mark_repaired
from rsna_e2e.store.prepare.tables import Table, to_numpy


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
