"""Inputs of an evaluation: submission, truth, and the tables beside the submission, read and checked together."""

# N slices, S series, L labels

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.files import sha256_of
from rsna_e2e.core.records import Float64Array
from rsna_e2e.core.table_files import TableFile, table_at
from rsna_e2e.evaluation.scores import InputFile, SeriesLayout
from rsna_e2e.inference.predictions import (
    PredictionTable,
    find_predictions,
    find_series,
    read_predictions,
    read_series,
)
from rsna_e2e.tasks.labels import LabelTable, read_labels
from rsna_e2e.tasks.metrics import Int64Array
from rsna_e2e.tasks.task import Task

# A predictions table belongs to a submission when their probabilities agree this well: room for 4 written decimals.
TABLE_TOLERANCE = 1e-4

_MAX_IDS_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Truth and probability of slices [N, L], with image ids sorted, and what the tables beside the submission add.

    files: by role, submission and truth, and series_table where there is one. layout: None without a predictions table.
    series_head [S, L]: probabilities by the series head, in the order of the layout's series; None without a series
    table.
    """

    files: dict[str, InputFile]
    n_repeated_truth_rows: int
    image_ids: list[str]
    truth: Float64Array
    probability: Float64Array
    layout: SeriesLayout | None
    series_head: Float64Array | None


def read_inputs(submission: Path, truth: Path | TableFile, predictions: Path | None, task: Task) -> Inputs:
    """Read a submission, the truth and the tables of the submission.

    predictions: its predictions table; by default the one beside it, if there is one. Raises BadInputError when the
    files do not hold the same images or one is not as it should be.
    """
    submission_file, truth_file = table_at(submission), truth if isinstance(truth, TableFile) else table_at(truth)
    truth_table, submission_table = _read_pair(submission_file, truth_file, task)
    files = {
        "submission": InputFile(name=submission.name, sha256=submission_file.sha256()),
        "truth": InputFile(name=Path(truth_file.name).name, sha256=truth_file.sha256()),
    }
    layout = head_SL = None
    table = _find_table(submission, submission_table, predictions, task)
    if table is not None:
        layout = _layout(table, np.argsort(np.array(table.image_ids)))  # as LabelTable sorts them
        if (place := find_series(submission)) is not None:
            files["series_table"] = InputFile(name=place.name, sha256=sha256_of(place))
            head = read_series(place, task, table)
            head_SL = head.probability[np.argsort(np.array(head.series_keys))]  # as the layout sorts them
    return Inputs(
        files=files,
        n_repeated_truth_rows=truth_table.n_repeated_rows,
        image_ids=truth_table.image_ids,
        truth=truth_table.values,
        probability=submission_table.values,
        layout=layout,
        series_head=head_SL,
    )


def _read_pair(submission: TableFile, truth: TableFile, task: Task) -> tuple[LabelTable, LabelTable]:
    """Return (truth, submission), rows of both in one order, after checking that both hold all labels of one set of
    images."""
    truth_table, submission_table = read_labels(truth, task), read_labels(submission, task)
    for file, table in ((truth, truth_table), (submission, submission_table)):
        absent = np.argwhere(np.isnan(table.values))
        if len(absent):
            row_id = task.label_id(table.image_ids[absent[0][0]], task.label_names[absent[0][1]])
            raise BadInputError(
                f"{file}: {_count(len(absent), 'row')} missing, the first is {row_id}. Every image needs all labels"
            )
    between = np.argwhere((truth_table.values != 0) & (truth_table.values != 1))
    if len(between):
        row_id = task.label_id(truth_table.image_ids[between[0][0]], task.label_names[between[0][1]])
        raise BadInputError(
            f"{truth}: the Label of {row_id} is {truth_table.values[tuple(between[0])]}, but truth is 0 or 1. "
            "Give the submission first, then the truth"
        )
    _check_same_ids(submission, submission_table.image_ids, truth, truth_table.image_ids)
    return truth_table, submission_table


def _check_same_ids(
    file: Path | TableFile, image_ids: list[str], other: Path | TableFile, other_ids: list[str]
) -> None:
    missing, extra = sorted(set(other_ids) - set(image_ids)), sorted(set(image_ids) - set(other_ids))
    if missing or extra:
        parts = [
            f"{_count(len(ids), 'image')} {what} ({_some(ids)})"
            for ids, what in ((missing, f"of {other} missing"), (extra, f"not in {other}"))
            if ids
        ]
        raise BadInputError(f"{file}: {' and '.join(parts)}. Both files must hold the same images")


def _find_table(
    submission: Path, submission_table: LabelTable, predictions: Path | None, task: Task
) -> PredictionTable | None:
    """Return the predictions table of a submission, once it is shown to belong to it; None where there is none."""
    path = predictions or find_predictions(submission)
    if predictions is None and not path.exists():
        return None
    table = read_predictions(path, task)
    _check_same_ids(path, table.image_ids, submission, submission_table.image_ids)
    gap_NL = np.abs(table.probability[np.argsort(np.array(table.image_ids))] - submission_table.values)
    if gap_NL.max() > TABLE_TOLERANCE:
        image_id = submission_table.image_ids[int(gap_NL.max(axis=1).argmax())]
        raise BadInputError(
            f"{path}: probabilities differ from those of {submission} by up to {gap_NL.max():.3g} ({image_id}). "
            "The two belong to different predictions; run predict again"
        )
    return table


def _layout(table: PredictionTable, order_N: Int64Array) -> SeriesLayout:
    """Return which series each slice belongs to. order_N: rows of the table in the order of the slices."""
    series_keys, series_of_slice = np.unique(np.array(table.series_keys)[order_N], return_inverse=True)
    return SeriesLayout(
        series_keys=series_keys.tolist(),
        series_of_slice=series_of_slice.astype(np.int64),
        slice_index=table.slice_index[order_N],
        position_mm=table.position_mm[order_N],
    )


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"


def _some(ids: list[str]) -> str:
    return ", ".join(ids[:_MAX_IDS_SHOWN]) + ", ..." * (len(ids) > _MAX_IDS_SHOWN)
