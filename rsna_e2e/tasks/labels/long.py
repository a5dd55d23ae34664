"""Label files in the long form: one row per image and label, and one per study and label where studies have own."""

# R rows of the file

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import Float64Array, Rows, printable
from rsna_e2e.tasks.labels.layout import Layout
from rsna_e2e.tasks.labels.table import Cells, LabelTable, Lines, Strings, places_of
from rsna_e2e.tasks.task import Task


def read_long(layout: Layout, texts: Mapping[str, Strings], task: Task) -> LabelTable:
    """Make a table of the columns `ID` and `Label` of a label file, which `Csv.columns` may call otherwise.

    Raises BadInputError when a label name is unknown, a Label is no number in [0, 1], or two rows of one ID differ.
    """
    row_ids = texts["ID"]
    values_R = _parse_values(layout, row_ids, texts["Label"])
    names = {"slice": task.slices.names, "study": task.series.names if task.csv.series_id else ()}
    spell: dict[str, Callable[[str, str], str]] = {"slice": task.label_id, "study": task.study_label_id}
    found = _split_ids(
        layout, row_ids, {level: [spell[level]("", name) for name in names[level]] for level in names}, task
    )
    joined = {
        level: Cells(
            layout=layout, rows=rows, images=stems, labels=labels, values=values_R[rows], row_name=spell[level]
        ).joined(names[level])
        for level, (rows, labels, stems) in found.items()
    }
    n_known = sum(int(np.count_nonzero(~np.isnan(values))) for _, values, _ in joined.values())
    (image_ids, values, first_rows), (study_ids, study_values, _) = joined["slice"], joined["study"]
    return LabelTable(
        image_ids=image_ids,
        values=values,
        n_repeated_rows=len(row_ids) - n_known,
        lines=Lines(layout=layout, rows=first_rows),
        places=places_of(first_rows),
        study_ids=study_ids,
        study_values=study_values,
    )


def _split_ids(
    layout: Layout, row_ids: Strings, suffixes: Mapping[str, Sequence[str]], task: Task
) -> dict[str, tuple[Rows, Rows, Strings]]:
    """Split each ID into what it names and one of the suffixes of the labels of a level; return of each level its rows,
    grouped by label, and for each of them the label and what it names.

    A suffix may end like another one, so longer ones are tried first; that of the only label of images may be empty.
    """
    is_open_R = np.ones(len(row_ids), dtype=bool)
    parts: dict[str, list[tuple[Rows, Rows, Strings]]] = {level: [] for level in suffixes}
    every = [(level, label, suffix) for level in suffixes for label, suffix in enumerate(suffixes[level])]
    for level, label, suffix in sorted(every, key=lambda one: -len(one[2])):
        fits = pc.and_(pc.ends_with(row_ids, suffix), pc.not_equal(row_ids, suffix))
        fits_R = fits.to_numpy(zero_copy_only=False) & is_open_R
        is_open_R &= ~fits_R
        rows, stems = np.flatnonzero(fits_R), row_ids.filter(pa.array(fits_R))
        if suffix:
            stems = pc.utf8_slice_codeunits(stems, 0, -len(suffix))
        parts[level].append((rows, np.full(len(rows), label, dtype=np.int64), stems))
    if is_open_R.any():
        row = int(np.argmax(is_open_R))
        raise BadInputError(
            f"{layout.file}, line {layout.line_of(row)}: ID {row_ids[row].as_py()!r} does not end in a known "
            f"label. Expected {task.label_id('<image>', '<label>')} with a label of: {', '.join(task.slices.names)}"
        )
    return {level: _concatenated(found) for level, found in parts.items()}


def _concatenated(parts: Sequence[tuple[Rows, Rows, Strings]]) -> tuple[Rows, Rows, Strings]:
    """Join the rows, labels and stems of all labels of a level, which may have none."""
    empty = (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), pa.array([], pa.string()))
    rows, labels, stems = zip(*(parts or [empty]), strict=True)
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
