"""Joins two submissions of the same slices: what one predicts of slices, and what the other predicts of series."""

from dataclasses import dataclass
from pathlib import Path

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.inference.average import tables_of
from rsna_e2e.inference.carried import CarriedNotes
from rsna_e2e.inference.predictions import PredictionTable, find_series, read_predictions, read_series
from rsna_e2e.inference.submission import prepare_submission, write_submission
from rsna_e2e.inference.truth import TruthFile
from rsna_e2e.tasks.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """How much was joined. truth: that of the submissions, if one has it and both that have agree."""

    n_slices: int
    n_series: int
    truth: TruthFile | None


def merge(of_slices: Path, of_series: Path, *, task: Task, out: Path, is_raw: bool = False) -> Merged:
    """Write a submission with the slices of one submission and the series of another, and its tables.

    Both are made by predict or bag, of one split of one store, and the second has a series table. is_raw: see
    `write_submission`. Raises BadInputError when it has none, or they do not hold the same slices; UsageError when
    `out`, or its tables, is one of theirs.
    """
    prepare_submission(out, task, example="submission.csv.gz")
    tables, _ = tables_of([of_slices, of_series], out)
    series_table = find_series(of_series)
    if series_table is None:
        raise BadInputError(
            f"{of_series}: has no series table beside it. Give predictions by a run with a series head, after those "
            "that have the slices"
        )
    slices, other = (read_predictions(path, task) for path in tables)
    _check_same(of_slices, slices, of_series, other)
    series = read_series(series_table, task, other)
    notes = CarriedNotes.of([of_slices, of_series], task)
    write_submission(out, task, slices, series=series, is_raw=is_raw)
    counts = {"n_slices": len(slices.image_ids), "n_series": len(series.series_keys)}
    return Merged(truth=notes.write(out, slices.image_ids), **counts)


def _check_same(path: Path, table: PredictionTable, other_path: Path, other: PredictionTable) -> None:
    """Raise BadInputError unless two tables have the same slices, in the same series."""
    places, others = (set(zip(of.image_ids, of.series_keys, strict=True)) for of in (table, other))
    if differing := sorted(places ^ others):
        raise BadInputError(
            f"{other_path}: does not hold the slices of {path.name} in the same series; {len(differing)} differ, such "
            f"as {differing[0][0]}. Merge predictions of one split of one store"
        )
