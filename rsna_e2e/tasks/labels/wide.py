"""Wide label tables: one row per image, one column per label, of the image or of its study."""

# R rows of the file, C known cells, N images, E studies

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import Float64Array, Rows, printable
from rsna_e2e.tasks.labels.layout import STUDY, Layout, some_columns
from rsna_e2e.tasks.labels.table import Cells, LabelTable, Lines, Strings, numbered, places_of
from rsna_e2e.tasks.task import Task

WORDS = {"yes": 1.0, "no": 0.0, "true": 1.0, "false": 0.0, "positive": 1.0, "negative": 0.0}

_UNKNOWN, _WRONG = np.nan, -1.0
_UNKNOWN_WORDS = ("", "nan")  # as data frames write it
_NUMBER = re.compile(r"\+?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


def read_wide(layout: Layout, texts: Mapping[str, Strings], task: Task) -> LabelTable:
    """Make a table of the columns of a wide label file, by name of what they hold.

    Labels of studies stand in each row of a study. Raises BadInputError for an empty ID, for a cell that is neither
    empty, a number in [0, 1] nor one of `WORDS`, for two rows of an image or a study that differ, and when all cells
    are empty.
    """
    image_ids, values, first_rows, n_rows = _of_images(layout, texts, (*task.slices.names, *task.slices.notes))
    study_ids, study_values = _of_studies(layout, texts, (*task.series.names, *task.series.notes))
    if not image_ids and not study_ids:
        raise BadInputError(f"{layout.file}: no label in it, all cells are empty. Give 0 or 1")
    return LabelTable(
        image_ids=image_ids,
        values=values[:, : len(task.slices)],
        notes=values[:, len(task.slices) :],
        lines=Lines(layout=layout, rows=first_rows),
        places=places_of(first_rows),
        n_repeated_rows=n_rows - len(image_ids),
        study_ids=study_ids,
        study_values=study_values[:, : len(task.series)],
        study_notes=study_values[:, len(task.series) :],
        columns=layout.columns,
        unused=layout.unused,
    )


def _of_images(
    layout: Layout, texts: Mapping[str, Strings], names: Sequence[str]
) -> tuple[list[str], Float64Array, Rows, int]:
    """Return the images that anything is known of, what is known [N, len(names)], the first row of each image, and how
    many rows say it."""
    if "ID" not in texts:
        return [], np.empty((0, len(names))), np.empty(0, dtype=np.int64), 0
    row_ids = ids_of(layout, texts, "ID", "Name the image")
    values_RL = np.full((len(row_ids), len(names)), _UNKNOWN)
    for label, name in enumerate(names):
        if name in texts:
            values_RL[:, label] = _values(layout, texts, name)
    row_C, label_C = np.nonzero(~np.isnan(values_RL))
    cells = Cells(
        layout=layout,
        rows=row_C,
        images=row_ids.take(pa.array(row_C)),
        labels=label_C,
        values=values_RL[row_C, label_C],
        row_name=lambda image_id, label: f"{image_id} in {layout.columns[label]}",
    )
    return *cells.joined(names), len(np.unique(row_C))


def _of_studies(layout: Layout, texts: Mapping[str, Strings], names: Sequence[str]) -> tuple[list[str], Float64Array]:
    """Return the studies that anything is known of, and what is known [E, len(names)]: column by column, as each study
    has as many rows as slices."""
    if STUDY not in texts:
        return [], np.empty((0, len(names)))
    ids, study_R = numbered(ids_of(layout, texts, STUDY, "Name the study"))
    values_EM = np.full((len(ids), len(names)), _UNKNOWN)
    for label, name in enumerate(names):
        if name not in texts:
            continue
        values_R = _values(layout, texts, name)
        rows = np.flatnonzero(~np.isnan(values_R))[::-1]  # so that the first row of each study is what stays
        values_EM[study_R[rows], label] = values_R[rows]
        differs = values_EM[study_R[rows], label] != values_R[rows]
        if differs.any():
            row = int(rows[differs][-1])
            first = int(rows[study_R[rows] == study_R[row]][-1])
            raise BadInputError(
                f"{layout.file}: rows of study {ids[study_R[row]]} differ in {layout.columns[name]} (lines "
                f"{layout.line_of(first)}, {layout.line_of(row)}). Keep the right value in all rows of the study"
            )
    is_known_E = (~np.isnan(values_EM)).any(axis=1)
    return [ids[study] for study in np.flatnonzero(is_known_E)], values_EM[is_known_E]


def ids_of(layout: Layout, texts: Mapping[str, Strings], target: str, what_to_do: str) -> Strings:
    """Return the column of IDs. Raises BadInputError where one is empty."""
    ids = texts[target]
    if (is_empty_R := pc.equal(ids, "").to_numpy(zero_copy_only=False)).any():
        place = f"{layout.file}, line {layout.line_of(int(np.argmax(is_empty_R)))}"
        raise BadInputError(f"{place}: {layout.columns[target]} is empty. {what_to_do}, or remove the row")
    return ids


def _values(layout: Layout, texts: Mapping[str, Strings], name: str) -> Float64Array:
    """Return the values [R] of the column of a label."""
    column = texts[name].dictionary_encode()
    decimal_comma = layout.delimiter == ";"  # as spreadsheets write where the comma is the decimal sign
    values = np.array([_value(text, decimal_comma=decimal_comma) for text in column.dictionary.to_pylist()])
    values_R: Float64Array = values[column.indices.to_numpy()]
    if (is_wrong_R := values_R == _WRONG).any():
        row = int(np.argmax(is_wrong_R))
        row_id = texts["ID" if "ID" in texts else STUDY][row].as_py()
        unused = f". Columns that are not read, unless --columns names them: {some_columns(layout.unused)}"
        raise BadInputError(
            f"{layout.file}, line {layout.line_of(row)}: {layout.columns[name]} of {printable(row_id)} is "
            f"{texts[name][row].as_py()!r}. Expected a number in [0, 1], a word of {', '.join(WORDS)}, or nothing "
            f"where it is unknown{unused if layout.unused else ''}"
        )
    return values_R


def _value(text: str, *, decimal_comma: bool) -> float:
    text = text.strip().lower()
    if text in _UNKNOWN_WORDS:
        return _UNKNOWN
    if text in WORDS:
        return WORDS[text]
    if decimal_comma:
        text = text.replace(",", ".")
    value = float(text) if _NUMBER.fullmatch(text) else _WRONG
    return value if value <= 1 else _WRONG
