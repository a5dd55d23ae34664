"""DeLong's variance: a published example, and structural components pair by pair."""

import math

import numpy as np
import pytest

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tasks import metrics
from rsna_e2e.tasks.metrics.delong import delong, paired_delong

# Albumin, total protein, K-G score and outcome of 43 patients with ovarian cancer of the example of DeLong et al.,
# as the manual of SAS/STAT prints them, PROC LOGISTIC, example "Comparing Receiver Operating Characteristic Curves".
PATIENTS = """
3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0  1.6 5.6 5 1
3.8 5.7 5 1   3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1  4.3 7.0 4 1  3.6 6.7 4 0
2.3 4.4 6 1   4.2 7.6 4 0  4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1  3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1
3.1 6.6 6 1   4.1 8.2 6 1  4.3 7.0 5 1  4.3 6.5 4 1  3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0
3.7 6.1 5 1   3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1  2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1
3.3 5.7 6 1   3.7 6.9 5 1  3.6 6.6 5 1
"""
ALBUMIN, PROTEIN, SCORE, OUTCOME = np.array(PATIENTS.split(), dtype=np.float64).reshape(-1, 4).T
PRINTED = {"abs": 5e-5}  # the manual's figures have four decimals


@pytest.mark.parametrize(
    ("score", "area", "error"), [(ALBUMIN, 0.7366, 0.0927), (PROTEIN, 0.6478, 0.1000), (10 - SCORE, 0.7258, 0.1028)]
)
def test_areas_and_errors_are_those_of_the_published_example(score: Float64Array, area: float, error: float) -> None:
    found = delong(OUTCOME, score)
    assert found.value == pytest.approx(area, **PRINTED)
    assert math.sqrt(found.variance) == pytest.approx(error, **PRINTED)
    low, high = found.interval.low, found.interval.high
    assert (low, high) == pytest.approx((found.value - 1.96 * error, found.value + 1.96 * error), abs=2e-4)


@pytest.mark.parametrize(
    ("score", "difference", "error", "p"), [(ALBUMIN, 0.0108, 0.0953, 0.9102), (PROTEIN, -0.0780, 0.1046, 0.4561)]
)
def test_differences_are_those_of_the_published_example(
    score: Float64Array, difference: float, error: float, p: float
) -> None:
    found = paired_delong(OUTCOME, score, 10 - SCORE)
    assert found.value == pytest.approx(difference, **PRINTED)
    assert math.sqrt(found.variance) == pytest.approx(error, **PRINTED)
    assert found.p == pytest.approx(p, **PRINTED)


def by_pairs(truth: Float64Array, score: Float64Array) -> tuple[Float64Array, Float64Array]:
    positives, negatives = score[truth == 1], score[truth == 0]
    right = (positives[:, None] > negatives) + 0.5 * (positives[:, None] == negatives)
    return right.mean(axis=1), right.mean(axis=0)


@pytest.mark.parametrize("decimals", [0, 1, 9])
@pytest.mark.parametrize("seed", range(5))
def test_variances_are_those_of_components_pair_by_pair(seed: int, decimals: int) -> None:
    rng = np.random.default_rng(seed)
    truth = (rng.random(80) < 0.3).astype(np.float64)
    first, second = (np.round(0.5 * truth + rng.random(80), decimals) for _ in range(2))
    found = delong(truth, first)
    below, above = by_pairs(truth, first)
    assert found.value == pytest.approx(metrics.auc(truth, first), rel=1e-12)
    expected = below.var(ddof=1) / len(below) + above.var(ddof=1) / len(above)
    assert found.variance == pytest.approx(expected, rel=1e-9)
    paired = paired_delong(truth, first, second)
    below, above = (one - other for one, other in zip(by_pairs(truth, first), by_pairs(truth, second), strict=True))
    expected = below.var(ddof=1) / len(below) + above.var(ddof=1) / len(above)
    assert (paired.value, paired.variance) == pytest.approx((below.mean(), expected), rel=1e-9, abs=1e-15)


def test_what_is_undefined_is_nan_and_no_difference_has_p_1() -> None:
    score = np.array([0.1, 0.2, 0.3])
    assert math.isnan(delong(np.zeros(3), score).value)
    assert math.isnan(delong(np.ones(3), score).variance)
    one_positive = delong(np.array([0.0, 0, 1]), score)
    assert one_positive.value == 1
    assert math.isnan(one_positive.variance)
    assert math.isnan(one_positive.interval.low)
    assert paired_delong(np.array([0.0, 1, 1, 0]), np.arange(4.0), np.arange(4.0) / 2).p == 1
