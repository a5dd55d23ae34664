"""Makes a study store of DICOM files, or of X-rays: find them, read headers, order, then write pixels by series.

In goes a folder or archive, and a label file if there is one; out come a store and a report of what was taken, repaired
and refused. All decoding and writing happens in worker processes, which leave notes, files of headers and refusals; the
content of the store depends neither on the number of workers nor on which of them was faster. `label` adds the labels
of another task to a store, or replaces them, `repair` mends a damaged store from the same files, `read_raw` reads
headers alone, and `count_raw` counts files that have labels.
"""

from rsna_e2e.store.prepare.headers import RawCounts, RawHeaders, count_raw, read_raw
from rsna_e2e.store.prepare.index import pseudonymous_keys
from rsna_e2e.store.prepare.label import Further, label
from rsna_e2e.store.prepare.label_report import LabelFacts, LabelReport
from rsna_e2e.store.prepare.reading import Reading, modality_of
from rsna_e2e.store.prepare.repair import RepairReport, repair
from rsna_e2e.store.prepare.report import (
    NothingTakenError,
    Part,
    PartReport,
    PrepareReport,
    count_reasons,
)
from rsna_e2e.store.prepare.run import prepare, prepare_part

__all__ = [
    "Further",
    "LabelFacts",
    "LabelReport",
    "NothingTakenError",
    "Part",
    "PartReport",
    "PrepareReport",
    "RawCounts",
    "RawHeaders",
    "Reading",
    "RepairReport",
    "count_raw",
    "count_reasons",
    "label",
    "modality_of",
    "prepare",
    "prepare_part",
    "pseudonymous_keys",
    "read_raw",
    "repair",
]
