"""The data report: exploratory statistics of a study store or of raw DICOM files, as a page and as JSON."""

from rsna_e2e.evaluation.inspection.content import N_SAMPLED, inspect_raw, inspect_store
from rsna_e2e.evaluation.inspection.page import check_out, write_inspection
from rsna_e2e.evaluation.inspection.who import Named, who_is, who_was

__all__ = [
    "N_SAMPLED",
    "Named",
    "check_out",
    "inspect_raw",
    "inspect_store",
    "who_is",
    "who_was",
    "write_inspection",
]
