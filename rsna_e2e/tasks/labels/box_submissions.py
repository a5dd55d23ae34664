"""Submissions of boxes: one row per image, with score, x, y, width and height of each of its boxes."""

# N images, K boxes

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import printable
from rsna_e2e.tasks.boxes import ImageBoxes, make_boxes, placed
from rsna_e2e.tasks.labels.layout import PREDICTION, Layout
from rsna_e2e.tasks.labels.table import Strings, numbered
from rsna_e2e.tasks.labels.wide import ids_of
from rsna_e2e.tasks.labels.write import write_csv
from rsna_e2e.tasks.task import Task

_NUMBERS = 5  # of a box: score, x, y, width, height

_DECIMALS = 3  # of a place in px


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxTable:
    """Predicted boxes of N images, of which some have none; boxes name images by their place in image_ids."""

    image_ids: list[str]
    boxes: ImageBoxes


def write_boxes(path: Path, task: Task, table: BoxTable) -> None:
    """Write a submission of boxes, images in the order given, the boxes of each by falling score.

    Scores are the shortest texts that read back as the same, places are to a thousandth of a pixel. A name that ends in
    `.gz` is compressed. Equal input gives equal bytes; a file appears whole or never.
    """
    columns = task.csv.box_columns
    assert columns is not None, "of a task with boxes"
    write_csv(path, (columns.image, columns.prediction), _rows(table))


def _rows(table: BoxTable) -> Iterator[tuple[str, str]]:
    boxes = table.boxes.at(np.lexsort((-table.boxes.scores, table.boxes.images)))
    numbers = np.column_stack([boxes.scores, placed(boxes.edges).round(_DECIMALS)])
    ends = np.searchsorted(boxes.images, np.arange(len(table.image_ids)), "right").tolist()
    for image_id, start, end in zip(table.image_ids, [0, *ends], ends, strict=False):
        yield image_id, " ".join(map(repr, numbers[start:end].ravel().tolist()))


def read_predictions(layout: Layout, texts: Mapping[str, Strings]) -> BoxTable:
    """Make a table of the columns of a submission of boxes.

    Raises BadInputError, naming the line, for an empty ID, an image that is there twice, and boxes that are none: of
    other than five numbers, of a score outside [0, 1], or without area.
    """
    ids = ids_of(layout, texts, "ID", "Name the image")
    image_ids, image_R = numbered(ids)
    if len(image_ids) < len(image_R):
        row = next(row for row in range(len(image_R)) if image_R[row] in image_R[:row])
        raise BadInputError(f"{_place(layout, ids, row)}: is there twice. One row has all boxes of an image")
    images: list[int] = []
    numbers: list[Sequence[float]] = []
    for row, text in enumerate(texts[PREDICTION].to_pylist()):
        found = _parsed(text)
        if found is None:
            raise BadInputError(
                f"{_place(layout, ids, row)}: {layout.columns[PREDICTION]} is {printable(text)[:80]!r}. Expected of "
                "each box its score, from 0 to 1, x, y, width and height, above 0; and nothing where there is no box"
            )
        images += [int(image_R[row])] * len(found)
        numbers += found
    values = np.array(numbers, dtype=np.float64).reshape(-1, _NUMBERS)
    return BoxTable(image_ids=image_ids, boxes=make_boxes(images, values[:, 1:], values[:, 0]))


def refuse_predictions(layout: Layout, texts: Mapping[str, Strings], task: Task) -> NoReturn:
    """Raise BadInputError for a submission of boxes in the place of labels."""
    raise BadInputError(
        f"{layout.file}: holds {len(texts['ID'])} predictions of boxes, no labels of the task {task.name}. Give the "
        "submission first, then the truth"
    )


def _parsed(text: str) -> list[Sequence[float]] | None:
    """Return the boxes that a text names, None where it is wrong."""
    try:
        numbers = [float(word) for word in text.split()]
    except ValueError:
        return None
    boxes = [numbers[first : first + _NUMBERS] for first in range(0, len(numbers), _NUMBERS)]
    is_good = all(
        len(box) == _NUMBERS and 0 <= box[0] <= 1 and np.isfinite(box).all() and min(box[3:]) > 0 for box in boxes
    )
    return list(boxes) if is_good else None


def _place(layout: Layout, ids: Strings, row: int) -> str:
    return f"{layout.file}, line {layout.line_of(row)}: {printable(ids[row].as_py())}"
