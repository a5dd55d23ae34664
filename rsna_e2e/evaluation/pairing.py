"""What a submission and the truth both have of one level, after checking that nothing else is missing."""

# N images or studies, L labels

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import Float64Array
from rsna_e2e.core.table_files import TableFile
from rsna_e2e.evaluation.series_layout import count, some_ids
from rsna_e2e.tasks.labels import LabelTable
from rsna_e2e.tasks.task import Task


@dataclass(frozen=True, slots=True)
class Said:
    """What a file says of one level: ids, sorted, and values [N, L], NaN where it says nothing."""

    file: TableFile
    ids: Sequence[str]
    values: Float64Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """How messages speak of a level: its labels, what one of it is called, its row for an id and a label, and what ids
    of rows look like. needs_all: whether truth must have each label of all, or may lack some."""

    names: tuple[str, ...]
    noun: str
    row_id: Callable[[str, str], str]
    spelled: str
    needs_all: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Truth and probability [N, L] of what both files have of a level, by these labels and ids, which are sorted.

    not_predicted: ids of the truth alone; without_truth: ids of the submission alone.
    """

    names: tuple[str, ...]
    ids: list[str]
    truth: Float64Array
    probability: Float64Array
    not_predicted: frozenset[str]
    without_truth: frozenset[str]


def pair_slices(submission: tuple[TableFile, LabelTable], truth: tuple[TableFile, LabelTable], task: Task, *,
                allow_missing: bool) -> Pair:  # fmt: skip
    """Pair the slices of two label files, see `_pair`."""
    first, second = (Said(file, table.image_ids, table.values) for file, table in (submission, truth))
    spelled = task.label_id("<image>", "<label>")
    words = Words(names=task.slices.names, noun="image", row_id=task.label_id, spelled=spelled)
    return _pair(first, second, words, allow_missing=allow_missing)


def pair_studies(submission: tuple[TableFile, LabelTable], truth: tuple[TableFile, LabelTable], task: Task, *,
                 allow_missing: bool) -> Pair:  # fmt: skip
    """Pair the studies of two label files, see `_pair`; truth may lack labels of some of them."""
    first, second = (Said(file, table.study_ids, table.study_values) for file, table in (submission, truth))
    spelled = task.study_label_id("<study>", "<label>")
    words = Words(names=task.series.names, noun="study", row_id=task.study_label_id, spelled=spelled, needs_all=False)
    return _pair(first, second, words, allow_missing=allow_missing)


def _pair(submission: Said, truth: Said, words: Words, *, allow_missing: bool) -> Pair:
    """Return what both files have. Raises BadInputError where one is incomplete or truth is neither 0 nor 1."""
    both = [_labels_in(said) for said in (truth, submission)]
    columns = [label for label in range(len(words.names)) if all(label in found for found in both)]
    if not columns:
        raise BadInputError(
            f"{submission.file}: has no label that {truth.file} has too; the IDs of both are {words.spelled}"
        )
    ids, truth_N, predicted_N = np.intersect1d(truth.ids, submission.ids, assume_unique=True, return_indices=True)
    if not allow_missing or not len(ids):
        _check_same(submission, truth, words)
    pair = Pair(
        names=tuple(words.names[label] for label in columns),
        ids=ids.tolist(),
        truth=truth.values[truth_N][:, columns],
        probability=submission.values[predicted_N][:, columns],
        not_predicted=frozenset(truth.ids) - frozenset(submission.ids),
        without_truth=frozenset(submission.ids) - frozenset(truth.ids),
    )
    _check_values(submission, truth, pair, words)
    return pair


def _labels_in(said: Said) -> set[int]:
    """Return the labels that any id has."""
    return set(np.flatnonzero(~np.isnan(said.values).all(axis=0)).tolist())


def _check_values(submission: Said, truth: Said, pair: Pair, words: Words) -> None:
    """Raise BadInputError unless all have every label that they need, and truth is 0 or 1."""

    def row_id(cell: Sequence[int]) -> str:
        return words.row_id(pair.ids[cell[0]], pair.names[cell[1]])

    needed = [(truth.file, pair.truth)] if words.needs_all else []
    for file, values in (*needed, (submission.file, pair.probability)):
        absent = np.argwhere(np.isnan(values))
        if len(absent):
            raise BadInputError(
                f"{file}: {count(len(absent), 'row')} missing, the first is {row_id(absent[0])}. A label that "
                f"the file has of one {words.noun} it needs of all"
            )
    between = np.argwhere((pair.truth > 0) & (pair.truth < 1))
    if len(between):
        raise BadInputError(
            f"{truth.file}: the Label of {row_id(between[0])} is {pair.truth[tuple(between[0])]}, but truth is 0 or "
            "1. Give the submission first, then the truth"
        )


def _check_same(submission: Said, truth: Said, words: Words) -> None:
    unlike = difference(submission.ids, truth.file, truth.ids, noun=words.noun)
    if not unlike:
        return
    n_common = len(set(truth.ids) & set(submission.ids))
    if n_common:
        advice = f"To score the {n_common} that are in both files: --allow-missing"
    else:
        firsts = [next(iter(said.ids), "none") for said in (submission, truth)]
        advice = (
            f"No {words.noun} is in both files: the first of this is {firsts[0]}, of the other {firsts[1]}. IDs are "
            f"{words.spelled}"
        )
    raise BadInputError(f"{submission.file}: {unlike}. {advice}")


def difference(ids: Sequence[str], other: Path | TableFile, other_ids: Sequence[str], *, noun: str = "image") -> str:
    """Say what ids a file lacks of another and has beside it; nothing where both have the same."""
    missing, extra = sorted(set(other_ids) - set(ids)), sorted(set(ids) - set(other_ids))
    return " and ".join(
        f"{count(len(found), noun)} {what} ({some_ids(found)})"
        for found, what in ((missing, f"of {other} missing"), (extra, f"not in {other}"))
        if found
    )
