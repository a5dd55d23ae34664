"""Label files: a long form, columns `ID,Label` with one row per image and label, and wide tables, one row per image.

In comes a table, bare or packed; out come its images and their labels, or an error that names line and column.
Submissions have the long form, in which `Label` is a probability; or of boxes, one row per image.
"""

from rsna_e2e.tasks.labels.box_submissions import BoxTable, write_boxes
from rsna_e2e.tasks.labels.boxes import write_box_labels
from rsna_e2e.tasks.labels.layout import LONG_COLUMNS, has_label_columns, is_label_file, task_of_header
from rsna_e2e.tasks.labels.read import (
    is_box_submission,
    read_box_submission,
    read_image_ids,
    read_labels,
    read_patients,
)
from rsna_e2e.tasks.labels.table import LabelTable
from rsna_e2e.tasks.labels.write import write_labels

__all__ = [
    "LONG_COLUMNS",
    "BoxTable",
    "LabelTable",
    "has_label_columns",
    "is_box_submission",
    "is_label_file",
    "read_box_submission",
    "read_image_ids",
    "read_labels",
    "read_patients",
    "task_of_header",
    "write_box_labels",
    "write_boxes",
    "write_labels",
]
