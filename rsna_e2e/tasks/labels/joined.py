"""Joins two label tables of the same images, each of which may say what the other does not."""

# N images of both, L labels

from dataclasses import replace

import numpy as np

from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.records import Float64Array, Rows
from rsna_e2e.tasks.labels.table import LabelTable
from rsna_e2e.tasks.task import Task


def joined(table: LabelTable, also: LabelTable, task: Task) -> LabelTable:
    """Return what both tables say; images that only `also` names come last in the order of the file.

    Raises UsageError for a task with labels of series; BadInputError where both have boxes, and, naming the lines,
    where they say different things of a label of an image.
    """
    if task.series:
        raise UsageError(f"task {task.name} has labels of series: join further tables to the label file yourself")
    if len(table.boxes) and len(also.boxes):
        raise BadInputError(f"{also.file}: has boxes, as {table.file} does. Keep those of one of them")
    image_ids = sorted({*table.image_ids, *also.image_ids})
    row_of = {image_id: row for row, image_id in enumerate(image_ids)}
    rows, also_rows = (np.array([row_of[one] for one in each.image_ids], dtype=np.int64) for each in (table, also))
    values = _both(table, also, [_spread(table, rows, row_of), _spread(also, also_rows, row_of)], image_ids, task)
    place_N = np.full(len(image_ids), np.iinfo(np.int64).max)
    place_N[also_rows] = also.places + len(table.places)
    place_N[rows] = table.places
    boxes, box_rows = (table, rows) if len(table.boxes) else (also, also_rows)
    return LabelTable(
        image_ids=image_ids,
        values=values[:, : len(task.slices)],
        notes=values[:, len(task.slices) :],
        places=place_N.argsort().argsort(),
        n_repeated_rows=table.n_repeated_rows + also.n_repeated_rows,
        columns={**also.columns, **table.columns},
        unused=(*table.unused, *also.unused),
        boxes=replace(boxes.boxes, images=box_rows[boxes.boxes.images]),
        box_lines=boxes.box_lines,
    )


def _spread(table: LabelTable, rows: Rows, row_of: dict[str, int]) -> Float64Array:
    """Return labels and notes of a table for all images, in rows of those; NaN where the table says nothing."""
    values = np.hstack([table.values, table.notes if len(table.notes) else np.empty((len(rows), 0))])
    spread = np.full((len(row_of), values.shape[1]), np.nan)
    spread[rows] = values
    return spread


def _both(
    table: LabelTable, also: LabelTable, values: list[Float64Array], image_ids: list[str], task: Task
) -> Float64Array:
    """Return what either table says of all images. Raises BadInputError, naming the lines, where they differ."""
    width = len(task.slices) + len(task.slices.notes)
    one, other = (np.pad(v, ((0, 0), (0, width - v.shape[1])), constant_values=np.nan) for v in values)
    differs = np.argwhere(~np.isnan(one) & ~np.isnan(other) & (one != other))
    if len(differs):
        row, label = differs[0].tolist()
        image_id, name = image_ids[row], (*task.slices.names, *task.slices.notes)[label]
        said = " and ".join(
            f"{each.line_of(image_id)} ({v[row, label]:g})" for each, v in ((table, one), (also, other))
        )
        raise BadInputError(f"{name} of {image_id} differs: {said}. Correct one of them")
    return np.where(np.isnan(one), other, one)
