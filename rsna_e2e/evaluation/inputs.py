"""Inputs of an evaluation: submission, truth, and which series the slices belong to, read and checked together."""

# N slices, S series, L labels

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.files import sha256_of
from rsna_e2e.core.records import Float64Array
from rsna_e2e.core.table_files import TableFile, table_at
from rsna_e2e.evaluation.scores import InputFile, LeftOut, SeriesLayout
from rsna_e2e.evaluation.series_layout import (
    count,
    head_by_layout,
    layout_by_map,
    layout_by_store,
    layout_by_table,
    some_ids,
)
from rsna_e2e.inference.predictions import (
    PredictionTable,
    find_predictions,
    find_series,
    read_predictions,
    read_series,
)
from rsna_e2e.store import Store
from rsna_e2e.tasks.labels import LabelTable, read_labels
from rsna_e2e.tasks.task import Task

# A predictions table belongs to a submission when their probabilities agree this well: room for 4 written decimals.
TABLE_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Truth and probability [N, L] of the images and labels that both files have; image ids are sorted.

    task: with these labels alone.
    """

    task: Task
    image_ids: list[str]
    truth: Float64Array
    probability: Float64Array
    left_out: LeftOut


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What is scored, and the series it is in.

    files: by role, submission and truth, and series_table or series_map where there is one. layout: None where it is
    not known which series slices belong to. series_head [S, L]: probabilities by the series head, in the order of the
    layout's series; None without a series table.
    """

    files: dict[str, InputFile]
    n_repeated_truth_rows: int
    pair: Pair
    layout: SeriesLayout | None
    series_head: Float64Array | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesSource:
    """Where to look up which series slices belong to, the first of these that there is: a CSV with the columns ID and
    series; the predictions table of the submission, by default the one beside it; a store."""

    series_map: Path | None = None
    predictions: Path | None = None
    store: Store | None = None


def read_inputs(
    submission: Path, truth: Path | TableFile, task: Task, source: SeriesSource, *, allow_missing: bool = False
) -> Inputs:
    """Read a submission, the truth, and which series the slices belong to.

    allow_missing: images that are in one of the files alone are left out. Raises BadInputError when there are such
    images otherwise, and for a file that is not as it should be.
    """
    submission_file, truth_file = table_at(submission), truth if isinstance(truth, TableFile) else table_at(truth)
    truth_table, submission_table = read_labels(truth_file, task), read_labels(submission_file, task)
    pair = _match(submission_file, submission_table, truth_file, truth_table, task, allow_missing=allow_missing)
    files = {
        "submission": InputFile(name=submission.name, sha256=submission_file.sha256()),
        "truth": InputFile(name=Path(truth_file.name).name, sha256=truth_file.sha256()),
    }
    layout = head_SL = None
    if source.series_map is not None:
        map_file = table_at(source.series_map)
        layout = layout_by_map(map_file, pair.image_ids)
        files["series_map"] = InputFile(name=source.series_map.name, sha256=map_file.sha256())
    elif (table := _find_table(submission, submission_table, source.predictions, task)) is not None:
        layout = layout_by_table(table, pair.image_ids)
        if (place := find_series(submission)) is not None:
            files["series_table"] = InputFile(name=place.name, sha256=sha256_of(place))
            columns = [task.slices.names.index(name) for name in pair.task.slices.names]
            head_SL = head_by_layout(read_series(place, task, table), layout)[:, columns]
    elif source.store is not None:
        layout = layout_by_store(source.store, pair.image_ids)
    return Inputs(
        files=files,
        n_repeated_truth_rows=truth_table.n_repeated_rows,
        pair=pair,
        layout=layout,
        series_head=head_SL,
    )


def _match(
    submission: TableFile,
    submission_table: LabelTable,
    truth: TableFile,
    truth_table: LabelTable,
    task: Task,
    *,
    allow_missing: bool,
) -> Pair:
    """Return what both files have, after checking that it is complete and that truth is 0 or 1."""
    both = [_labels_in(table) for table in (truth_table, submission_table)]
    names = [name for label, name in enumerate(task.slices.names) if all(label in found for found in both)]
    if not names:
        raise BadInputError(f"{submission}: has no label that {truth} has too; the IDs of both end in _<label>")
    columns = [task.slices.names.index(name) for name in names]
    truth_ids, predicted_ids = (np.array(table.image_ids) for table in (truth_table, submission_table))
    image_ids, truth_N, predicted_N = np.intersect1d(truth_ids, predicted_ids, assume_unique=True, return_indices=True)
    if not allow_missing or not len(image_ids):
        _check_same_images(submission, submission_table.image_ids, truth, truth_table.image_ids)
    pair = Pair(
        task=task.only(names),
        image_ids=image_ids.tolist(),
        truth=truth_table.values[truth_N][:, columns],
        probability=submission_table.values[predicted_N][:, columns],
        left_out=LeftOut(
            labels=tuple(name for name in task.slices.names if name not in names),
            n_not_predicted=len(truth_ids) - len(image_ids),
            n_without_truth=len(predicted_ids) - len(image_ids),
        ),
    )
    _check_values(truth, submission, pair)
    return pair


def _labels_in(table: LabelTable) -> set[int]:
    """Return the labels that any image of a table has."""
    return set(np.flatnonzero(~np.isnan(table.values).all(axis=0)).tolist())


def _check_values(truth: TableFile, submission: TableFile, pair: Pair) -> None:
    """Raise BadInputError unless every image has every label, and truth is 0 or 1."""
    for file, values in ((truth, pair.truth), (submission, pair.probability)):
        absent = np.argwhere(np.isnan(values))
        if len(absent):
            raise BadInputError(
                f"{file}: {count(len(absent), 'row')} missing, the first is {_row_id(pair, absent[0])}. A label that "
                "the file has of one image it needs of all"
            )
    between = np.argwhere((pair.truth != 0) & (pair.truth != 1))
    if len(between):
        raise BadInputError(
            f"{truth}: the Label of {_row_id(pair, between[0])} is {pair.truth[tuple(between[0])]}, but truth is 0 or "
            "1. Give the submission first, then the truth"
        )


def _row_id(pair: Pair, cell: np.ndarray) -> str:
    return pair.task.label_id(pair.image_ids[cell[0]], pair.task.slices.names[cell[1]])


def _check_same_images(
    submission: TableFile, predicted_ids: Sequence[str], truth: TableFile, truth_ids: Sequence[str]
) -> None:
    difference = _difference(predicted_ids, truth, truth_ids)
    if not difference:
        return
    n_common = len(set(truth_ids) & set(predicted_ids))
    if n_common:
        advice = f"To score the {n_common} that are in both files: --allow-missing"
    else:
        advice = (
            f"No image is in both files: the first of this is {predicted_ids[0]}, of the other {truth_ids[0]}. IDs are "
            "<image>_<label>"
        )
    raise BadInputError(f"{submission}: {difference}. {advice}")


def _difference(image_ids: Sequence[str], other: Path | TableFile, other_ids: Sequence[str]) -> str:
    """Say what images a file lacks of another and has beside it; nothing where both have the same."""
    missing, extra = sorted(set(other_ids) - set(image_ids)), sorted(set(image_ids) - set(other_ids))
    return " and ".join(
        f"{count(len(ids), 'image')} {what} ({some_ids(ids)})"
        for ids, what in ((missing, f"of {other} missing"), (extra, f"not in {other}"))
        if ids
    )


def _find_table(
    submission: Path, submission_table: LabelTable, predictions: Path | None, task: Task
) -> PredictionTable | None:
    """Return the predictions table of a submission, once it is shown to belong to it; None where there is none."""
    path = predictions or find_predictions(submission)
    if predictions is None and not path.exists():
        return None
    table = read_predictions(path, task)
    advice = "The two belong to different predictions. Run predict again, or remove this table and give --store"
    if difference := _difference(table.image_ids, submission, submission_table.image_ids):
        raise BadInputError(f"{path}: {difference}. {advice}")
    gap_NL = np.abs(table.probability[np.argsort(np.array(table.image_ids))] - submission_table.values)
    gap_N = np.fmax.reduce(gap_NL, axis=1)  # a label that the submission lacks is NaN
    if np.fmax.reduce(gap_N) > TABLE_TOLERANCE:
        image_id = submission_table.image_ids[int(gap_N.argmax())]
        raise BadInputError(
            f"{path}: probabilities differ from those of {submission} by up to {gap_N.max():.3g} ({image_id}). {advice}"
        )
    return table
