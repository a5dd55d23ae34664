"""Validation: scores on the held-out fold, each slice predicted once by one rank."""

# N slices (packed), S series, L labels of slices, M of series

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self, TypeVar

import numpy as np
import torch

from rsna_e2e.core.device import Compute
from rsna_e2e.core.records import Float64Array, Rows, never
from rsna_e2e.loader.batch import series_targets
from rsna_e2e.loader.division import rank_shares
from rsna_e2e.loader.series_loader import SeriesLoader
from rsna_e2e.model.forward import predict_series
from rsna_e2e.model.network import JointModel
from rsna_e2e.store import Store, rows_of
from rsna_e2e.tasks.metrics import auc, known_weighted_log_loss, scorable, study_log_loss_of, youden_threshold
from rsna_e2e.tasks.task import Task
from rsna_e2e.training.confusion import Confusion
from rsna_e2e.training.distributed import ALONE, Ranks
from rsna_e2e.training.runlog import BALANCED_CONFUSION, CONFUSION

P = TypeVar("P")

_OF_SERIES = ("series_weighted_log_loss", "series_any_auc", "study_log_loss")  # that not every run has


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Scores on the held-out fold: weighted log loss over the labels that it has, and AUC of the headline label over
    slices (NaN with one class, or without that label).

    n_training_slices: where no fold is held out, on how many slices that the model was trained on; else 0. n_positive:
    slices with the headline, of those that are scored; None where it is not known, in a run of an earlier version.
    series_weighted_log_loss: the same of the series head over series, NaN where no series has all its labels; None for
    a model without that head. series_any_auc: likewise, and None where series have labels of their own.
    study_log_loss: of tasks with that score, over slices and series at once. confusions: of the headline label, by the
    kind of log line that they make, of a model that classifies single slices. thresholds: of the labels of slices, from
    which on a slice is best called to have one; none where training slices are scored. held_out: returns what was
    predicted, None where training slices are scored.
    """

    weighted_log_loss: float
    any_auc: float
    n_training_slices: int = 0
    n_positive: int | None = None
    series_weighted_log_loss: float | None = None
    series_any_auc: float | None = None
    study_log_loss: float | None = None
    confusions: Mapping[str, Confusion] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    # a function: the summary of a run is checked by its types, among which arrays have no place
    held_out: "Callable[[], HeldOut] | None" = field(default=None, compare=False, repr=False)

    @property
    def loss(self) -> float:
        """The score of the task, which is the lowest in the best epoch."""
        return self.weighted_log_loss if self.study_log_loss is None else self.study_log_loss

    def plain(self) -> dict[str, Any]:
        """Return the scores by name, of `_OF_SERIES` only those that there are."""
        scores = asdict(replace(self, confusions={}, thresholds={}, held_out=None))
        del scores["confusions"], scores["thresholds"], scores["held_out"]
        return {name: value for name, value in scores.items() if value is not None or name not in _OF_SERIES}

    @classmethod
    def from_plain(cls, scores: Mapping[str, float | None]) -> "Validation":
        """Return the scores that JSON holds, in which what is undefined is None."""
        n_positive = scores.get("n_positive")
        of_series: dict[str, Any] = {name: _number(scores[name]) for name in _OF_SERIES if name in scores}
        return cls(
            weighted_log_loss=_number(scores["weighted_log_loss"]),
            any_auc=_number(scores["any_auc"]),
            n_training_slices=int(scores.get("n_training_slices") or 0),
            n_positive=None if n_positive is None else int(n_positive),
            **of_series,
        )

    def describe(self, headline: str) -> str:
        """Return the scores in words. headline: name of the label that `any_auc` and `series_any_auc` are of."""
        n = self.n_training_slices
        of = f"on {n} of its TRAINING slices, no validation:" if n else "validation"
        auc = f"{self.any_auc:.4f}"
        if math.isnan(self.any_auc):
            lacking = {None: "positive or no negative", 0: "positive"}.get(self.n_positive, "negative")
            auc = f"undefined: no {lacking} slice {'among these' if n else 'in the validation fold'}"
        if self.study_log_loss is not None:
            loss, of_series = map(_text, (self.study_log_loss, self.series_weighted_log_loss))
            return f"{of} log loss of slices and series {loss}, AUC of {headline} {auc}, log loss of series {of_series}"
        text = f"{of} weighted log loss {self.weighted_log_loss:.4f}, AUC of {headline} {auc}"
        if self.series_weighted_log_loss is not None:
            text += f"; series head: weighted log loss {_text(self.series_weighted_log_loss)}"
        return text if self.series_any_auc is None else f"{text}, AUC of {headline} {_text(self.series_any_auc)}"


def _text(value: float | None) -> str:
    return "undefined" if value is None or math.isnan(value) else f"{value:.4f}"


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def predict_share(
    held_out: Sequence[int],
    store: Store,
    ranks: Ranks,
    predict: Callable[[list[int]], P],
    *,
    is_stopping: Callable[[], bool],
) -> P | None:
    """Predict this rank's share of the series at positions `held_out`; None when any rank was asked to stop."""
    shares = rank_shares([store.series[position].n_slices for position in held_out], n_ranks=ranks.n_ranks)
    prediction = predict([held_out[member] for member in shares[ranks.rank]])
    stopped = torch.tensor([float(is_stopping())])
    return None if ranks.max_(stopped).item() else prediction


def validate(
    model: JointModel,
    loader: SeriesLoader,
    held_out: Sequence[int],
    store: Store,
    task: Task,
    compute: Compute,
    *,
    only_rows: Rows | None = None,
    balanced_rows: Rows | None = None,
    ranks: Ranks = ALONE,
    is_stopping: Callable[[], bool] = never,
) -> Validation | None:
    """Score `model` on the series at positions `held_out`, shared among ranks; the same on all of them.

    only_rows: these store rows of them alone, and they are training slices. balanced_rows: a sample that a classifier
    of single slices is scored on as well. loader: of whole batches. None when any rank was asked to stop before all was
    predicted.
    """
    prediction = predict_share(
        *(held_out, store, ranks),
        lambda mine: predict_series(model, loader, mine, compute=compute, is_stopping=is_stopping),
        is_stopping=is_stopping,
    )
    if prediction is None:
        return None
    truth = FoldTruth.of(store, held_out, task)
    everyone = _gather(prediction.slices, np.searchsorted(truth.rows, prediction.rows), len(truth.rows), ranks)
    of_series = None
    if prediction.series is not None:
        places = np.searchsorted(truth.positions, prediction.positions)
        of_series = _gather(prediction.series, places, len(truth.positions), ranks)
    if only_rows is not None:
        truth = truth.only(only_rows)
    scores = _score(truth, everyone, of_series, task, are_training_slices=only_rows is not None)
    if model.head is not None:
        return scores
    headline_N2 = np.stack([of[:, task.headline_index] for of in (truth.slices, everyone)], axis=1)
    return replace(scores, confusions=_confusions(headline_N2, truth.rows, balanced_rows))


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldTruth:
    """What a store knows of some of its series: rows [N] and positions [S], both ascending, lengths and patients of the
    series, and the labels of their slices [N, L], NaN where they are unknown.

    own_series [S, M]: labels that series have of their own; None where they follow from those of the slices.
    """

    rows: Rows
    positions: Rows
    lengths: tuple[int, ...]
    patients: tuple[str, ...]
    slices: Float64Array
    own_series: Float64Array | None

    @classmethod
    def of(cls, store: Store, positions: Sequence[int], task: Task) -> Self:
        """Return the truth of the series at these positions of `store`."""
        ascending = np.sort(np.array(positions, dtype=np.int64))
        spans = [store.series[position] for position in ascending.tolist()]
        rows = rows_of(spans)
        is_own = task.series_truth == "own"
        return cls(
            rows=rows,
            positions=ascending,
            lengths=tuple(span.n_slices for span in spans),
            patients=tuple(span.patient_id for span in spans),
            slices=store.labels[rows].astype(np.float64),
            own_series=store.series_labels[ascending].astype(np.float64) if is_own else None,
        )

    def only(self, rows: Rows) -> Self:
        """Return the truth as if nothing was known of slices in other rows of the store."""
        return replace(self, slices=np.where(np.isin(self.rows, rows)[:, None], self.slices, np.nan))

    @property
    def series(self) -> Float64Array:
        """The labels of series [S, M]: 1 where any slice has one, where they have none of their own."""
        if self.own_series is not None:
            return self.own_series
        labels, known = torch.from_numpy(np.nan_to_num(self.slices)), torch.from_numpy(~np.isnan(self.slices))
        targets_SL, known_SL = series_targets(labels, known, torch.tensor(self.lengths))
        truth_SL: Float64Array = torch.where(known_SL, targets_SL, torch.nan).numpy()
        return truth_SL


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """What was predicted of series that were held out, slices [N, L] and series [S, M] in the order of their truth;
    None without a series head."""

    truth: FoldTruth
    slices: Float64Array
    series: Float64Array | None


def score_of_studies(truth: FoldTruth, probability_NL: Float64Array, probability_SM: Float64Array, task: Task) -> float:
    """Return `study_log_loss` of series and their slices; NaN where nothing is known of them."""
    series_of_slice_N = np.repeat(np.arange(len(truth.lengths)), truth.lengths)
    losses_S, weights_S = study_log_loss_of(
        task, truth.slices, probability_NL, series_of_slice_N, truth.series, probability_SM
    )
    return float(losses_S.sum() / weights_S.sum()) if weights_S.any() else math.nan


def loss_of_score(
    truth: FoldTruth, probability_NL: Float64Array, probability_SM: Float64Array | None, task: Task
) -> float:
    """Return what a task's score is as a loss; without predictions of series, that of slices alone."""
    if task.score == "study_log_loss" and probability_SM is not None:
        return score_of_studies(truth, probability_NL, probability_SM, task)
    return known_weighted_log_loss(truth.slices, probability_NL, np.array(task.slices.weights))


def _gather(mine: Float64Array, places: Rows, n: int, ranks: Ranks) -> Float64Array:
    """Return probabilities [n, L] of all ranks, of which `mine` come at `places`.

    Every row is one rank's, and 0 on the others: the sum is exact.
    """
    gathered = torch.zeros(n, mine.shape[1], dtype=torch.float64)
    gathered[places] = torch.from_numpy(mine)
    everyone: Float64Array = ranks.sum_(gathered).numpy()
    return everyone


def _score(
    truth: FoldTruth,
    probability_NL: Float64Array,
    probability_SM: Float64Array | None,
    task: Task,
    *,
    are_training_slices: bool,
) -> Validation:
    """Score what can be scored."""
    headline = task.headline_index
    known_N, _ = scorable(truth.slices)
    assert known_N.any(), "hold_out and training_slices leave no other"
    held_out = HeldOut(truth=truth, slices=probability_NL, series=probability_SM)
    thresholds = () if are_training_slices else map(youden_threshold, truth.slices.T, probability_NL.T)
    scores = Validation(
        weighted_log_loss=known_weighted_log_loss(truth.slices, probability_NL, np.array(task.slices.weights)),
        any_auc=_headline_auc(truth.slices, probability_NL, task),
        n_training_slices=int(known_N.sum()) if are_training_slices else 0,
        n_positive=int((truth.slices[known_N, headline] > 0).sum()),
        thresholds=dict(zip(task.slices.names, thresholds, strict=not are_training_slices)),
        held_out=None if are_training_slices else lambda: held_out,
    )
    if probability_SM is None:
        return scores
    of_series = known_weighted_log_loss(truth.series, probability_SM, np.array(task.series_labels.weights))
    has_headline, is_of_both = task.series_truth == "any_slice", task.score == "study_log_loss"
    return replace(
        scores,
        series_weighted_log_loss=of_series,
        series_any_auc=_headline_auc(truth.series, probability_SM, task) if has_headline else None,
        study_log_loss=score_of_studies(truth, probability_NL, probability_SM, task) if is_of_both else None,
    )


def _confusions(headline_N2: Float64Array, rows_N: Rows, sample: Rows | None) -> dict[str, Confusion]:
    """Count all slices, and those of a sample where there is one, by the kind of log line.

    headline_N2: truth and probability of the headline label.
    """
    counts = {CONFUSION: Confusion.of(*headline_N2.T)}
    if sample is not None:
        counts[BALANCED_CONFUSION] = Confusion.of(*headline_N2[np.isin(rows_N, sample)].T)
    return counts


def _headline_auc(truth: Float64Array, probability: Float64Array, task: Task) -> float:
    """Return the AUC of the headline over the samples whose labels are known; NaN without any."""
    known, is_label_L = scorable(truth)
    if not (known.any() and is_label_L[task.headline_index]):
        return math.nan
    return auc(truth[known, task.headline_index], probability[known, task.headline_index])
