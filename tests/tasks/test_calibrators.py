"""Temperature and Platt scaling of one label: what is known comes out, and what cannot be fitted stays."""

# N samples, S clusters

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tasks.metrics import (
    Scaling,
    Scalings,
    auc,
    calibration,
    cross_fitted,
    draw_resamples,
    fit_scalings,
    log_loss_cells,
    resampled_ece,
    sensitivity_threshold,
    youden_threshold,
)

N = 40_000
SAMPLING = 0.05  # of parameters fitted to N samples: three standard errors
SOLVER = 1e-4  # two optimisers of one convex loss, of which scikit-learn's stops at this gradient


def samples(seed: int = 0, n: int = N) -> tuple[Float64Array, Float64Array]:
    """Truth, and the logit by which it was drawn."""
    rng = np.random.default_rng(seed)
    logit_N = rng.normal(-1.5, 1.5, n)
    return (rng.random(n) < expit(logit_N)).astype(np.float64), logit_N


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_known_temperature_is_found(temperature: float) -> None:
    truth_N, logit_N = samples()
    found = fit_scalings(truth_N, expit(logit_N * temperature))
    assert found.temperature == pytest.approx(temperature, rel=SAMPLING)
    assert found.reason == ""


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.4, -1.0), (2.5, 1.2)])
def test_a_known_slope_and_intercept_are_found(slope: float, intercept: float) -> None:
    truth_N, logit_N = samples()
    found = fit_scalings(truth_N, expit((logit_N - intercept) / slope))
    assert (found.slope, found.intercept) == (
        pytest.approx(slope, rel=SAMPLING), pytest.approx(intercept, abs=SAMPLING)
    )  # fmt: skip


def test_platts_map_is_the_regression_on_his_targets() -> None:
    truth_N, logit_N = samples(n=300)
    n_positive, n = int(truth_N.sum()), len(truth_N)
    of_positive, of_negative = (n_positive + 1) / (n_positive + 2), 1 / (n - n_positive + 2)
    share_N = np.where(truth_N == 1, of_positive, of_negative)
    twice = np.concatenate([logit_N, logit_N])[:, None]
    labels, weights = np.repeat([1, 0], n), np.concatenate([share_N, 1 - share_N])
    other = LogisticRegression(C=1e12, tol=1e-10, max_iter=10_000).fit(twice, labels, sample_weight=weights)
    found = fit_scalings(truth_N, expit(logit_N))
    assert (found.slope, found.intercept) == (
        pytest.approx(other.coef_[0, 0], abs=SOLVER), pytest.approx(other.intercept_[0], abs=SOLVER)
    )  # fmt: skip


def test_no_other_temperature_has_a_lower_log_loss() -> None:
    truth_N, logit_N = samples(n=500)
    probability_N = expit(2 * logit_N)
    best = fit_scalings(truth_N, probability_N).temperature
    losses = [
        float(log_loss_cells(truth_N, expit(logit(probability_N) / (best * factor))).mean())
        for factor in (1.0, 0.99, 1.01)
    ]
    assert losses[0] == min(losses)


@pytest.mark.parametrize(
    ("truth", "probability", "reason"),
    [
        ([0, 0, 0, 0], [0.1, 0.2, 0.3, 0.9], "one class"),
        ([1, 1, 1, 1], [0.1, 0.2, 0.3, 0.9], "one class"),
        ([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.9], "separable"),
        ([1, 1, 0, 0], [0.1, 0.2, 0.3, 0.9], "does not rank"),
        ([1, 0, 1, 0], [0.5, 0.5, 0.5, 0.5], "does not rank"),
    ],
)
def test_what_cannot_be_fitted_stays_and_says_why(truth: list[int], probability: list[float], reason: str) -> None:
    truth_N, probability_N = np.array(truth, dtype=np.float64), np.array(probability)
    found = fit_scalings(truth_N, probability_N)
    assert found == Scalings(reason=reason)
    assert found.applied(probability_N, "platt").tolist() == found.applied(probability_N, "temperature").tolist()
    assert found.applied(probability_N, "platt").tolist() == probability


def test_a_label_that_is_called_too_often_but_ranks_has_platts_map_alone() -> None:
    rng = np.random.default_rng(0)
    truth_N = (np.arange(5000) < 250).astype(np.float64)
    probability_N = expit(np.where(truth_N == 1, 3.0, 1.2) + rng.normal(0, 1, 5000))
    found = fit_scalings(truth_N, probability_N)
    assert auc(truth_N, probability_N) > 0.85
    assert (found.reason, found.temperature) == ("no temperature", 1.0)
    assert found.applied(probability_N, "temperature").tolist() == probability_N.tolist()
    after_N = found.applied(probability_N, "platt")
    assert calibration(truth_N, probability_N).expected_error > 0.5
    assert calibration(truth_N, after_N).expected_error < 0.02


def test_sure_mistakes_are_fitted_too() -> None:
    truth_N, logit_N = samples(n=2000)
    probability_N = np.round(expit(3 * logit_N), 2)  # some are 0 or 1
    found = fit_scalings(truth_N, probability_N)
    assert {0.0, 1.0} <= set(probability_N.tolist())
    assert np.isfinite([found.temperature, found.slope, found.intercept]).all()
    after_N = found.applied(probability_N, "platt")
    assert after_N[probability_N == 0].max() == 0
    assert after_N[probability_N == 1].min() == 1


@pytest.mark.parametrize("by", ["platt", "temperature"])
def test_ranks_stay_and_a_threshold_that_is_mapped_calls_the_same_samples(by: Scaling) -> None:
    truth_N, logit_N = samples(n=5000)
    probability_N = expit(logit_N.astype(np.float32)).astype(np.float64)  # as networks predict them
    after_N = Scalings(temperature=2.3, slope=0.41, intercept=-0.7).applied(probability_N, by)
    assert auc(truth_N, after_N) == auc(truth_N, probability_N)
    for threshold in (youden_threshold(truth_N, probability_N), sensitivity_threshold(truth_N, probability_N, 0.95)):
        mapped = Scalings(temperature=2.3, slope=0.41, intercept=-0.7).applied(np.array(threshold), by)
        assert ((after_N >= mapped) == (probability_N >= threshold)).all()


def test_each_half_is_calibrated_by_the_other() -> None:
    truth_N, logit_N = samples(n=2000)
    probability_N, cluster_N = expit(2 * logit_N), np.repeat(np.arange(200), 10)
    found_N = cross_fitted(truth_N, probability_N, cluster_N, "platt", seed=3)
    maps = [
        np.polyfit(logit(probability_N[cluster_N == one]), logit(found_N[cluster_N == one]), 1) for one in range(200)
    ]
    first = np.isclose(maps, maps[0]).all(axis=1)
    assert first.sum() == 100  # each cluster is in one of two halves
    for half in (first, ~first):
        is_other_N = ~half[cluster_N]
        fitted = fit_scalings(truth_N[is_other_N], probability_N[is_other_N])
        assert np.allclose(np.array(maps)[half], (fitted.slope, fitted.intercept))


def test_calibration_error_of_resamples_is_that_of_their_samples() -> None:
    truth_N, logit_N = samples(n=300)
    probability_N, cluster_N = expit(2 * logit_N), np.arange(300) % 30
    draws_BS = np.vstack([np.ones(30, dtype=np.int64), draw_resamples(30, n_resamples=3, seed=0)])
    for draw_S, error in zip(draws_BS, resampled_ece(truth_N, probability_N, cluster_N, draws_BS), strict=True):
        rows = np.concatenate([np.flatnonzero(cluster_N == one) for one in np.repeat(np.arange(30), draw_S)])
        assert error == pytest.approx(calibration(truth_N[rows], probability_N[rows]).expected_error)


def test_a_threshold_of_sensitivity_calls_that_share_of_positives_and_is_the_highest() -> None:
    truth_N = np.array([1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, np.nan])
    probability_N = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.45, 0.4, 0.35, 0.3, 0.1, 0.2, 0.95, 0.25])
    assert sensitivity_threshold(truth_N, probability_N, 0.9) == 0.3
    assert sensitivity_threshold(truth_N, probability_N, 0.95) == 0.1
    assert sensitivity_threshold(truth_N, probability_N, 0.25) == 0.7
    assert sensitivity_threshold(truth_N[:10], probability_N[:10], 0.9) == 0.5  # one class
    assert sensitivity_threshold(truth_N[10:], probability_N[10:], 0.9) == 0.5
