"""Metrics against values worked out by hand and against scikit-learn."""

import math

import numpy as np
import pytest
from sklearn import metrics as judge

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tasks import metrics
from rsna_e2e.tasks.metrics.ranked import ranks

CLOSE = {"rtol": 1e-12, "atol": 1e-12}  # float64, sums in another order


def made_up(n: int, seed: int, decimals: int = 2) -> tuple[Float64Array, Float64Array]:
    """Truth and scores that carry some signal; rounding the scores makes ties."""
    rng = np.random.default_rng(seed)
    truth = (rng.random(n) < 0.2).astype(np.float64)
    return truth, np.round(np.clip(0.3 * truth + 0.7 * rng.random(n), 0, 1), decimals)


def test_log_loss_by_hand() -> None:
    cells = metrics.log_loss_cells(np.array([1.0, 0.0, 1.0, 0.0]), np.array([0.5, 0.5, 0.25, 0.2]))
    np.testing.assert_allclose(cells, [math.log(2), math.log(2), math.log(4), math.log(1.25)], **CLOSE)


def test_a_sure_mistake_costs_what_the_clip_allows() -> None:
    cells = metrics.log_loss_cells(np.array([1.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0]))
    # 1 - 1e-15 is not a float64, the nearest is 1 - 9.992e-16: hence the third digit
    np.testing.assert_allclose(cells, [15 * math.log(10), 15 * math.log(10), 0], rtol=1e-3, atol=1e-14)


def test_weights_are_normalised_and_any_counts_double() -> None:
    truth = np.array([[0.0, 1.0]])
    probability = np.array([[0.5, 0.25]])
    loss = metrics.weighted_log_loss(truth, probability, np.array([1.0, 2.0]))
    assert loss == pytest.approx((math.log(2) + 2 * math.log(4)) / 3, rel=1e-12)


def test_weighted_log_loss_against_scikit_learn() -> None:
    columns = [made_up(300, seed, decimals=6) for seed in range(6)]
    truth, probability = (np.stack(part, axis=1) for part in zip(*columns, strict=True))
    weights = np.array([1.0, 1, 1, 1, 1, 2])
    expected = sum(w * judge.log_loss(t, p) for w, (t, p) in zip(weights, columns, strict=True)) / 7
    assert metrics.weighted_log_loss(truth, probability, weights) == pytest.approx(expected, rel=1e-9)


def test_constant_prediction_is_the_entropy_and_unbeatable() -> None:
    truth = np.array([[1.0], [0.0], [0.0], [0.0]])
    one = np.ones(1)
    loss = metrics.weighted_log_loss(truth, metrics.constant_prediction(truth), one)
    assert loss == pytest.approx(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)), rel=1e-12)
    for other in (0.2, 0.3):
        assert loss < metrics.weighted_log_loss(truth, metrics.constant_prediction(truth, np.array([other])), one)


def test_roc_by_hand_crosses_ties_on_the_diagonal() -> None:
    curve = metrics.roc_curve(np.array([1.0, 1, 0, 0]), np.array([0.9, 0.5, 0.5, 0.1]))
    np.testing.assert_allclose(curve.thresholds, [np.inf, 0.9, 0.5, 0.1], **CLOSE)
    np.testing.assert_allclose(curve.true_positive_rate, [0, 0.5, 1, 1], **CLOSE)
    np.testing.assert_allclose(curve.false_positive_rate, [0, 0, 0.5, 1], **CLOSE)
    # of four pairs three are right and one is tied
    assert metrics.auc(np.array([1.0, 1, 0, 0]), np.array([0.9, 0.5, 0.5, 0.1])) == 3.5 / 4


@pytest.mark.parametrize("decimals", [1, 2, 9])
@pytest.mark.parametrize("seed", range(3))
def test_curves_and_areas_against_scikit_learn(seed: int, decimals: int) -> None:
    truth, score = made_up(500, seed, decimals)
    false_rate, true_rate, thresholds = judge.roc_curve(truth, score, drop_intermediate=False)
    curve = metrics.roc_curve(truth, score)
    np.testing.assert_allclose(curve.false_positive_rate, false_rate, **CLOSE)
    np.testing.assert_allclose(curve.true_positive_rate, true_rate, **CLOSE)
    np.testing.assert_allclose(curve.thresholds, thresholds, **CLOSE)
    assert metrics.auc(truth, score) == pytest.approx(judge.roc_auc_score(truth, score), rel=1e-12)
    expected = judge.average_precision_score(truth, score)
    assert ranks(truth, score)["average_precision"] == pytest.approx(expected, rel=1e-12)


def test_one_class_has_no_area() -> None:
    zeros = np.zeros(3)
    assert math.isnan(metrics.auc(zeros, np.array([0.1, 0.2, 0.3])))
    assert math.isnan(metrics.auc(zeros + 1, np.array([0.1, 0.2, 0.3])))
    assert math.isnan(ranks(zeros, np.array([0.1, 0.2, 0.3]))["average_precision"])


def test_calibration_by_hand() -> None:
    result = metrics.calibration(np.array([0.0, 1, 1, 1]), np.array([0.1, 0.3, 1.0, 0.9]), n_bins=2)
    np.testing.assert_array_equal(result.counts, [2, 2])
    np.testing.assert_allclose(result.mean_probability, [0.2, 0.95], **CLOSE)
    np.testing.assert_allclose(result.observed, [0.5, 1.0], **CLOSE)
    assert result.expected_error == pytest.approx((2 * 0.3 + 2 * 0.05) / 4, rel=1e-12)


def test_an_empty_bin_is_nan_and_costs_nothing() -> None:
    result = metrics.calibration(np.array([0.0, 1.0]), np.array([0.0, 1.0]), n_bins=3)
    np.testing.assert_array_equal(result.counts, [1, 0, 1])
    assert math.isnan(result.observed[1])
    assert result.expected_error == 0


def test_group_max_by_hand() -> None:
    values = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.3]])
    highest = metrics.group_max(values, np.array([1, 1, 0]), 2)
    np.testing.assert_allclose(highest, [[0.3, 0.3], [0.8, 0.9]], **CLOSE)


def test_resamples_draw_as_many_clusters_as_there_are() -> None:
    draws = metrics.draw_resamples(7, n_resamples=50, seed=1)
    assert draws.shape == (50, 7)
    assert draws.dtype == np.int32
    np.testing.assert_array_equal(draws.sum(axis=1), 7)
    np.testing.assert_array_equal(draws, metrics.draw_resamples(7, n_resamples=50, seed=1))
    assert (draws != metrics.draw_resamples(7, n_resamples=50, seed=2)).any()


@pytest.mark.parametrize("cells_at_once", [1, 1 << 23])
def test_resampled_means_equal_those_of_repeated_samples(cells_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsna_e2e.tasks.metrics.resample._CELLS_AT_ONCE", cells_at_once)
    _, score = made_up(120, seed=5)
    cluster = np.random.default_rng(0).integers(0, 9, size=120)
    draws = metrics.draw_resamples(9, n_resamples=20, seed=3)
    means = metrics.resampled_mean(score, cluster, draws)
    for draw, mean in zip(draws, means, strict=True):
        repeated = np.repeat(np.arange(120), draw[cluster])
        assert mean == pytest.approx(score[repeated].mean(), rel=1e-12)


def test_intervals_come_from_series_not_from_slices() -> None:
    """20 series of 50 equal slices: the interval must be that of 20 values, not of 1,000."""
    per_series = np.random.default_rng(0).random(20)
    values, cluster = np.repeat(per_series, 50), np.repeat(np.arange(20), 50)
    draws = metrics.draw_resamples(20, n_resamples=2000, seed=0)
    means = metrics.resampled_mean(values, cluster, draws)
    estimate = metrics.with_interval(values.mean(), means, n_clusters=20)
    width = 2 * 2.093 * per_series.std(ddof=1) / math.sqrt(20)  # Student's, of 19 degrees of freedom
    # the standard error of a quantile this far out of 2,000 is 3 % of the width
    assert estimate.high - estimate.low == pytest.approx(width, rel=0.08)
    assert estimate.low < values.mean() < estimate.high


def test_quantiles_of_an_interval_by_hand() -> None:
    """For 60 clusters t is 2.001 and the quantiles are those of -2.018, 2.18 %; for many, those of -1.96."""
    resampled = np.linspace(0, 1, 10_001)
    assert metrics.with_interval(0.5, resampled, n_clusters=60).low == pytest.approx(0.0218, abs=1e-4)
    assert metrics.with_interval(0.5, resampled, n_clusters=10**6).high == pytest.approx(0.975, abs=1e-4)
    assert math.isnan(metrics.with_interval(0.5, resampled, n_clusters=1).low)


def test_an_interval_leaves_undefined_resamples_out() -> None:
    estimate = metrics.with_interval(1.0, np.array([np.nan, 1.0, 1.0]), n_clusters=9)
    assert (estimate.low, estimate.high) == (1.0, 1.0)
    assert math.isnan(metrics.with_interval(1.0, np.array([np.nan]), n_clusters=9).low)


def test_the_weighted_log_loss_of_what_is_known_by_hand() -> None:
    nan = math.nan
    truth = np.array([[1.0, nan, 0.0], [0.0, nan, nan], [0.0, nan, 1.0]])  # the second label is unknown throughout
    probability = np.array([[0.5, 0.9, 0.5], [0.9, 0.9, 0.9], [0.75, 0.9, 0.25]])
    # rows 1 and 3, labels 1 and 3: ln 2, ln 2; ln 4, ln 4
    loss = metrics.known_weighted_log_loss(truth, probability, np.array([1.0, 5.0, 2.0]))
    assert loss == pytest.approx((math.log(2) + math.log(4)) / 2)
    uneven = np.array([[0.5, 0.9, 0.75], [0.9, 0.9, 0.9], [0.5, 0.9, 0.5]])  # ln 2, ln 4; ln 2, ln 2
    loss = metrics.known_weighted_log_loss(truth, uneven, np.array([1.0, 5.0, 2.0]))
    assert loss == pytest.approx(((math.log(2) + 2 * math.log(4)) / 3 + math.log(2)) / 2)
    assert math.isnan(metrics.known_weighted_log_loss(np.full((2, 3), nan), probability[:2], np.ones(3)))


@pytest.mark.parametrize(
    ("truth", "rows", "labels"),
    [
        ([[0, 1], [1, 0]], [True, True], [True, True]),
        ([[0, np.nan], [1, 0]], [False, True], [True, True]),
        ([[np.nan, 1], [np.nan, 0], [np.nan, np.nan]], [True, True, False], [False, True]),
        ([[np.nan, 1], [0, np.nan]], [False, False], [True, True]),
        ([[np.nan, np.nan]], [False], [False, False]),
    ],
)
def test_what_can_be_scored(truth: list[list[float]], rows: list[bool], labels: list[bool]) -> None:
    found = metrics.scorable(np.array(truth))
    assert [part.tolist() for part in found] == [rows, labels]
