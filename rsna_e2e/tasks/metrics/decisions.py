"""Decisions by a threshold: counts of right and wrong ones, what follows from them, and the choice of a threshold."""

# N samples, L labels

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tasks.metrics.curves import roc_curve

DECISION_THRESHOLD = 0.5  # where none was chosen; a probability at or above it calls a label present
_ROUNDING = 1e-9  # 0.9 times a multiple of ten is a whole number, whatever floats make of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """Samples of one label by truth and decision, those whose truth is known.

    F1 is the harmonic mean of precision and sensitivity, 2 TP / (2 TP + FP + FN), as scikit-learn's `f1_score` has it:
    f1 that of the positives (average binary), and the means over both classes, plain (macro), over all samples
    together (micro, which is the accuracy), and by the number of samples of the class (weighted). What divides by no
    sample is NaN.
    """

    true_positives: int
    false_negatives: int
    false_positives: int
    true_negatives: int

    @classmethod
    def of(cls, truth_N: Float64Array, probability_N: Float64Array, *, threshold: float = DECISION_THRESHOLD) -> Self:
        """Count samples. truth_N: 1 of positives, NaN where it is unknown: such samples are left out."""
        is_positive, is_called = truth_N == 1, probability_N >= threshold
        is_negative = ~is_positive & ~np.isnan(truth_N)
        return cls(
            true_positives=int((is_positive & is_called).sum()),
            false_negatives=int((is_positive & ~is_called).sum()),
            false_positives=int((is_negative & is_called).sum()),
            true_negatives=int((is_negative & ~is_called).sum()),
        )

    @property
    def n_positive(self) -> int:
        """Positives."""
        return self.true_positives + self.false_negatives

    @property
    def n_negative(self) -> int:
        """Negatives."""
        return self.false_positives + self.true_negatives

    @property
    def sensitivity(self) -> float:
        """Share of the positives that are called present."""
        return _share(self.true_positives, self.n_positive)

    @property
    def specificity(self) -> float:
        """Share of the negatives that are not."""
        return _share(self.true_negatives, self.n_negative)

    @property
    def accuracy(self) -> float:
        """Share of the samples that are decided rightly."""
        return _share(self.true_positives + self.true_negatives, self.n_positive + self.n_negative)

    @property
    def f1(self) -> float:
        """F1 of the positives."""
        return _f1(self.true_positives, self.false_positives + self.false_negatives)

    @property
    def f1_macro(self) -> float:
        """Mean of F1 over both classes; of one class alone where nothing is of the other, by truth or decision."""
        return _weighted_mean([(score, 1) for score in (self.f1, self._f1_of_negatives) if not np.isnan(score)])

    @property
    def f1_micro(self) -> float:
        """F1 over the decisions on both classes together, which is the accuracy."""
        return self.accuracy

    @property
    def f1_weighted(self) -> float:
        """Mean of F1 over both classes, weighted by how many samples are of each."""
        parts = [(self.f1, self.n_positive), (self._f1_of_negatives, self.n_negative)]
        return _weighted_mean([(score, n) for score, n in parts if n])

    @property
    def _f1_of_negatives(self) -> float:
        return _f1(self.true_negatives, self.false_positives + self.false_negatives)


@dataclass(frozen=True, slots=True)
class LabelDecisions:
    """Decisions on several labels of the same samples, as `accuracy_multi` of fastai and `f1_score` of scikit-learn
    sum them up: F1 of the positives of every label, and its means over labels."""

    by_label: tuple[Decisions, ...]

    @classmethod
    def of(cls, truth_NL: Float64Array, probability_NL: Float64Array, thresholds_L: Sequence[float]) -> Self:
        """Count the samples of each label, at a threshold of its own."""
        columns = zip(truth_NL.T, probability_NL.T, thresholds_L, strict=True)
        return cls(tuple(Decisions.of(truth, found, threshold=threshold) for truth, found, threshold in columns))

    @property
    def cell_accuracy(self) -> float:
        """Share of all cells, samples times labels, that are decided rightly."""
        n_right = sum(one.true_positives + one.true_negatives for one in self.by_label)
        return _share(n_right, sum(one.n_positive + one.n_negative for one in self.by_label))

    @property
    def f1_macro(self) -> float:
        """Mean over labels of F1; a label that is nowhere, neither in truth nor by decision, is left out."""
        return _weighted_mean([(one.f1, 1) for one in self.by_label if not np.isnan(one.f1)])

    @property
    def f1_micro(self) -> float:
        """F1 over the cells of all labels together."""
        n_wrong = sum(one.false_positives + one.false_negatives for one in self.by_label)
        return _f1(sum(one.true_positives for one in self.by_label), n_wrong)

    @property
    def f1_weighted(self) -> float:
        """Mean over labels of F1, weighted by how many positives each has."""
        return _weighted_mean([(one.f1, one.n_positive) for one in self.by_label if one.n_positive])


def youden_threshold(truth_N: Float64Array, probability_N: Float64Array) -> float:
    """Return the probability from which on a label is best called present: where sensitivity + specificity is highest.

    Of several the highest. Samples of unknown truth (NaN) are left out; with one class alone, `DECISION_THRESHOLD`.
    Source: W. J. Youden, Cancer 1950, 3:32-35.
    """
    is_known_N = ~np.isnan(truth_N)
    truth_N, probability_N = truth_N[is_known_N], probability_N[is_known_N]
    if not len(truth_N) or truth_N.min() == truth_N.max():
        return DECISION_THRESHOLD
    curve = roc_curve(truth_N, probability_N)
    index_G = (curve.true_positive_rate - curve.false_positive_rate)[1:]  # the first threshold calls nothing
    return float(curve.thresholds[1:][int(index_G.argmax())])


def sensitivity_threshold(truth_N: Float64Array, probability_N: Float64Array, sensitivity: float) -> float:
    """Return the highest probability from which on at least this share of the positives is called present.

    Samples of unknown truth (NaN) are left out; with one class alone, `DECISION_THRESHOLD`.
    """
    positives = np.sort(probability_N[truth_N == 1])[::-1]
    if not len(positives) or not (truth_N == 0).any():
        return DECISION_THRESHOLD
    n_called = math.ceil(sensitivity * len(positives) - _ROUNDING)
    return float(positives[n_called - 1])


def _weighted_mean(parts: Iterable[tuple[float, int]]) -> float:
    values = list(parts)
    total = sum(weight for _, weight in values)
    return sum(value * weight for value, weight in values) / total if total else float("nan")


def _f1(n_true: int, n_wrong: int) -> float:
    return _share(2 * n_true, 2 * n_true + n_wrong)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
