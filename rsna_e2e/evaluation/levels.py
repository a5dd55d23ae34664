"""Scores of each label of one level: slices, series or studies."""

# N samples of the level, L its labels

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rsna_e2e.core.records import Float64Array
from rsna_e2e.evaluation.resamples import Resamples
from rsna_e2e.tasks import metrics
from rsna_e2e.tasks.metrics import Estimate

# Where a decision is shown, a probability at or above this calls a label present.
DECISION_THRESHOLD = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelScores:
    """How well one label is predicted, over the samples whose truth is known; NaN where it has one class only.

    true_positives and the like: samples at the decision threshold.
    """

    label: str
    n: int
    n_positive: int
    log_loss: Estimate
    constant_log_loss: float
    auc: Estimate
    average_precision: float
    calibration_error: float
    true_positives: int
    false_positives: int

    @property
    def prevalence(self) -> float:
        """Share of positives."""
        return _share(self.n_positive, self.n)

    @property
    def false_negatives(self) -> int:
        """Positives that are missed."""
        return self.n_positive - self.true_positives

    @property
    def true_negatives(self) -> int:
        """Negatives that are not called present."""
        return self.n - self.n_positive - self.false_positives

    @property
    def sensitivity(self) -> float:
        """Share of the positives that are called present."""
        return _share(self.true_positives, self.n_positive)

    @property
    def specificity(self) -> float:
        """Share of the negatives that are not."""
        return _share(self.true_negatives, self.n - self.n_positive)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and sensitivity."""
        return _share(2 * self.true_positives, self.n_positive + self.true_positives + self.false_positives)

    def row(self, level: str) -> dict[str, Any]:
        """Return what `metrics.json` holds of it."""
        return {
            "label": self.label,
            "level": level,
            "n": self.n,
            "n_positive": self.n_positive,
            "prevalence": plain(self.prevalence),
            "log_loss": plain(self.log_loss),
            "constant_log_loss": plain(self.constant_log_loss),
            "auc": plain(self.auc),
            "average_precision": plain(self.average_precision),
            "calibration_error": plain(self.calibration_error),
            "sensitivity": plain(self.sensitivity),
            "specificity": plain(self.specificity),
            "true_positives": self.true_positives,
            "false_negatives": self.false_negatives,
            "false_positives": self.false_positives,
            "true_negatives": self.true_negatives,
            "f1": plain(self.f1),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """Truth, NaN where it is unknown, and probability [N, L], and the scores of each label in task order."""

    truth: Float64Array
    probability: Float64Array
    scores: tuple[LabelScores, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The labels."""
        return tuple(scores.label for scores in self.scores)

    def known(self, label: int) -> tuple[Float64Array, Float64Array]:
        """Return truth and probability of the samples whose truth of a label is known."""
        is_known_N = ~np.isnan(self.truth[:, label])
        return self.truth[is_known_N, label], self.probability[is_known_N, label]


def score_level(
    names: Sequence[str], truth_NL: Float64Array, probability_NL: Float64Array, resamples: Resamples
) -> Level:
    """Score each label of a level."""
    scores = tuple(
        _score_label(name, truth_NL[:, label], probability_NL[:, label], resamples) for label, name in enumerate(names)
    )
    return Level(truth=truth_NL, probability=probability_NL, scores=scores)


def _score_label(name: str, truth_N: Float64Array, probability_N: Float64Array, resamples: Resamples) -> LabelScores:
    is_known_N = ~np.isnan(truth_N)
    truth_N, probability_N, resamples = truth_N[is_known_N], probability_N[is_known_N], resamples.only(is_known_N)
    is_positive, is_called = truth_N == 1, probability_N >= DECISION_THRESHOLD
    return LabelScores(
        label=name,
        n=len(truth_N),
        n_positive=int(is_positive.sum()),
        log_loss=resamples.mean(metrics.log_loss_cells(truth_N, probability_N)),
        constant_log_loss=float(metrics.log_loss_cells(truth_N, metrics.constant_prediction(truth_N)).mean()),
        auc=resamples.auc(truth_N, probability_N),
        average_precision=metrics.average_precision(truth_N, probability_N),
        calibration_error=metrics.calibration(truth_N, probability_N).expected_error,
        true_positives=int((is_called & is_positive).sum()),
        false_positives=int((is_called & ~is_positive).sum()),
    )


def plain(number: float | Estimate) -> Any:
    """JSON has no NaN: an undefined number is None."""
    if isinstance(number, Estimate):
        return {"value": plain(number.value), "low": plain(number.low), "high": plain(number.high)}
    return number if math.isfinite(number) else None


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
