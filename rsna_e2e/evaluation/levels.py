"""Scores of each label of one level: slices, series or studies."""

# N samples of the level, L its labels

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rsna_e2e.core.records import Float64Array
from rsna_e2e.evaluation.resamples import Resamples
from rsna_e2e.tasks import metrics
from rsna_e2e.tasks.metrics import Decisions, Estimate
from rsna_e2e.tasks.metrics.brier import BrierParts, brier_parts, squared_errors
from rsna_e2e.tasks.metrics.delong import DeLong, delong
from rsna_e2e.tasks.metrics.ranked import FIXED_LEVELS


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelScores:
    """How well one label is predicted, over the samples whose truth is known; NaN where it has one class only.

    delong: the AUC with its variance by DeLong, who takes samples as independent. operating: sensitivity at fixed
    specificity and the other way round, by their names in `resampled_ranks`. decisions: on these samples, at the
    decision threshold.
    """

    label: str
    n: int
    n_positive: int
    log_loss: Estimate
    constant_log_loss: float
    auc: Estimate
    delong: DeLong
    average_precision: Estimate
    operating: dict[str, Estimate]
    brier: Estimate
    brier_parts: BrierParts
    calibration_error: float
    decisions: Decisions

    @property
    def prevalence(self) -> float:
        """Share of positives."""
        return self.n_positive / self.n if self.n else float("nan")

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
            "average_precision": plain(self.average_precision.value),
            "calibration_error": plain(self.calibration_error),
            **decisions_row(self.decisions),
            "average_precision_low": plain(self.average_precision.low),
            "average_precision_high": plain(self.average_precision.high),
            "auc_delong": {"variance": plain(self.delong.variance), **_ends(self.delong.interval)},
            **{name: plain(estimate) for name, estimate in self.operating.items()},
            "brier": plain(self.brier),
            "brier_parts": {name: plain(value) for name, value in asdict(self.brier_parts).items()},
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
    ranks = resamples.ranks(truth_N, probability_N, levels=FIXED_LEVELS)
    return LabelScores(
        label=name,
        n=len(truth_N),
        n_positive=int((truth_N == 1).sum()),
        log_loss=resamples.mean(metrics.log_loss_cells(truth_N, probability_N)),
        constant_log_loss=float(metrics.log_loss_cells(truth_N, metrics.constant_prediction(truth_N)).mean()),
        auc=ranks.pop("auc"),
        delong=delong(truth_N, probability_N),
        average_precision=ranks.pop("average_precision"),
        operating=ranks,
        brier=resamples.mean(squared_errors(truth_N, probability_N)),
        brier_parts=brier_parts(truth_N, probability_N),
        calibration_error=metrics.calibration(truth_N, probability_N).expected_error,
        decisions=Decisions.of(truth_N, probability_N),
    )


def decisions_row(decisions: Decisions) -> dict[str, Any]:
    """Return what is written of decisions on a label: counts, and what follows from them."""
    return {
        "sensitivity": plain(decisions.sensitivity),
        "specificity": plain(decisions.specificity),
        "true_positives": decisions.true_positives,
        "false_negatives": decisions.false_negatives,
        "false_positives": decisions.false_positives,
        "true_negatives": decisions.true_negatives,
        "f1": plain(decisions.f1),
        "f1_macro": plain(decisions.f1_macro),
        "f1_micro": plain(decisions.f1_micro),
        "f1_weighted": plain(decisions.f1_weighted),
    }


def _ends(estimate: Estimate) -> dict[str, Any]:
    return {"low": plain(estimate.low), "high": plain(estimate.high)}


def plain(number: float | Estimate) -> Any:
    """JSON has no NaN: an undefined number is None."""
    if isinstance(number, Estimate):
        return {"value": plain(number.value), "low": plain(number.low), "high": plain(number.high)}
    return number if math.isfinite(number) else None
