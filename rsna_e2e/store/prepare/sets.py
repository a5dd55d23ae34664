"""Joins a label table to the slices and series of a store, and makes a label set of it."""

# N slices, L labels of slices, S series, M labels of series

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import Column, Float32Array, Float64Array, Refusal, Rows, printable
from rsna_e2e.store.label_sets import are_labelled
from rsna_e2e.store.prepare.division import Division, count_positives, divide
from rsna_e2e.store.prepare.find_labels import FoundLabels
from rsna_e2e.store.series_order import run_starts
from rsna_e2e.store.set_boxes import is_outside
from rsna_e2e.store.set_writer import NewSet
from rsna_e2e.tasks.boxes import ImageBoxes
from rsna_e2e.tasks.labels import LabelTable
from rsna_e2e.tasks.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """The labels of slices [N, L] and series [S, M], and the notes of each, NaN where the table has none.

    rows: of the label table for each slice [N], -1 where there is none; csv_places: of the slices in the order of the
    label file; study_rows: for each series [S]. starts: the first slice of each series. boxes: of slices by their row.
    """

    labels: Float32Array
    notes: Float32Array
    series_labels: Float32Array
    series_notes: Float32Array
    rows: Rows
    csv_places: Rows
    study_rows: Rows
    starts: Rows
    boxes: ImageBoxes

    @property
    def is_labelled(self) -> npt.NDArray[np.bool_]:
        """Whether the series of each slice [N] has any label."""
        has_label_S = are_labelled(self.labels, self.series_labels, self.starts)
        return np.repeat(has_label_S, np.diff(self.starts, append=len(self.labels)))


def join(columns: Mapping[str, Column], table: LabelTable, further: Mapping[str, Sequence[int]], task: Task) -> Joined:
    """Find the labels of slices by image id, or else by the first row in `further`, and those of series by study.

    columns: image_id, series_key, study_uid, rows and columns of the slices, series after series. Raises BadInputError,
    naming the line, for a box that reaches beyond its slice.
    """
    row_of = {image_id: row for row, image_id in enumerate(table.image_ids)}
    rows_N = [row_of.get(image_id, further.get(image_id, [-1])[0]) for image_id in columns["image_id"].tolist()]
    starts = run_starts(columns["series_key"])
    study_of = {study: row for row, study in enumerate(table.study_ids)}
    rows_S = [study_of.get(printable(study), -1) for study in columns["study_uid"][starts].tolist()]
    return Joined(
        labels=_take(table.values, rows_N, len(task.slices)),
        notes=_take(table.notes, rows_N, len(task.slices.notes)),
        series_labels=_take(table.study_values, rows_S, len(task.series)),
        series_notes=_take(table.study_notes, rows_S, len(task.series.notes)),
        rows=np.array(rows_N, dtype=np.int64),
        csv_places=np.append(table.places, -1)[rows_N] if len(table.places) else np.full(len(rows_N), -1),
        study_rows=np.array(rows_S, dtype=np.int64),
        starts=starts,
        boxes=_boxes(columns, table, np.array(rows_N, dtype=np.int64)),
    )


def _boxes(columns: Mapping[str, Column], table: LabelTable, rows_N: Rows) -> ImageBoxes:
    """Return the boxes of slices, of the rows of a label table that are theirs."""
    boxes, taken = table.boxes.of_images(rows_N)
    beyond = np.flatnonzero(is_outside(boxes, columns))
    if len(beyond):
        slice_row, box = int(boxes.images[beyond[0]]), int(taken[beyond[0]])
        place = table.box_lines.place(box) if table.box_lines else ""
        raise BadInputError(
            f"{place}: {columns['image_id'][slice_row]}: its box reaches beyond the image, which has "
            f"{columns['columns'][slice_row]} columns and {columns['rows'][slice_row]} rows. Correct it"
        )
    return boxes


def _take(values: Float64Array, rows: Sequence[int], n_columns: int) -> Float32Array:
    """Return rows of a table, NaN for row -1, and where it says nothing of these columns."""
    if not values.size:
        return np.full((len(rows), n_columns), np.nan, dtype=np.float32)
    padded = np.vstack([values, np.full((1, n_columns), np.nan)]).astype(np.float32)
    return np.asarray(padded[rows])


def divided(
    columns: Mapping[str, Column], joined: Joined, division: Division, known: Mapping[str, int]
) -> npt.NDArray[np.int64]:
    """Return the fold of each slice [N], see `divide`. columns: patient_id among others."""
    counts = count_positives(joined.labels, joined.series_labels, joined.starts)
    return divide(columns["patient_id"], joined.is_labelled, counts, division, known)


def make_set(
    task: Task,
    found: FoundLabels,
    joined: Joined,
    fold_N: npt.NDArray[np.int64],
    division: Division,
    *,
    image_ids: Column,
    refusals: Sequence[Refusal] = (),
    folds_of: str = "",
    number: int = 1,
) -> NewSet:
    """Return the label set of a store. image_ids: of its slices, as the set calls them; refusals: in its order."""
    return NewSet(
        task=task,
        image_ids=image_ids,
        id_rule=found.match.rule,
        split=np.where(fold_N >= 0, "train", "test"),
        fold=fold_N,
        csv_place=joined.csv_places,
        slices=np.hstack([joined.labels, joined.notes]),
        series=np.hstack([joined.series_labels, joined.series_notes]),
        boxes=joined.boxes,
        n_folds=division.n_folds,
        seed=division.seed,
        holdout=division.holdout,
        folds_of=folds_of,
        number=number,
        refused_with_label=[row for row, refusal in enumerate(refusals) if refusal.has_label],
    )
