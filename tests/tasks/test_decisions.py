"""Decisions by thresholds: by hand, and as scikit-learn and fastai count them."""

import math

import numpy as np
import pytest
from sklearn import metrics as judge

from rsna_e2e.tasks.metrics import DECISION_THRESHOLD, Decisions, LabelDecisions, youden_threshold

RNG = np.random.default_rng(5)
TRUTH = (RNG.random((200, 3)) < (0.1, 0.4, 0.7)).astype(np.float64)
FOUND = np.clip(0.3 * TRUTH + 0.7 * RNG.random((200, 3)), 0, 1)
THRESHOLDS = (0.5, 0.35, 0.6)


def test_counts_by_hand_and_of_the_published_table() -> None:
    truth, found = np.array([1, 1, 0, 0, np.nan, 0.0]), np.array([0.5, 0.2, 0.7, 0.1, 0.9, 0.3])
    decisions = Decisions.of(truth, found)
    assert decisions == Decisions(true_positives=1, false_negatives=1, false_positives=1, true_negatives=2)
    assert (decisions.sensitivity, decisions.specificity, decisions.accuracy) == (1 / 2, 2 / 3, 3 / 5)
    published = Decisions(true_positives=15, false_negatives=15, false_positives=44, true_negatives=204)
    assert round(published.f1, 2) == 0.34  # SqueezeNet1_0 of the COVID homework, which cut it to .33


@pytest.mark.parametrize("label", [0, 1, 2])
def test_one_label_is_counted_as_scikit_learn_does(label: int) -> None:
    truth, called = TRUTH[:, label], FOUND[:, label] >= THRESHOLDS[label]
    decisions = Decisions.of(truth, FOUND[:, label], threshold=THRESHOLDS[label])
    negatives, positives = judge.confusion_matrix(truth, called)
    assert (decisions.true_negatives, decisions.false_positives) == tuple(negatives)
    assert (decisions.false_negatives, decisions.true_positives) == tuple(positives)
    for average in ("binary", "macro", "micro", "weighted"):
        ours = decisions.f1 if average == "binary" else getattr(decisions, f"f1_{average}")
        assert ours == pytest.approx(judge.f1_score(truth, called, average=average), rel=1e-12), average
    assert decisions.sensitivity == pytest.approx(judge.recall_score(truth, called), rel=1e-12)
    assert decisions.specificity == pytest.approx(judge.recall_score(truth, called, pos_label=0), rel=1e-12)


def test_several_labels_are_counted_as_scikit_learn_does() -> None:
    called = np.array(THRESHOLDS) <= FOUND
    decisions = LabelDecisions.of(TRUTH, FOUND, THRESHOLDS)
    for average in ("macro", "micro", "weighted"):
        expected = judge.f1_score(TRUTH, called, average=average)
        assert getattr(decisions, f"f1_{average}") == pytest.approx(expected, rel=1e-12), average
    assert decisions.cell_accuracy == pytest.approx(1 - judge.hamming_loss(TRUTH, called), rel=1e-12)


def test_unknown_cells_count_nowhere() -> None:
    truth = TRUTH.copy()
    truth[::3, 1] = np.nan
    decisions = LabelDecisions.of(truth, FOUND, THRESHOLDS)
    known = ~np.isnan(truth)
    called = np.array(THRESHOLDS) <= FOUND
    assert decisions.cell_accuracy == pytest.approx((called == truth)[known].mean(), rel=1e-12)


def test_of_a_label_that_is_nowhere_nothing_is_known() -> None:
    nothing = Decisions.of(np.zeros(4), np.zeros(4))
    assert math.isnan(nothing.f1)
    assert math.isnan(nothing.sensitivity)
    assert nothing.f1_macro == judge.f1_score([0, 0, 0, 0], [0, 0, 0, 0], average="macro") == 1.0
    assert nothing.f1_weighted == nothing.accuracy == nothing.specificity == 1.0
    assert math.isnan(Decisions.of(np.array([np.nan]), np.ones(1)).f1_macro)


@pytest.mark.parametrize("label", [0, 1, 2])
def test_the_threshold_is_the_best_of_all(label: int) -> None:
    truth, found = TRUTH[:, label], FOUND[:, label]
    chosen = youden_threshold(truth, found)

    def index(threshold: float) -> float:
        called = found >= threshold
        return float(called[truth == 1].mean() - called[truth == 0].mean())

    candidates = np.unique(found)
    best = max(map(index, candidates))
    assert chosen == max(t for t in candidates if index(t) == pytest.approx(best, abs=1e-12))


def test_a_threshold_by_hand() -> None:
    truth, found = np.array([1, 1, 0, 0, np.nan]), np.array([0.3, 0.2, 0.1, 0.25, 0.22])
    assert youden_threshold(truth, found) == 0.3  # 1/2 + 1; at 0.2 it is 1 + 1/2, as much
    assert youden_threshold(np.ones(3), np.array([0.1, 0.2, 0.3])) == DECISION_THRESHOLD
    assert youden_threshold(np.full(2, np.nan), np.array([0.1, 0.2])) == DECISION_THRESHOLD
