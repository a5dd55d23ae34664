"""Wide label tables: one row per image, one column per label."""

# R rows of the file, K known labels

import re
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import Float64Array, printable
from rsna_e2e.tasks.labels.layout import Layout, some_columns
from rsna_e2e.tasks.labels.table import Cells, LabelTable, Strings
from rsna_e2e.tasks.task import Task

WORDS = {"yes": 1.0, "no": 0.0, "true": 1.0, "false": 0.0, "positive": 1.0, "negative": 0.0}

_UNKNOWN, _WRONG = np.nan, -1.0
_NUMBER = re.compile(r"\+?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


def read_wide(layout: Layout, texts: Mapping[str, Strings], task: Task) -> LabelTable:
    """Make a table of the columns of a wide label file, by name of what they hold.

    Raises BadInputError for an empty ID, for a cell that is neither empty, a number in [0, 1] nor one of `WORDS`, for
    two rows that differ, and when all cells are empty.
    """
    row_ids = texts["ID"]
    if (no_id_R := pc.equal(row_ids, "").to_numpy(zero_copy_only=False)).any():
        place = f"{layout.file}, line {layout.line_of(int(np.argmax(no_id_R)))}"
        raise BadInputError(f"{place}: {layout.columns['ID']} is empty. Name the image, or remove the row")
    values_RL = np.full((len(row_ids), len(task.slices.names)), _UNKNOWN)
    for label, name in enumerate(task.slices.names):
        if name in texts:
            values_RL[:, label] = _values(layout, texts, name)
    row_K, label_K = np.nonzero(~np.isnan(values_RL))
    if not len(row_K):
        raise BadInputError(f"{layout.file}: no label in it, all cells are empty. Give 0 or 1")
    cells = Cells(
        layout=layout,
        rows=row_K,
        images=row_ids.take(pa.array(row_K)),
        labels=label_K,
        values=values_RL[row_K, label_K],
        row_name=lambda image_id, label: f"{image_id} in {layout.columns[label]}",
    )
    image_ids, values = cells.joined(task.slices.names)
    return LabelTable(
        image_ids=image_ids,
        values=values,
        n_repeated_rows=len(np.unique(row_K)) - len(image_ids),
        columns=layout.columns,
        unused=layout.unused,
    )


def _values(layout: Layout, texts: Mapping[str, Strings], name: str) -> Float64Array:
    """Return the values [R] of the column of a label."""
    column = texts[name].dictionary_encode()
    decimal_comma = layout.delimiter == ";"  # as spreadsheets write where the comma is the decimal sign
    values = np.array([_value(text, decimal_comma=decimal_comma) for text in column.dictionary.to_pylist()])
    values_R: Float64Array = values[column.indices.to_numpy()]
    if (is_wrong_R := values_R == _WRONG).any():
        row = int(np.argmax(is_wrong_R))
        unused = f". Columns that are not read, unless --columns names them: {some_columns(layout.unused)}"
        raise BadInputError(
            f"{layout.file}, line {layout.line_of(row)}: {layout.columns[name]} of "
            f"{printable(texts['ID'][row].as_py())} is {texts[name][row].as_py()!r}. Expected a number in [0, 1], a "
            f"word of {', '.join(WORDS)}, or nothing where it is unknown{unused if layout.unused else ''}"
        )
    return values_R


def _value(text: str, *, decimal_comma: bool) -> float:
    text = text.strip().lower()
    if not text or text in WORDS:
        return WORDS.get(text, _UNKNOWN)
    if decimal_comma:
        text = text.replace(",", ".")
    value = float(text) if _NUMBER.fullmatch(text) else _WRONG
    return value if value <= 1 else _WRONG
