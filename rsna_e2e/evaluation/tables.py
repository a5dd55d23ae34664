"""The tables beside a submission, once it is shown that they belong to it."""

# N slices, L labels, E studies, M their labels

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.files import sha256_of
from rsna_e2e.core.records import Float64Array, Rows
from rsna_e2e.evaluation.cells import Cells
from rsna_e2e.evaluation.pairing import difference
from rsna_e2e.evaluation.scores import InputFile
from rsna_e2e.inference.predictions import (
    PredictionTable,
    SeriesTable,
    find_predictions,
    find_series,
    read_predictions,
    read_series,
)
from rsna_e2e.inference.submission import Studies
from rsna_e2e.tasks.labels import LabelTable
from rsna_e2e.tasks.rules import project
from rsna_e2e.tasks.task import Labels, Task

# A predictions table belongs to a submission when their probabilities agree this well: room for 4 written decimals.
TABLE_TOLERANCE = 1e-4

_OTHER = "The two belong to different predictions. Run predict again, or remove this table and give --store"


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """What was predicted before it was made to obey the task's tree, of images and studies by their sorted ids.

    study_of_slice: the row of each image's study.
    """

    task: Task
    image_ids: list[str]
    study_ids: list[str]
    study_of_slice: Rows
    cells: Cells

    def only(self, image_ids: Sequence[str], slices: Labels, study_ids: Sequence[str], studies: Labels) -> Cells:
        """Return that of some of the images and studies, of these labels alone."""
        image_N, study_E = np.searchsorted(self.image_ids, image_ids), np.searchsorted(self.study_ids, study_ids)
        slice_L: Rows = np.array([self.task.slices.index(name) for name in slices.names], dtype=np.int64)
        study_M: Rows = np.array([self.task.series.index(name) for name in studies.names], dtype=np.int64)
        return Cells(
            slices=self.cells.slices[np.ix_(image_N, slice_L)], studies=self.cells.studies[np.ix_(study_E, study_M)]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """The predictions table of a submission, and its series table, where there is one.

    raw: where studies have labels of their own, what both tables say of these and of the slices.
    """

    predictions: PredictionTable
    series: SeriesTable | None = None
    series_file: InputFile | None = None
    raw: Raw | None = None


def find_tables(submission: Path, submission_table: LabelTable, predictions: Path | None, task: Task) -> Tables | None:
    """Return the tables of a submission; None where it has none. predictions: another path than beside it.

    Raises BadInputError where they are not as they should be, or do not belong to it: its probabilities are those of
    the tables, or what these become when they obey the task's tree.
    """
    path = predictions or find_predictions(submission)
    if predictions is None and not path.exists():
        return None
    table = read_predictions(path, task)
    _check_same(path, table.image_ids, submission, submission_table.image_ids)
    series, series_file, raw = None, None, None
    if (place := find_series(submission)) is not None:
        series_file = InputFile(name=place.name, sha256=sha256_of(place))
        series = read_series(place, task, table)
        if task.series_truth == "own":
            raw = _raw(table, series, task)
            _check_same(place, raw.study_ids, submission, submission_table.study_ids, noun="study")
    slices_NL = table.probability[np.argsort(np.array(table.image_ids))]
    _check_belongs(path, submission, submission_table, _as_submitted(slices_NL, raw, task))
    return Tables(predictions=table, series=series, series_file=series_file, raw=raw)


def _raw(table: PredictionTable, series: SeriesTable, task: Task) -> Raw:
    """Return the predictions of slices and of studies, in the order of their ids."""
    studies = Studies.of(table, series)
    order_N, order_E = (np.argsort(np.array(ids)) for ids in (table.image_ids, studies.ids))
    return Raw(
        task=task,
        image_ids=[table.image_ids[row] for row in order_N],
        study_ids=[studies.ids[row] for row in order_E],
        study_of_slice=np.argsort(order_E)[studies.of_slice[order_N]],
        cells=Cells(slices=table.probability[order_N], studies=studies.probability[order_E]),
    )


def _as_submitted(slices_NL: Float64Array, raw: Raw | None, task: Task) -> list[Cells]:
    """Return what a submission of these predictions may hold."""
    if raw is None:
        return [Cells(slices=slices_NL, studies=np.zeros((0, 0)))]
    obeying = project(raw.cells.slices, raw.study_of_slice, raw.cells.studies, task)
    return [raw.cells, Cells(slices=obeying[0], studies=obeying[1])]


def _check_same(
    path: Path, ids: Sequence[str], submission: Path, submitted: Sequence[str], *, noun: str = "image"
) -> None:
    if unlike := difference(ids, submission, submitted, noun=noun):
        raise BadInputError(f"{path}: {unlike}. {_OTHER}")


def _check_belongs(path: Path, submission: Path, table: LabelTable, may_hold: Sequence[Cells]) -> None:
    """Raise BadInputError unless a submission holds one of these."""
    gap, name = min(_largest_gap(cells, table) for cells in may_hold)
    if gap > TABLE_TOLERANCE:
        raise BadInputError(
            f"{path}: probabilities differ from those of {submission} by up to {gap:.3g} ({name}). {_OTHER}"
        )


def _largest_gap(cells: Cells, table: LabelTable) -> tuple[float, str]:
    """Return the largest difference to a submission, and whose it is; a label that the submission lacks is NaN."""
    gaps = [np.fmax.reduce(np.abs(cells.slices - table.values), axis=1)]
    if len(cells.studies):
        gaps.append(np.fmax.reduce(np.abs(cells.studies - table.study_values), axis=1))
    gap_R = np.nan_to_num(np.concatenate(gaps))
    return float(gap_R.max()), [*table.image_ids, *table.study_ids][int(gap_R.argmax())]
