"""Brier score and its parts, and decision curves: against scikit-learn, and by hand."""

import math

import numpy as np
import pytest
from sklearn import metrics as judge

from rsna_e2e.tasks.metrics.brier import brier_parts, squared_errors
from rsna_e2e.tasks.metrics.decision_curve import THRESHOLDS, decision_curve


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("decimals", [0, 1, 6])
def test_the_parts_add_up_to_the_score_of_scikit_learn(share: float, decimals: int) -> None:
    rng = np.random.default_rng(decimals)
    truth = (rng.random(200) < share).astype(np.float64)
    probability = np.round(rng.random(200), decimals)
    expected = judge.brier_score_loss(truth, probability, labels=[0, 1])
    assert squared_errors(truth, probability).mean() == pytest.approx(expected, rel=1e-12)
    parts = brier_parts(truth, probability)
    assert parts.score == pytest.approx(expected, rel=1e-12)
    assert parts.uncertainty == pytest.approx(truth.mean() * (1 - truth.mean()))
    assert min(parts.reliability, parts.resolution) >= 0


def test_parts_by_hand() -> None:
    """Two bins: 0.1 and 0.3 of truth 0 and 1 lie in bins of their own; twice 0.85 with truth 0 and 1 in one."""
    parts = brier_parts(np.array([0.0, 1, 0, 1]), np.array([0.1, 0.3, 0.85, 0.85]))
    assert parts.reliability == pytest.approx((0.1**2 + 0.7**2 + 2 * 0.35**2) / 4)
    assert parts.resolution == pytest.approx((0.5**2 + 0.5**2 + 0) / 4)
    assert parts.uncertainty == 0.25
    assert parts.within_bins == pytest.approx(0, abs=1e-15)
    spread = brier_parts(np.array([0.0, 1]), np.array([0.81, 0.89]))  # one bin: variance 0.0016, covariance 0.02
    assert spread.within_bins == pytest.approx(0.0016 - 2 * 0.02)
    assert math.isnan(brier_parts(np.zeros(0), np.zeros(0)).score)


def test_net_benefit_by_hand() -> None:
    truth, probability = np.array([1.0, 1, 0, 0, 0]), np.array([0.9, 0.2, 0.8, 0.1, 0.2])
    curve = decision_curve(truth, probability, thresholds_T=np.array([0.1, 0.2, 0.5]))
    # at 0.1 all are treated; at 0.2 both positives, two false alarms at odds 1/4; at 0.5 one and one at odds 1
    np.testing.assert_allclose(curve.net_benefit, [(2 - 3 / 9) / 5, (2 - 2 / 4) / 5, 0], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(curve.treat_all, [(2 - 3 / 9) / 5, (2 - 3 / 4) / 5, -1 / 5], rtol=1e-12)


def test_right_predictions_are_worth_every_positive_at_any_threshold() -> None:
    truth = np.array([1.0, 0, 0, 1, 0])
    np.testing.assert_allclose(decision_curve(truth, truth).net_benefit, np.full(len(THRESHOLDS), 0.4), rtol=1e-12)
    assert np.isnan(decision_curve(np.zeros(0), np.zeros(0)).net_benefit).all()
