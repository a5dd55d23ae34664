"""Label files in the competition's long form: columns `ID,Label`, one row per image and label."""

# R rows of the file

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import Float64Array, Rows, printable
from rsna_e2e.tasks.labels.layout import Layout
from rsna_e2e.tasks.labels.table import Cells, LabelTable, Strings
from rsna_e2e.tasks.task import Task


def read_long(layout: Layout, texts: Mapping[str, Strings], task: Task) -> LabelTable:
    """Make a table of the columns `ID` and `Label` of a label file.

    Raises BadInputError when a label name is unknown, a Label is no number in [0, 1], or two rows of one ID differ.
    """
    row_ids = texts["ID"]
    values_R = _parse_values(layout, row_ids, texts["Label"])
    row_R, label_R, stems = _split_ids(layout, row_ids, task)
    cells = Cells(
        layout=layout,
        rows=row_R,
        images=stems,
        labels=label_R,
        values=values_R[row_R],
        row_name=task.label_id,
    )
    image_ids, values = cells.joined(task)
    n_known = int(np.count_nonzero(~np.isnan(values)))
    return LabelTable(image_ids=image_ids, values=values, n_repeated_rows=len(row_R) - n_known)


def _split_ids(layout: Layout, row_ids: Strings, task: Task) -> tuple[Rows, Rows, Strings]:
    """Split each `<image_id>_<label>`; return rows grouped by label, and for each of them the label and the image id.

    A label name may end like another one, so longer names are tried first.
    """
    is_open_R = np.ones(len(row_ids), dtype=bool)
    rows, labels, stems = [], [], []
    for label in sorted(range(len(task.slices.names)), key=lambda index: -len(task.slices.names[index])):
        suffix = task.label_id("", task.slices.names[label])
        fits = pc.and_(pc.ends_with(row_ids, suffix), pc.not_equal(row_ids, suffix))
        fits_R = fits.to_numpy(zero_copy_only=False) & is_open_R
        is_open_R &= ~fits_R
        rows.append(np.flatnonzero(fits_R))
        labels.append(np.full(len(rows[-1]), label, dtype=np.int64))
        stems.append(pc.utf8_slice_codeunits(row_ids.filter(pa.array(fits_R)), 0, -len(suffix)))
    if is_open_R.any():
        row = int(np.argmax(is_open_R))
        raise BadInputError(
            f"{layout.file}, line {layout.line_of(row)}: ID {row_ids[row].as_py()!r} does not end in a known "
            f"label. Expected <image>_<label> with a label of: {', '.join(task.slices.names)}"
        )
    return np.concatenate(rows), np.concatenate(labels), pa.concat_arrays(stems)


def _parse_values(layout: Layout, row_ids: Strings, row_texts: Strings) -> Float64Array:
    if layout.delimiter == ";":  # as spreadsheets write where the comma is the decimal sign
        row_texts = pc.replace_substring(row_texts, ",", ".")
    try:
        values_R: Float64Array = pc.cast(row_texts, pa.float64()).to_numpy()
    except pa.ArrowInvalid:
        row = _first_without_number(row_texts)
    else:
        is_bad_R = ~((values_R >= 0) & (values_R <= 1))
        if not is_bad_R.any():
            return values_R
        row = int(np.argmax(is_bad_R))
    raise BadInputError(
        f"{layout.file}, line {layout.line_of(row)}: Label of {printable(row_ids[row].as_py())} is "
        f"{row_texts[row].as_py()!r}. Expected a number in [0, 1]"
    )


def _first_without_number(texts: Strings) -> int:
    """Bisect for the first text that is no number: each half is cast as a whole."""
    low, high = 0, len(texts)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            pc.cast(texts[low:middle], pa.float64())
        except pa.ArrowInvalid:
            high = middle
        else:
            low = middle
    return low
