"""Tables of boxes, one row per box or per image that has none, and tables that say what each image shows."""

# R rows of the file, K boxes, N images

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import Float64Array, printable
from rsna_e2e.tasks.boxes import ImageBoxes, make_boxes, placed
from rsna_e2e.tasks.labels.layout import CLASS, PLACE, TARGET, Layout
from rsna_e2e.tasks.labels.table import Cells, LabelTable, Lines, Strings, places_of
from rsna_e2e.tasks.labels.wide import ids_of
from rsna_e2e.tasks.labels.write import write_csv
from rsna_e2e.tasks.task import Task


def read_boxes(layout: Layout, texts: Mapping[str, Strings], task: Task) -> LabelTable:
    """Make a table of the columns of a table of boxes, by what they hold: of the label that has boxes, 1 or 0.

    Raises BadInputError, naming the line, for an empty ID, a target that is neither 1 nor 0, a box without a place, of
    no area or above or left of its image, and a place without a box; naming lines, where an image has a box and none.
    """
    ids = ids_of(layout, texts, "ID", "Name the image")
    target_R = _numbers(layout, texts[TARGET])
    place_R4 = np.stack([_numbers(layout, texts[name]) for name in PLACE], axis=1)
    _check(layout, texts, target_R, place_R4)
    names = task.slices.names
    cells = Cells(
        layout=layout,
        rows=np.arange(len(ids)),
        images=ids,
        labels=np.full(len(ids), names.index(task.boxes[0])),
        values=target_R,
        row_name=lambda image_id, _: f"{image_id} in {layout.columns[TARGET]}",
    )
    image_ids, values, first_rows = cells.joined(names)
    row_of = {image_id: row for row, image_id in enumerate(image_ids)}
    with_box = np.flatnonzero(target_R == 1)
    images_K = np.array([row_of[printable(one)] for one in ids.take(pa.array(with_box)).to_pylist()], dtype=np.int64)
    _, first_K = np.unique(np.column_stack([images_K, place_R4[with_box]]), axis=0, return_index=True)
    boxes = make_boxes(images_K[first_K], place_R4[with_box[first_K]])
    n_without = int((values[:, names.index(task.boxes[0])] == 0).sum())
    return LabelTable(
        image_ids=image_ids,
        values=values,
        n_repeated_rows=len(ids) - len(boxes) - n_without,
        lines=Lines(layout=layout, rows=first_rows),
        places=places_of(first_rows),
        unused=layout.unused,
        boxes=boxes,
        box_lines=Lines(layout=layout, rows=with_box[first_K]),
    )


def write_box_labels(path: Path, task: Task, image_ids: Sequence[str], boxes: ImageBoxes) -> None:
    """Write the boxes of images all of whose boxes are known, as `read_boxes` reads them: a row per box, and one per
    image without. Numbers are the shortest texts that read back as the same."""
    columns = task.csv.box_columns
    assert columns is not None, "of a task with boxes"
    ordered = boxes.at(np.argsort(boxes.images, kind="stable"))
    ends = np.searchsorted(ordered.images, np.arange(len(image_ids)), "right").tolist()
    places = placed(ordered.edges).tolist()
    rows = (
        (image_id, *map(repr, place), "1") if place else (image_id, *[""] * len(columns.place), "0")
        for image_id, start, end in zip(image_ids, [0, *ends], ends, strict=False)
        for place in places[start:end] or [()]
    )
    write_csv(path, (columns.image, *columns.place, columns.target), rows)


def read_classes(layout: Layout, texts: Mapping[str, Strings], task: Task) -> LabelTable:
    """Make a table of a table that says in a word what each image shows: the label of this word is 1, the others 0.

    Raises BadInputError, naming the line, for an empty ID and an unknown word; naming lines, where two rows differ.
    """
    columns = task.csv.box_columns
    assert columns is not None
    ids, names = ids_of(layout, texts, "ID", "Name the image"), task.slices.names
    shown_R = pc.index_in(pc.utf8_trim_whitespace(texts[CLASS]), value_set=pa.array(columns.class_words))
    if shown_R.null_count:
        row = int(np.argmax(shown_R.is_null().to_numpy(zero_copy_only=False)))
        raise BadInputError(
            f"{layout.file}, line {layout.line_of(row)}: {layout.columns[CLASS]} of {printable(ids[row].as_py())} is "
            f"{texts[CLASS][row].as_py()!r}. Expected one of: {', '.join(columns.class_words)}"
        )
    n = len(names)
    cells = Cells(
        layout=layout,
        rows=np.repeat(np.arange(len(ids)), n),
        images=ids.take(pa.array(np.repeat(np.arange(len(ids)), n))),
        labels=np.tile(np.arange(n), len(ids)),
        values=np.eye(n)[shown_R.to_numpy()].ravel(),
        row_name=lambda image_id, _: f"{image_id} in {layout.columns[CLASS]}",
    )
    image_ids, values, first_rows = cells.joined(names)
    return LabelTable(
        image_ids=image_ids,
        values=values,
        n_repeated_rows=len(ids) - len(image_ids),
        lines=Lines(layout=layout, rows=first_rows),
        places=places_of(first_rows),
        unused=layout.unused,
    )


def _numbers(layout: Layout, texts: Strings) -> Float64Array:
    """Return numbers [R], NaN where there is none, infinity where the text is no number."""
    column = pc.utf8_trim_whitespace(texts).dictionary_encode()
    values = []
    for text in column.dictionary.to_pylist():
        try:
            values.append(float((text.replace(",", ".") if layout.delimiter == ";" else text) or "nan"))
        except ValueError:
            values.append(np.inf)
    numbers_R: Float64Array = np.array(values, dtype=np.float64)[column.indices.to_numpy()]
    return numbers_R


def _check(layout: Layout, texts: Mapping[str, Strings], target_R: Float64Array, place_R4: Float64Array) -> None:
    """Raise BadInputError for the first row that is wrong."""
    has_box_R, is_empty_R4 = target_R == 1, np.isnan(place_R4)
    names = ", ".join(layout.columns[name] for name in PLACE)
    target = layout.columns[TARGET]
    wrong: dict[str, npt.NDArray[np.bool_]] = {
        f"{target} is {{target!r}}. Expected 1 in a row with a box, 0 in that of an image without": ~(
            has_box_R | (target_R == 0)
        ),
        f"{target} is 0, but there is a box. Make it 1, or leave {names} empty": ~has_box_R & ~is_empty_R4.all(axis=1),
        f"{target} is 1, but {names} are not four numbers": has_box_R & ~np.isfinite(place_R4).all(axis=1),
        f"its box has no area ({names} are {{place}})": has_box_R & (place_R4[:, 2:] <= 0).any(axis=1),
        f"its box begins outside of the image ({names} are {{place}})": has_box_R & (place_R4[:, :2] < 0).any(axis=1),
    }
    rows = {what: int(np.argmax(is_wrong_R)) for what, is_wrong_R in wrong.items() if is_wrong_R.any()}
    if not rows:
        return
    what = min(rows, key=lambda one: rows[one])
    row = rows[what]
    place = ", ".join(printable(texts[name][row].as_py()) for name in PLACE)
    raise BadInputError(
        f"{layout.file}, line {layout.line_of(row)}: {printable(texts['ID'][row].as_py())}: "
        + what.format(target=texts[TARGET][row].as_py(), place=place)
    )
