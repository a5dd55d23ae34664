"""Scores on the held-out fold, each slice predicted once by one rank."""

# N slices (packed), L labels

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rsna_e2e.core.device import Compute
from rsna_e2e.core.errors import UsageError
from rsna_e2e.core.records import Float64Array, Rows, never
from rsna_e2e.loader.division import rank_shares
from rsna_e2e.loader.series_loader import SeriesLoader
from rsna_e2e.model.forward import predict_series
from rsna_e2e.model.network import JointModel
from rsna_e2e.store import Store, rows_of
from rsna_e2e.tasks.metrics import auc, scorable, weighted_log_loss
from rsna_e2e.tasks.task import Task
from rsna_e2e.training.distributed import ALONE, Ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Scores on the held-out fold: weighted log loss over the labels that it has, and AUC of the any-label over slices
    (NaN with one class, or without that label).

    n_training_slices: where no fold is held out, on how many slices that the model was trained on; else 0. n_positive:
    slices with the any-label, of those that are scored; None where it is not known, in a run of an earlier version.
    """

    weighted_log_loss: float
    any_auc: float
    n_training_slices: int = 0
    n_positive: int | None = None

    @classmethod
    def from_plain(cls, scores: Mapping[str, float | None]) -> "Validation":
        """Return the scores that JSON holds, in which what is undefined is None."""
        loss, area = (
            math.nan if (value := scores[name]) is None else value for name in ("weighted_log_loss", "any_auc")
        )
        n_positive = scores.get("n_positive")
        return cls(
            weighted_log_loss=loss,
            any_auc=area,
            n_training_slices=int(scores.get("n_training_slices") or 0),
            n_positive=None if n_positive is None else int(n_positive),
        )

    def __str__(self) -> str:
        n = self.n_training_slices
        of = f"on {n} of its TRAINING slices, no validation:" if n else "validation"
        auc = f"{self.any_auc:.4f}"
        if math.isnan(self.any_auc):
            lacking = {None: "positive or no negative", 0: "positive"}.get(self.n_positive, "negative")
            auc = f"undefined: no {lacking} slice {'among these' if n else 'in the validation fold'}"
        return f"{of} weighted log loss {self.weighted_log_loss:.4f}, AUC of any {auc}"


def validate(
    model: JointModel,
    loader: SeriesLoader,
    held_out: Sequence[int],
    store: Store,
    task: Task,
    compute: Compute,
    *,
    only_rows: Rows | None = None,
    ranks: Ranks = ALONE,
    is_stopping: Callable[[], bool] = never,
) -> Validation | None:
    """Score `model` on the series at positions `held_out`, shared among ranks; the same on all of them.

    only_rows: these store rows of them alone, and they are training slices. loader: of whole batches. None when any
    rank was asked to stop before all was predicted. Raises UsageError when no slice has all labels of the fold.
    """
    shares = rank_shares([store.series[position].n_slices for position in held_out], n_ranks=ranks.n_ranks)
    mine = [held_out[member] for member in shares[ranks.rank]]
    rows, probability = predict_series(model, loader, mine, compute=compute, is_stopping=is_stopping)
    all_rows = np.sort(rows_of(store.series[position] for position in held_out))
    # every slice is one rank's, and 0 on the others: the sum is exact
    gathered = torch.zeros(len(all_rows), len(task.label_names), dtype=torch.float64)
    gathered[np.searchsorted(all_rows, rows)] = torch.from_numpy(probability)
    stopped = torch.tensor([float(is_stopping())])
    if ranks.max_(stopped).item():
        return None
    everyone = ranks.sum_(gathered).numpy()
    truth: Float64Array = store.labels[all_rows].astype(np.float64)
    if only_rows is not None:
        truth[~np.isin(all_rows, only_rows)] = np.nan
    return _score(truth, everyone, task, are_training_slices=only_rows is not None)


def _score(truth: Float64Array, probability: Float64Array, task: Task, *, are_training_slices: bool) -> Validation:
    """Score what can be scored of slices [N, L]; truth is NaN where it is unknown."""
    known, is_label_L = scorable(truth)
    if not known.any():
        raise UsageError(
            "what is to be scored has no slice with all its labels. Choose another fold with --set validation_fold=N"
        )
    scored = np.ix_(known, is_label_L)
    has_any = is_label_L[task.any_index]
    return Validation(
        weighted_log_loss=weighted_log_loss(
            truth[scored], probability[scored], np.array(task.label_weights)[is_label_L]
        ),
        any_auc=auc(truth[known, task.any_index], probability[known, task.any_index]) if has_any else float("nan"),
        n_training_slices=int(known.sum()) if are_training_slices else 0,
        n_positive=int((truth[known, task.any_index] > 0).sum()),
    )
