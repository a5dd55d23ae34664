"""Many predictions of the same slices become one: the mean over a bag of them, or over neighbouring slices."""

# N slices, L labels, M members of a bag

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.files import real_path, sha256_of, write_json
from rsna_e2e.core.limits import CLIP
from rsna_e2e.core.records import Float64Array
from rsna_e2e.inference.predictions import (
    PredictionTable,
    beside,
    find_predictions,
    forget_notes,
    predictions_path,
    read_predictions,
    write_predictions,
)
from rsna_e2e.tasks.labels import prepare_submission, write_labels
from rsna_e2e.tasks.task import Task

# A rolling mean that the published solution logged as a baseline (RESULTS.md): a slice and its two neighbours
SMOOTHING_WEIGHTS = (0.6, 1.8, 0.6)

_SHOWN = 3  # ids in a message


@dataclass(frozen=True, slots=True, kw_only=True)
class Bagged:
    """What was written, and of how many members and slices it is the mean."""

    submission: Path
    manifest: Path
    n_members: int
    n_slices: int


def bag(submissions: Sequence[Path], *, task: Task, out: Path, clip: float = CLIP) -> Bagged:
    """Average submissions of the same slices; write the mean, its predictions table and what it is made of.

    submissions: files made by predict, each with its predictions table beside it. The manifest, `<out>.bag.json`, names
    every member with the sha256 of its table. Probabilities end up in [clip, 1 - clip]. Raises UsageError for a member
    given twice, by whatever names, or for `out` among them, BadInputError when they do not hold the same slices.
    """
    prepare_submission(out, example="submission.csv.gz")
    tables = _tables_of(submissions, out)
    mean = _mean(tables, task)
    write_submission(out, task, replace(mean, probability=mean.probability.clip(clip, 1 - clip)))
    manifest = beside(out, "bag.json")
    members = [{"name": path.name, "sha256": sha256_of(path)} for path in tables]
    write_json(manifest, {"task": task.name, "clip": clip, "n_slices": len(mean.image_ids), "members": members})
    return Bagged(submission=out, manifest=manifest, n_members=len(tables), n_slices=len(mean.image_ids))


def smooth(submission: Path, *, task: Task, out: Path) -> int:
    """Write `submission` with every slice's probabilities averaged with its neighbours'; return the number of slices.

    Needs the predictions table beside it, which knows the order of the slices. Raises BadInputError without it,
    UsageError when `out` is the submission itself, or would have its table.
    """
    prepare_submission(out, example="smoothed.csv.gz")
    (place,) = _tables_of([submission], out)
    table = read_predictions(place, task)
    write_submission(out, task, replace(table, probability=rolling_mean(table)))
    return len(table.image_ids)


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


def write_submission(out: Path, task: Task, table: PredictionTable) -> None:
    """Write a submission, and its predictions table beside it. Raises BadInputError where slices share an image id."""
    write_predictions(predictions_path(out), task, table)
    write_labels(out, task, table.image_ids, table.probability)
    forget_notes(out)


def _tables_of(submissions: Sequence[Path], out: Path) -> list[Path]:
    """Return the tables of submissions. Raises UsageError when one is there twice, or is to be written as `out`."""
    tables = [find_predictions(path) for path in submissions]
    _check_apart([*submissions, out])
    _check_apart([*tables, predictions_path(out)])
    return tables


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


def _mean(paths: Sequence[Path], task: Task) -> PredictionTable:
    """The mean of tables, in the order of the first; one of them at a time is in memory beside the sum."""
    first = read_predictions(paths[0], task)
    rows = {image_id: row for row, image_id in enumerate(first.image_ids)}
    total_NL = first.probability.copy()
    for path in paths[1:]:
        table = read_predictions(path, task)
        missing = sorted(set(first.image_ids) ^ set(table.image_ids))
        if missing:
            names = ", ".join(missing[:_SHOWN])
            raise BadInputError(
                f"{path}: does not hold the same slices as {paths[0].name}; {len(missing)} are in one of them only, "
                f"such as {names}. Average predictions of one split of one store"
            )
        total_NL[[rows[image_id] for image_id in table.image_ids]] += table.probability
    return replace(first, probability=(total_NL / len(paths)).clip(0.0, 1.0))
