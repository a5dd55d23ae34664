"""Validation: scores on the held-out fold, each slice predicted once by one rank."""

# N slices (packed), S series, L labels

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

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
from rsna_e2e.tasks.metrics import auc, known_weighted_log_loss, scorable
from rsna_e2e.tasks.task import Task
from rsna_e2e.training.confusion import Confusion
from rsna_e2e.training.distributed import ALONE, Ranks
from rsna_e2e.training.runlog import BALANCED_CONFUSION, CONFUSION


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Scores on the held-out fold: weighted log loss over the labels that it has, and AUC of the any-label over slices
    (NaN with one class, or without that label).

    n_training_slices: where no fold is held out, on how many slices that the model was trained on; else 0. n_positive:
    slices with the any-label, of those that are scored; None where it is not known, in a run of an earlier version.
    series_weighted_log_loss, series_any_auc: the same of the series head over series, NaN where no series has all its
    labels; None for a model without that head. confusions: of the headline label, by the kind of log line that they
    make, of a model that classifies single slices.
    """

    weighted_log_loss: float
    any_auc: float
    n_training_slices: int = 0
    n_positive: int | None = None
    series_weighted_log_loss: float | None = None
    series_any_auc: float | None = None
    confusions: Mapping[str, Confusion] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Return the scores by name, those of the series head only where there is one."""
        has_head = self.series_weighted_log_loss is not None
        scores = asdict(replace(self, confusions={}))
        del scores["confusions"]
        return {name: value for name, value in scores.items() if has_head or not name.startswith("series_")}

    @classmethod
    def from_plain(cls, scores: Mapping[str, float | None]) -> "Validation":
        """Return the scores that JSON holds, in which what is undefined is None."""
        n_positive = scores.get("n_positive")
        names = ("series_weighted_log_loss", "series_any_auc")
        of_series: dict[str, Any] = {name: _number(scores[name]) for name in names if name in scores}
        return cls(
            weighted_log_loss=_number(scores["weighted_log_loss"]),
            any_auc=_number(scores["any_auc"]),
            n_training_slices=int(scores.get("n_training_slices") or 0),
            n_positive=None if n_positive is None else int(n_positive),
            **of_series,
        )

    def __str__(self) -> str:
        n = self.n_training_slices
        of = f"on {n} of its TRAINING slices, no validation:" if n else "validation"
        auc = f"{self.any_auc:.4f}"
        if math.isnan(self.any_auc):
            lacking = {None: "positive or no negative", 0: "positive"}.get(self.n_positive, "negative")
            auc = f"undefined: no {lacking} slice {'among these' if n else 'in the validation fold'}"
        text = f"{of} weighted log loss {self.weighted_log_loss:.4f}, AUC of any {auc}"
        if self.series_weighted_log_loss is not None and self.series_any_auc is not None:
            loss, area = (
                "undefined" if math.isnan(value) else f"{value:.4f}"
                for value in (self.series_weighted_log_loss, self.series_any_auc)
            )
            text += f"; series head: weighted log loss {loss}, AUC of any {area}"
        return text


def _number(value: float | None) -> float:
    return math.nan if value is None else value


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
    of single slices is scored on as well. loader: of whole batches. None when any
    rank was asked to stop before all was predicted.
    """
    shares = rank_shares([store.series[position].n_slices for position in held_out], n_ranks=ranks.n_ranks)
    mine = [held_out[member] for member in shares[ranks.rank]]
    prediction = predict_series(model, loader, mine, compute=compute, is_stopping=is_stopping)
    positions = np.sort(np.array(held_out, dtype=np.int64))
    spans = [store.series[position] for position in positions.tolist()]
    all_rows = np.sort(rows_of(spans))
    stopped = torch.tensor([float(is_stopping())])
    if ranks.max_(stopped).item():
        return None
    everyone = _gather(prediction.slices, np.searchsorted(all_rows, prediction.rows), len(all_rows), ranks)
    truth: Float64Array = store.labels[all_rows].astype(np.float64)
    if only_rows is not None:
        truth[~np.isin(all_rows, only_rows)] = np.nan
    scores = _score(truth, everyone, task, are_training_slices=only_rows is not None)
    if model.head is None:
        headline_N2 = np.stack([of[:, task.headline_index] for of in (truth, everyone)], axis=1)
        scores = replace(scores, confusions=_confusions(headline_N2, all_rows, balanced_rows))
    if prediction.series is None:
        return scores
    of_series = _gather(prediction.series, np.searchsorted(positions, prediction.positions), len(positions), ranks)
    return _with_series(scores, _series_truth(truth, [span.n_slices for span in spans]), of_series, task)


def _gather(mine: Float64Array, places: Rows, n: int, ranks: Ranks) -> Float64Array:
    """Return probabilities [n, L] of all ranks, of which `mine` come at `places`.

    Every row is one rank's, and 0 on the others: the sum is exact.
    """
    gathered = torch.zeros(n, mine.shape[1], dtype=torch.float64)
    gathered[places] = torch.from_numpy(mine)
    everyone: Float64Array = ranks.sum_(gathered).numpy()
    return everyone


def _score(truth: Float64Array, probability: Float64Array, task: Task, *, are_training_slices: bool) -> Validation:
    """Score what can be scored of slices [N, L]; truth is NaN where it is unknown."""
    known, _ = scorable(truth)
    assert known.any(), "hold_out and training_slices leave no other"
    loss, area = _scores(truth, probability, task)
    return Validation(
        weighted_log_loss=loss,
        any_auc=area,
        n_training_slices=int(known.sum()) if are_training_slices else 0,
        n_positive=int((truth[known, task.headline_index] > 0).sum()),
    )


def _confusions(headline_N2: Float64Array, rows_N: Rows, sample: Rows | None) -> dict[str, Confusion]:
    """Count all slices, and those of a sample where there is one, by the kind of log line.

    headline_N2: truth and probability of the headline label.
    """
    counts = {CONFUSION: Confusion.of(*headline_N2.T)}
    if sample is not None:
        counts[BALANCED_CONFUSION] = Confusion.of(*headline_N2[np.isin(rows_N, sample)].T)
    return counts


def _with_series(scores: Validation, truth_SL: Float64Array, probability_SL: Float64Array, task: Task) -> Validation:
    """Add the scores of the series head."""
    loss, area = _scores(truth_SL, probability_SL, task)
    return replace(scores, series_weighted_log_loss=loss, series_any_auc=area)


def _series_truth(truth_NL: Float64Array, lengths: Sequence[int]) -> Float64Array:
    """Return the labels [S, L] of series from those of their slices, NaN where they are unknown."""
    labels = torch.from_numpy(np.nan_to_num(truth_NL))
    targets_SL, known_SL = series_targets(labels, torch.from_numpy(~np.isnan(truth_NL)), torch.tensor(lengths))
    truth_SL: Float64Array = torch.where(known_SL, targets_SL, torch.nan).numpy()
    return truth_SL


def _scores(truth: Float64Array, probability: Float64Array, task: Task) -> tuple[float, float]:
    """Return weighted log loss and AUC of the any-label over the samples whose labels are known; NaN without any."""
    loss = known_weighted_log_loss(truth, probability, np.array(task.slices.weights))
    known, is_label_L = scorable(truth)
    has_any = known.any() and is_label_L[task.headline_index]
    return loss, auc(
        truth[known, task.headline_index], probability[known, task.headline_index]
    ) if has_any else math.nan
