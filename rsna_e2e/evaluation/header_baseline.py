"""The metadata floor as a submission: what headers alone predict of each slice, by patients that are not predicted."""

# N slices and E series that are predicted, L labels of slices, M of series, R slices to learn from, G guesses of each:
# the forest's, those of N_SHUFFLES forests of shuffled labels, the share of positives, and that of the view

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from rsna_e2e.core.errors import UsageError
from rsna_e2e.core.records import Column, Float64Array, Rows
from rsna_e2e.evaluation.baselines import by_bin
from rsna_e2e.evaluation.header_samples import guess_by_forest, make_samples
from rsna_e2e.inference.missing import MissingImages, list_missing
from rsna_e2e.inference.predict import make_series_table, make_table
from rsna_e2e.inference.submission import prepare_submission, write_submission
from rsna_e2e.inference.truth import TruthFile, write_truth
from rsna_e2e.model.forward import Prediction
from rsna_e2e.store import SeriesSpan, Store, rows_of
from rsna_e2e.store.reader import check_labels
from rsna_e2e.tasks import metrics
from rsna_e2e.tasks.catalogue import task_option
from rsna_e2e.tasks.task import Task

Split = Literal["train", "validation", "test"]
N_SHUFFLES = 5
UNKNOWN = 0.5  # predicted of a label of which nothing is known

_FOREST, _SHUFFLED, _SHARE, _VIEW = 0, slice(1, 1 + N_SHUFFLES), 1 + N_SHUFFLES, 2 + N_SHUFFLES
_N_GUESSES = 3 + N_SHUFFLES

# How far from chance shuffled labels may lie, and by how many standard errors of so few shuffles further
_TOLERANCE, _N_ERRORS = 0.05, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelBaseline:
    """What headers alone say of one label, over the n slices or series whose truth is known.

    shuffled: the AUC of each forest that was fitted to shuffled labels. log_loss: of the forest; constant_log_loss: of
    the share of positives in what it learned from. within: the AUC of the forest by the view of a radiograph; view_auc:
    that of the view alone, NaN of others.
    """

    label: str
    n: int
    n_positive: int
    auc: float
    shuffled: tuple[float, ...]
    log_loss: float
    constant_log_loss: float
    within: dict[str, float] = field(default_factory=dict)
    view_auc: float = float("nan")

    @property
    def is_at_chance(self) -> bool:
        """Whether forests of shuffled labels are no better or worse than chance, as far as so few of them tell."""
        gap = abs(float(np.mean(self.shuffled)) - 0.5)
        error = float(np.std(self.shuffled, ddof=1)) / len(self.shuffled) ** 0.5
        return not gap > _TOLERANCE + _N_ERRORS * error  # NaN, of one class alone, is no finding


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What `header_baseline` wrote, and what headers say of the labels that are known of what was predicted."""

    submission: Path
    labels: tuple[LabelBaseline, ...]
    truth: TruthFile | None
    missing: MissingImages
    n_slices: int
    n_series: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Guesses:
    """Guesses of the slices [G, N, L] at `rows` and of the series [G, E, M] at `positions`, fitted without weights, as
    AUCs are scored; weighted [N, L]: those of the forest with the weights of the task's score."""

    rows: Rows
    positions: Rows
    slices: Float64Array
    series: Float64Array
    weighted: Float64Array


def header_baseline(
    store: Store, task: Task, *, split: Split, out: Path, fold: int = 0, seed: int = 0, is_raw: bool = False
) -> Baseline:
    """Predict a split of a store by a forest on headers, fitted on other patients; write it as `predict` does.

    split: test, learned from all of train; validation, the fold `fold` of train, from its other folds; train, every
    fold from the others. is_raw: see `write_submission`. Raises UsageError where there is nothing to learn from or to
    predict, BadInputError for labels of another task.
    """
    prepare_submission(out, task, example="baseline.csv")
    check_labels(store, task)
    parts = [_guess(store, task, *part, seed=seed) for part in _parts(store, task, split, fold)]
    found = _Guesses(
        rows=np.concatenate([part.rows for part in parts]),
        positions=np.concatenate([part.positions for part in parts]),
        slices=np.concatenate([part.slices for part in parts], axis=1),
        series=np.concatenate([part.series for part in parts], axis=1),
        weighted=np.concatenate([part.weighted for part in parts]),
    )
    prediction = Prediction(
        rows=found.rows,
        slices=found.weighted,
        positions=found.positions,
        series=found.series[_FOREST] if task.series_truth == "own" else None,
    ).in_store_order()
    table = make_table(store, prediction.rows, prediction.slices)
    write_submission(out, task, table, series=make_series_table(store, prediction, task), is_raw=is_raw)
    return Baseline(
        submission=out,
        labels=tuple(_scores(store, task, found)),
        truth=write_truth(store, prediction, task=task, submission=out),
        missing=list_missing(store, split, submission=out),
        n_slices=len(found.rows),
        n_series=len(found.positions),
    )


def _parts(store: Store, task: Task, split: Split, fold: int) -> Iterator[tuple[list[SeriesSpan], Rows]]:
    """Yield what is learned from, and the positions in `store.series` of what is predicted by it."""
    train = [position for position, span in enumerate(store.series) if span.split == "train"]
    if not train:
        raise UsageError(
            f"{store.path}: none of its series has a label, so there is nothing to learn from. Add labels: rsna-e2e "
            f"label {store.path} LABELS {task_option(task.name)} (docs/labels.md)"
        )
    folds = sorted({store.series[position].fold for position in train})
    if split == "test":
        test = [position for position, span in enumerate(store.series) if span.split == "test"]
        if not test:
            raise UsageError(
                f"{store.path}: no series in split 'test'. Predict a fold (--split validation) or every fold (--split "
                "train), or hold patients out: rsna-e2e prepare RAW STORE --holdout 0.2"
            )
        wanted = [test]
    else:
        if split == "validation" and fold not in folds:
            raise UsageError(f"{store.path}: no series in fold {fold}; it has folds {folds}. Choose one with --fold")
        wanted = [
            [position for position in train if store.series[position].fold == one]
            for one in (folds if split == "train" else [fold])
        ]
    for predicted in wanted:
        patients = {store.series[position].patient_id for position in predicted}
        learned = [store.series[position] for position in train if store.series[position].patient_id not in patients]
        if not learned:
            raise UsageError(f"{store.path}: has no labels of other patients than those that are predicted. Add some")
        yield learned, np.array(predicted, dtype=np.int64)


def _guess(store: Store, task: Task, learned: Sequence[SeriesSpan], positions_E: Rows, *, seed: int) -> _Guesses:
    """Guess all labels of these series; those that are known of the same slices at once."""
    spans = [store.series[position] for position in positions_E.tolist()]
    rows_N, groups_E = rows_of(spans), [rows_of([span]) for span in spans]
    slices = np.full((_N_GUESSES, len(rows_N), len(task.slices)), UNKNOWN)
    series = np.full((_N_GUESSES, len(spans), len(task.series)), UNKNOWN)
    weighted = slices[_FOREST].copy()
    for names in _known_together(store, task, rows_of(learned)):
        columns = [task.slices.index(name) for name in names]
        samples = make_samples(store, task.only(names), learned, rows_N, groups_E)
        rng = np.random.default_rng(seed)
        tries = [samples, *(samples.shuffled(rng) for _ in range(N_SHUFFLES))]
        for number, one in enumerate(tries):
            guess = guess_by_forest(one, seed=seed)
            slices[number][:, columns] = guess.ranked
            if guess.studies.size:
                series[number] = guess.studies
            if number == _FOREST:
                weighted[:, columns] = guess.weighted
        slices[_SHARE][:, columns] = samples.labels.mean(axis=0)
        if samples.series_labels.size:
            series[_SHARE] = samples.series_labels.mean(axis=0)
        slices[_VIEW][:, columns] = _by_view(store, rows_of(learned), columns, rows_N)
    return _Guesses(rows=rows_N, positions=positions_E, slices=slices, series=series, weighted=weighted)


def _known_together(store: Store, task: Task, rows_R: Rows) -> list[list[str]]:
    """Return the labels of which anything is known of these slices, by which slices this is."""
    names_by: dict[bytes, list[str]] = defaultdict(list)
    for name, is_known_R in zip(task.slices.names, ~np.isnan(store.labels[rows_R]).T, strict=True):
        if is_known_R.any():
            names_by[is_known_R.tobytes()].append(name)
    if not names_by:
        raise UsageError(f"{store.path}: no slice to learn from has a label. Add labels (docs/labels.md)")
    return list(names_by.values())


def _by_view(store: Store, rows_R: Rows, columns: list[int], rows_N: Rows) -> Float64Array:
    """Return the share of positives of the view of each slice [N, L]; nothing of slices without views."""
    if "view" not in store.index:
        return np.full((len(rows_N), len(columns)), np.nan)
    labels_RL = store.labels[rows_R][:, columns].astype(np.float64)
    is_known_R = ~np.isnan(labels_RL).any(axis=1)
    view = np.unique(store.index["view"].astype(str), return_inverse=True)[1]
    return by_bin(view[rows_R[is_known_R]], labels_RL[is_known_R], np.ones(is_known_R.sum()), view[rows_N])


def _scores(store: Store, task: Task, found: _Guesses) -> Iterator[LabelBaseline]:
    views = store.index["view"][found.rows] if "view" in store.index else None
    for names, truth, guesses, groups in (
        (task.slices.names, store.labels[found.rows], found.slices, views),
        (task.series.names, store.series_labels[found.positions], found.series, None),
    ):
        for column, name in enumerate(names):
            is_known = ~np.isnan(truth[:, column])
            if is_known.any():
                known = truth[is_known, column].astype(np.float64), guesses[:, is_known, column]
                yield _score(name, *known, groups=None if groups is None else groups[is_known])


def _score(name: str, truth_N: Float64Array, guesses_GN: Float64Array, *, groups: Column | None) -> LabelBaseline:
    losses_GN = metrics.log_loss_cells(truth_N, guesses_GN)
    return LabelBaseline(
        label=name,
        n=len(truth_N),
        n_positive=int((truth_N > 0).sum()),
        auc=metrics.auc(truth_N, guesses_GN[_FOREST]),
        shuffled=tuple(metrics.auc(truth_N, shuffled_N) for shuffled_N in guesses_GN[_SHUFFLED]),
        log_loss=float(losses_GN[_FOREST].mean()),
        constant_log_loss=float(losses_GN[_SHARE].mean()),
        within={} if groups is None else metrics.auc_by_group(truth_N, guesses_GN[_FOREST], groups),
        view_auc=float("nan") if groups is None else metrics.auc(truth_N, guesses_GN[_VIEW]),
    )
