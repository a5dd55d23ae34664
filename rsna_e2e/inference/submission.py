"""Writes submissions and their tables: rows of slices, and of studies where a task's submissions have such."""

# N slices, S series, E studies, L labels of slices, M of series

import csv
import io
import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rsna_e2e.core.errors import UsageError
from rsna_e2e.core.files import prepare_file
from rsna_e2e.core.records import Float64Array, Rows
from rsna_e2e.core.table_files import TableFile, table_at
from rsna_e2e.inference.predictions import (
    PredictionTable,
    SeriesTable,
    beside,
    find_predictions,
    forget_notes,
    predictions_path,
    series_path,
    write_box_table,
    write_predictions,
    write_series,
)
from rsna_e2e.tasks.boxes import ImageBoxes
from rsna_e2e.tasks.labels import BoxTable, is_box_submission, write_boxes, write_labels
from rsna_e2e.tasks.rules import project, violations
from rsna_e2e.tasks.task import Task

logger = logging.getLogger(__name__)


def prepare_submission(path: Path, task: Task, *, example: str) -> None:
    """Make the folder of a submission that is to be written, which takes the place of no other file than one.

    Raises what `prepare_file` raises, and UsageError where there is another file, labels among them, or where truth
    stands beside that was not written with a submission.
    """
    prepare_file(path, example=example)
    has_table, truth = _has_table(path), beside(path, "truth.csv")
    if path.is_file() and path.stat().st_size:
        file = table_at(path)
        if not _is_long(file, task) and not is_box_submission(file, task):
            raise UsageError(f"{path}: is there and no submission, and would be lost. Choose another name")
        if not has_table and _is_truth(file, task):
            raise UsageError(
                f"{path}: is there and holds labels, each 0 or 1, which would be lost. Choose another name, or move it"
            )
    if not has_table and truth.exists():
        raise UsageError(
            f"{truth}: is there without the predictions table that predict writes beside it, and would be lost. Choose "
            "another name for the submission, or move it"
        )


def write_submission(
    out: Path, task: Task, table: PredictionTable, *, series: SeriesTable | None = None, is_raw: bool = False
) -> None:
    """Write a submission, its predictions table and, where there is one, its series table.

    The rows of a study are the mean over its series. The values of the submission are the nearest that obey the tree of
    the task, if it has one, see `tasks.rules.project`; is_raw: as they were predicted, as those of the tables always
    are. What stood beside a submission that had this name before is removed. Raises BadInputError where slices share an
    image id.
    """
    write_predictions(predictions_path(out), task, table)
    beside(out, "boxes.parquet").unlink(missing_ok=True)
    if series is None:
        series_path(out).unlink(missing_ok=True)
    else:
        write_series(series_path(out), task, series)
    if series is None or not task.csv.series_id:
        write_labels(out, task, table.image_ids, table.probability)
    else:
        studies = Studies.of(table, series)
        if studies.n_several:
            logger.warning(
                "%d of %d studies have several series: their rows in the submission are the mean over these",
                studies.n_several,
                len(studies.ids),
            )
        slices_NL, studies_EM = table.probability, studies.probability
        if not is_raw:
            slices_NL, studies_EM = _consistent(slices_NL, studies, task)
        write_labels(out, task, table.image_ids, slices_NL, study_ids=studies.ids, study_values=studies_EM)
    forget_notes(out)


def write_box_submission(out: Path, task: Task, table: BoxTable, *, submitted: ImageBoxes | None = None) -> None:
    """Write a submission of boxes, and its table of boxes. What stood beside one that had this name is removed.

    submitted: those of the boxes that the submission has; None: all.
    """
    write_box_table(beside(out, "boxes.parquet"), task, table)
    for path in (predictions_path(out), series_path(out)):
        path.unlink(missing_ok=True)
    write_boxes(out, task, table if submitted is None else replace(table, boxes=submitted))
    forget_notes(out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Studies:
    """E studies in the order of their first series: probability [E, M], the mean over their series, and of_slice [N],
    the study of each slice. n_several: how many have several series."""

    ids: list[str]
    probability: Float64Array
    of_slice: Rows
    n_several: int

    @classmethod
    def of(cls, table: PredictionTable, series: SeriesTable) -> "Studies":
        """Average the series of each study."""
        numbers = {study: number for number, study in enumerate(dict.fromkeys(series.study_uids))}
        study_S = np.array([numbers[study] for study in series.study_uids], dtype=np.int64)
        n_series_E = np.bincount(study_S, minlength=len(numbers))
        sum_EM = np.zeros((len(numbers), series.probability.shape[1]))
        np.add.at(sum_EM, study_S, series.probability)
        study_of_key = dict(zip(series.series_keys, study_S.tolist(), strict=True))
        return cls(
            ids=list(numbers),
            probability=(sum_EM / n_series_E[:, None]).clip(0.0, 1.0),  # a mean of ones may round to more
            of_slice=np.array([study_of_key[key] for key in table.series_keys], dtype=np.int64),
            n_several=int(np.count_nonzero(n_series_E > 1)),
        )


def _consistent(slices_NL: Float64Array, studies: Studies, task: Task) -> tuple[Float64Array, Float64Array]:
    """Return the values of slices and studies that obey the tree, and tell the operator how many are others."""
    is_broken_E = violations(slices_NL, studies.of_slice, studies.probability, task) > 0
    if is_broken_E.any():
        logger.warning(
            "%d of %d studies: the submission has other values than the tables, the nearest that obey the rules of the "
            "task (as predicted: --raw)",
            np.count_nonzero(is_broken_E),
            len(studies.ids),
        )
    return project(slices_NL, studies.of_slice, studies.probability, task)


def _has_table(path: Path) -> bool:
    return find_predictions(path).exists() or beside(path, "boxes.parquet").exists()


def _is_long(file: TableFile, task: Task) -> bool:
    try:
        return set(task.csv.columns) <= {word.strip() for word in file.header()}
    except OSError:
        return False


def _is_truth(file: TableFile, task: Task) -> bool:
    """Whether all labels of a table in the long form are 0 or 1."""
    with suppress(OSError, ValueError, IndexError, csv.Error), file.open() as stream:
        rows = filter(None, csv.reader(io.TextIOWrapper(stream, "utf-8-sig", newline="")))
        column = [word.strip() for word in next(rows, [])].index(task.csv.columns[1])
        return all(float(row[column]) in (0.0, 1.0) for row in rows)
    return False
