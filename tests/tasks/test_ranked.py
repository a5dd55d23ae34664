"""Numbers by the order of scores, in resamples: against plain loops, scikit-learn, and counting by hand."""

import math
import time

import numpy as np
import pytest
from sklearn import metrics as judge

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tasks import metrics
from rsna_e2e.tasks.metrics import Int64Array
from rsna_e2e.tasks.metrics.curves import pair_share
from rsna_e2e.tasks.metrics.ranked import FIXED_LEVELS, ranks, resampled_ranks

CLOSE = {"rtol": 1e-12, "atol": 0}  # float64, sums in another order
NAMES = [
    *("auc", "average_precision", "sensitivity_at_specificity_90", "specificity_at_sensitivity_90"),
    *("sensitivity_at_specificity_95", "specificity_at_sensitivity_95"),
]


def by_every_score(truth: Float64Array, score: Float64Array, cluster: Int64Array, draws: Int64Array) -> Float64Array:
    """AUC in each resample, by how many positives and negatives it has at each distinct score."""
    groups = np.unique(-score, return_inverse=True)[1]
    n_groups = int(groups.max()) + 1
    areas = []
    for draw in draws.astype(np.int64):
        weight = draw[cluster]
        positives, negatives = (
            np.array([weight[(groups == group) & (truth == value)].sum() for group in range(n_groups)])
            for value in (1, 0)
        )
        areas.append(float(pair_share(positives, negatives)))
    return np.array(areas)


def by_recall(truth: Float64Array, score: Float64Array) -> float:
    """Average precision: precision at each distinct score, from the highest, times the rise in recall."""
    found = called = area = 0.0
    for threshold in np.unique(score)[::-1]:
        is_here = score == threshold
        rise, called = truth[is_here].sum(), called + is_here.sum()
        found += rise
        area += rise * found / called
    return float(area / found) if found else math.nan


def by_thresholds(truth: Float64Array, score: Float64Array, level: float) -> tuple[float, float]:
    """Highest sensitivity with this specificity, and the other way round, by trying every threshold."""
    best = [0.0, 0.0]
    for threshold in (*np.unique(score), np.inf):
        is_called = score >= threshold
        sensitivity, specificity = is_called[truth == 1].mean(), (~is_called)[truth == 0].mean()
        if specificity >= level - 1e-12:
            best[0] = max(best[0], sensitivity)
        if sensitivity >= level - 1e-12:
            best[1] = max(best[1], specificity)
    return best[0], best[1]


def made_up(seed: int) -> tuple[Float64Array, Float64Array, Int64Array, int]:
    """Small data of every kind: few clusters or many, ties or none, one class, clusters without samples."""
    rng = np.random.default_rng(seed)
    n, n_clusters = int(rng.integers(2, 60)), int(rng.integers(1, 12))
    truth = (rng.random(n) < rng.choice([0.0, 0.1, 0.5, 0.9, 1.0])).astype(np.float64)
    score = np.round(np.clip(0.3 * truth + 0.7 * rng.random(n), 0, 1), int(rng.choice([0, 1, 2, 9])))
    return truth, score, rng.integers(0, n_clusters, size=n), n_clusters


@pytest.mark.parametrize("small_steps", [False, True])
def test_every_resample_is_exactly_what_its_own_samples_give(
    small_steps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if small_steps:  # of two resamples and one score
        monkeypatch.setattr("rsna_e2e.tasks.metrics.ranked._RESAMPLES_AT_ONCE", 2)
        monkeypatch.setattr("rsna_e2e.tasks.metrics.ranked._CELLS_AT_ONCE", 1)
    n_defined = 0
    for seed in range(30):
        truth, score, cluster, n_clusters = made_up(seed)
        draws = metrics.draw_resamples(n_clusters, n_resamples=5, seed=seed)
        found = resampled_ranks(truth, score, cluster, draws, levels=FIXED_LEVELS)
        assert list(found) == NAMES
        np.testing.assert_array_equal(found["auc"], by_every_score(truth, score, cluster, draws))
        for number, draw in enumerate(draws):
            rows = np.repeat(np.arange(len(truth)), draw[cluster])
            if len(rows):
                assert found["auc"][number] == pytest.approx(
                    metrics.auc(truth[rows], score[rows]), rel=0, abs=0, nan_ok=True
                )
            expected = by_recall(truth[rows], score[rows]) if len(rows) else math.nan
            np.testing.assert_allclose(found["average_precision"][number], expected, **CLOSE)
            if truth[rows].min(initial=1) == truth[rows].max(initial=0):
                assert all(math.isnan(found[name][number]) for name in NAMES if name != "average_precision")
                continue
            n_defined += 1
            assert found["auc"][number] == pytest.approx(judge.roc_auc_score(truth[rows], score[rows]), rel=1e-12)
            for level in FIXED_LEVELS:
                expected = by_thresholds(truth[rows], score[rows], level)
                names = f"sensitivity_at_specificity_{level:.0%}", f"specificity_at_sensitivity_{level:.0%}"
                np.testing.assert_allclose([found[name.rstrip("%")][number] for name in names], expected, **CLOSE)
    assert n_defined > 50


@pytest.mark.parametrize("seed", range(20))
def test_the_samples_themselves_against_scikit_learn(seed: int) -> None:
    truth, score, _, _ = made_up(1000 + seed)
    found = ranks(truth, score, levels=FIXED_LEVELS)
    np.testing.assert_array_equal(found["auc"], metrics.auc(truth, score))
    if 0 < truth.sum() < len(truth):
        assert found["auc"] == pytest.approx(judge.roc_auc_score(truth, score), rel=1e-12)
        assert found["average_precision"] == pytest.approx(judge.average_precision_score(truth, score), rel=1e-12)
        false_rate, true_rate, _ = judge.roc_curve(truth, score, drop_intermediate=False)
        assert found["sensitivity_at_specificity_90"] == true_rate[false_rate <= 0.1 + 1e-12].max()


def test_operating_points_by_hand() -> None:
    """Ten negatives at 0.0 to 0.9; positives at 0.95, 0.85, 0.5 and 0.5."""
    truth = np.array([0.0] * 10 + [1] * 4)
    score = np.array([*np.arange(10) / 10, 0.95, 0.85, 0.5, 0.5])
    found = ranks(truth, score, levels=FIXED_LEVELS)
    assert found["sensitivity_at_specificity_90"] == 0.5  # from 0.85 on one of ten negatives is called, at 0.9
    assert found["sensitivity_at_specificity_95"] == 0.25  # above 0.9 none is
    assert found["specificity_at_sensitivity_90"] == 0.5  # from 0.5 on all are found, and five negatives called
    assert found["auc"] == (10 + 9 + 2 * 5.5) / 40


def of_a_test_set(n_slices: int, n_series: int) -> tuple[Float64Array, Float64Array, Int64Array]:
    """Six labels as often as in RSNA's data, `any` last, of series of equal length."""
    rng = np.random.default_rng(0)
    truth = rng.random((n_slices, 6)) < [0.004, 0.048, 0.035, 0.047, 0.063, 0.14]
    probability = np.round(np.clip(0.2 * truth + 0.8 * rng.random(truth.shape), 0, 1), 6)
    return truth.astype(np.float64), probability, np.arange(n_slices) * n_series // n_slices


def cpu_s(n_slices: int, n_series: int) -> float:
    """CPU time of the intervals of every label over slices and over series."""
    from rsna_e2e.evaluation.levels import score_level
    from rsna_e2e.evaluation.resamples import Resamples

    truth, probability, series = of_a_test_set(n_slices, n_series)
    names = [f"label {label}" for label in range(6)]
    start = time.process_time()
    resamples = Resamples.draw(series, n_resamples=2000, seed=0)
    score_level(names, truth, probability, resamples)
    of_series = (metrics.group_max(part, series, n_series) for part in (truth, probability))
    score_level(names, *of_series, resamples.of(np.arange(n_series)))
    return time.process_time() - start


def test_2000_resamples_of_50_series_take_two_seconds_at_most() -> None:
    assert min(cpu_s(1732, 50) for _ in range(3)) <= 2.0


@pytest.mark.slow
def test_2000_resamples_of_the_test_set_of_2019_take_a_minute_at_most() -> None:
    assert min(cpu_s(121_232, 3500) for _ in range(2)) <= 60.0
