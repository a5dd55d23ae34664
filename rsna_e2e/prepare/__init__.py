"""From a folder of DICOM files to a study store: find, read headers, order, then write pixels series by series.

All decoding and writing happens in worker processes; only records come back. What ends up in the store depends neither
on the number of workers nor on which of them was faster.
"""

from rsna_e2e.prepare.run import PrepareReport, find_labels, prepare
from rsna_e2e.prepare.walk import find_files
from rsna_e2e.prepare.workers import available_cores

__all__ = ["PrepareReport", "available_cores", "find_files", "find_labels", "prepare"]
