"""Averages of predictions: over several submissions of the same slices, and over neighbouring slices of one."""

# N slices, L labels

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.files import real_path, sha256_of, write_json
from rsna_e2e.core.limits import CLIP
from rsna_e2e.core.records import Float64Array
from rsna_e2e.inference.carried import CarriedNotes
from rsna_e2e.inference.predictions import (
    PredictionTable,
    SeriesTable,
    beside,
    find_predictions,
    find_series,
    predictions_path,
    read_predictions,
    read_series,
    series_path,
)
from rsna_e2e.inference.submission import prepare_submission, write_submission
from rsna_e2e.inference.truth import TruthFile
from rsna_e2e.tasks.task import Task

# A rolling mean that the published solution logged as a baseline (RESULTS.md): a slice and its two neighbours
SMOOTHING_WEIGHTS = (0.6, 1.8, 0.6)

_SHOWN = 3  # ids in a message


@dataclass(frozen=True, slots=True, kw_only=True)
class Bagged:
    """The files that were written, and the number of members and slices in the mean.

    n_with_series: how many members have a series table. The mean has one when all have. truth: that of the members, if
    any has one and all that have agree.
    """

    submission: Path
    manifest: Path
    n_members: int
    n_with_series: int
    n_slices: int
    truth: TruthFile | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Smoothed:
    """The number of slices that were smoothed, and the truth of the submission, if it has one."""

    n_slices: int
    truth: TruthFile | None


def bag(submissions: Sequence[Path], *, task: Task, out: Path, clip: float = CLIP, is_raw: bool = False) -> Bagged:
    """Average submissions of the same slices; write the mean, its tables, and a manifest of what it is made of.

    submissions: files made by predict, each with its predictions table beside it. Series tables are averaged where all
    have one, and left out otherwise. The manifest, `<out>.bag.json`, names every member with the sha256 of its tables.
    Truth and the list of missing images are taken over where the members that have them agree. is_raw: see
    `write_submission`. Probabilities end up in [clip, 1 - clip]. Raises UsageError for a member given twice, by
    whatever names, or for `out` among them, BadInputError when they do not hold the same slices or series, are of
    another task, or only some have a series table and a submission needs rows of studies.
    """
    prepare_submission(out, task, example="submission.csv.gz")
    tables, with_series = tables_of(submissions, out)
    if task.csv.series_id and 0 < len(with_series) < len(tables):
        lacking = next(path for path in submissions if find_series(path) is None)
        raise BadInputError(
            f"{lacking}: has no series table, and others have one: a mean of all would lack the rows of studies that "
            f"submissions of {task.title!r} have. Leave it out, or predict it again"
        )
    notes = CarriedNotes.of(submissions, task)
    series_tables = with_series if len(with_series) == len(tables) else []
    mean, series = _mean(tables, series_tables, task)
    mean = replace(mean, probability=mean.probability.clip(clip, 1 - clip))
    if series is not None:
        series = replace(series, probability=series.probability.clip(clip, 1 - clip))
    members = [{"name": path.name, "sha256": sha256_of(path)} for path in tables]
    for member, path in zip(members, series_tables, strict=False):
        member["series_sha256"] = sha256_of(path)
    write_submission(out, task, mean, series=series, is_raw=is_raw)
    manifest, n_slices = beside(out, "bag.json"), len(mean.image_ids)
    write_json(manifest, {"task": task.name, "clip": clip, "n_slices": n_slices, "members": members})
    counts = {"n_members": len(tables), "n_with_series": len(with_series), "n_slices": n_slices}
    return Bagged(submission=out, manifest=manifest, truth=notes.write(out, mean.image_ids), **counts)


def smooth(submission: Path, *, task: Task, out: Path, is_raw: bool = False) -> Smoothed:
    """Write `submission` with every slice's probabilities averaged with its neighbours', and what stands beside it.

    Needs the predictions table beside it, which knows the order of the slices. A series table has no neighbours to
    average, and stays as it is. is_raw: see `write_submission`. Raises BadInputError without a predictions table,
    UsageError when `out` is the submission itself, or would have its table.
    """
    prepare_submission(out, task, example="smoothed.csv.gz")
    tables, series_tables = tables_of([submission], out)
    notes = CarriedNotes.of([submission], task)
    table, series = _read(tables, series_tables, 0, task)
    smoothed = replace(table, probability=rolling_mean(table))
    write_submission(out, task, smoothed, series=series, is_raw=is_raw)
    return Smoothed(n_slices=len(table.image_ids), truth=notes.write(out, table.image_ids))


def rolling_mean(table: PredictionTable) -> Float64Array:
    """Return probabilities [N, L], each the mean of a slice and its neighbours in the series by `SMOOTHING_WEIGHTS`.

    At the ends of a series, of which the source says nothing, the weights of those that are there count.
    """
    order = np.lexsort((table.slice_index, np.array(table.series_keys, dtype=object).astype(str)))
    keys = np.array(table.series_keys, dtype=object)[order]
    ordered_NL = table.probability[order]
    before, own, after = SMOOTHING_WEIGHTS
    sum_NL = own * ordered_NL
    weight_N = np.full(len(ordered_NL), own)
    is_same = keys[1:] == keys[:-1]
    sum_NL[1:] += before * is_same[:, None] * ordered_NL[:-1]
    sum_NL[:-1] += after * is_same[:, None] * ordered_NL[1:]
    weight_N[1:] += before * is_same
    weight_N[:-1] += after * is_same
    smoothed_NL = np.empty_like(ordered_NL)
    smoothed_NL[order] = sum_NL / weight_N[:, None]
    return smoothed_NL.clip(0.0, 1.0)  # a mean of ones may round to more


def tables_of(submissions: Sequence[Path], out: Path) -> tuple[list[Path], list[Path]]:
    """Return the predictions tables of submissions, and the series tables of those that have one.

    Raises UsageError when one of their tables is there twice, or is to be written as `out`'s.
    """
    tables = [find_predictions(path) for path in submissions]
    series_tables = [path for path in map(find_series, submissions) if path is not None]
    _check_apart([*submissions, out])
    _check_apart([*tables, predictions_path(out)])
    _check_apart([*series_tables, series_path(out)])
    return tables, series_tables


def _check_apart(paths: Sequence[Path]) -> None:
    """Raise UsageError when two of these, of which the last is to be written, are one file, by whatever names."""
    if len({_identity(path) for path in paths}) < len(paths):
        raise UsageError(
            "a submission, or its table, stands twice among those to read, if under another name, or is itself to be "
            "written"
        )


def _identity(path: Path) -> object:
    try:
        status = path.stat()
    except OSError:
        return real_path(path)
    return status.st_dev, status.st_ino


def _mean(
    paths: Sequence[Path], series_paths: Sequence[Path], task: Task
) -> tuple[PredictionTable, SeriesTable | None]:
    """Return the mean of predictions tables, and that of series tables where `series_paths` gives one for each.

    One member at a time is in memory beside the sums.
    """
    first, first_series = _read(paths, series_paths, 0, task)
    slices = _Mean(paths[0], "slices", first.image_ids, first.probability)
    series = None
    if first_series is not None:
        series = _Mean(series_paths[0], "series", first_series.series_keys, first_series.probability)
    for member in range(1, len(paths)):
        table, series_table = _read(paths, series_paths, member, task)
        slices.add(paths[member], table.image_ids, table.probability)
        if series is not None and series_table is not None:
            series.add(series_paths[member], series_table.series_keys, series_table.probability)
    mean = replace(first, probability=slices.value())
    if series is None or first_series is None:
        return mean, None
    return mean, replace(first_series, probability=series.value())


def _read(
    paths: Sequence[Path], series_paths: Sequence[Path], member: int, task: Task
) -> tuple[PredictionTable, SeriesTable | None]:
    table = read_predictions(paths[member], task)
    return table, read_series(series_paths[member], task, table) if series_paths else None


class _Mean:
    """The mean of probabilities by name, in the order of the first member. what: slices or series, for messages."""

    def __init__(self, path: Path, what: str, names: Sequence[str], probability: Float64Array) -> None:
        self._first, self._what = path, what
        self._rows = {name: row for row, name in enumerate(names)}
        self._total, self._n = probability.copy(), 1

    def add(self, path: Path, names: Sequence[str], probability: Float64Array) -> None:
        """Add a member. Raises BadInputError when it does not hold the names of the first."""
        missing = sorted(set(self._rows) ^ set(names))
        if missing:
            shown = ", ".join(missing[:_SHOWN])
            raise BadInputError(
                f"{path}: does not hold the same {self._what} as {self._first.name}; {len(missing)} are in one of them "
                f"only, such as {shown}. Average predictions of one split of one store"
            )
        self._total[[self._rows[name] for name in names]] += probability
        self._n += 1

    def value(self) -> Float64Array:
        """Return the mean."""
        return (self._total / self._n).clip(0.0, 1.0)  # a mean of ones may round to more
