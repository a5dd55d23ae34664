"""Whether intervals and p-values hold what they promise, by simulation over patients whose slices are alike."""

import math
from collections.abc import Iterator
from statistics import NormalDist

import numpy as np
import pytest
from scipy.stats import kstest

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tasks import metrics
from rsna_e2e.tasks.metrics.permute import compare_ranks, compare_ratios, draw_swaps
from rsna_e2e.tasks.metrics.ranked import ranks, resampled_ranks

N_SLICES = 6  # of a patient, of whom every other has the label in half of them
SHIFT, SHARED = 1.0, 0.7  # of scores: by the label, in standard deviations of a slice; standard deviation of patients


def simulated(rng: np.random.Generator, n_patients: int) -> tuple[Float64Array, Float64Array, np.ndarray]:
    """Truth, the patient's and slice's part of a score, and the patient of each slice."""
    patient = np.repeat(np.arange(n_patients), N_SLICES)
    truth = np.tile(np.arange(2 * N_SLICES) < N_SLICES / 2, -(-n_patients // 2))[: len(patient)].astype(np.float64)
    score = SHIFT * truth + SHARED * rng.normal(size=n_patients)[patient] + rng.normal(size=len(patient))
    return truth, score, patient


def hits(n_sets: int, n_patients: int, n_resamples: int, *, seed: int) -> dict[str, float]:
    """Share of simulated data sets whose 95 % intervals hold the truth: of the AUC, and of the mean of a score."""
    # of a positive and a negative of two patients; that of one patient's are a share that shrinks with the patients
    true_auc = NormalDist().cdf(SHIFT / math.sqrt(2 * (1 + SHARED**2)))
    rng, n_hits = np.random.default_rng(seed), {"auc": 0, "mean": 0}
    for number in range(n_sets):
        truth, score, patient = simulated(rng, n_patients)
        draws = metrics.draw_resamples(n_patients, n_resamples=n_resamples, seed=number)
        area = metrics.with_interval(
            ranks(truth, score)["auc"], resampled_ranks(truth, score, patient, draws)["auc"], n_clusters=n_patients
        )
        mean = metrics.with_interval(score.mean(), metrics.resampled_mean(score, patient, draws), n_clusters=n_patients)
        n_hits["auc"] += area.low <= true_auc <= area.high
        n_hits["mean"] += mean.low <= SHIFT * truth.mean() <= mean.high
    return {name: n / n_sets for name, n in n_hits.items()}


@pytest.mark.slow
@pytest.mark.parametrize("n_patients", [60, 100])
def test_95_percent_intervals_hold_the_truth_in_93_to_97_percent_of_2000_data_sets(n_patients: int) -> None:
    """The standard error of a share of 2,000 is 0.5 %."""
    for name, share in hits(2000, n_patients, 1000, seed=n_patients).items():
        assert 0.93 <= share <= 0.97, name


def test_intervals_hold_the_truth_about_as_often_as_they_promise() -> None:
    """The standard error of a share of 200 is 1.5 %: three of them on either side."""
    for name, share in hits(200, 60, 500, seed=0).items():
        assert 0.905 <= share <= 0.995, name


def null_p(n_sets: int, n_permutations: int, *, seed: int) -> Iterator[dict[str, float]]:
    """p of differences between two scores of the same kind, in 40 patients."""
    rng, n_patients = np.random.default_rng(seed), 40
    for number in range(n_sets):
        truth, first, patient = simulated(rng, n_patients)
        second = SHIFT * truth + SHARED * rng.normal(size=n_patients)[patient] + rng.normal(size=len(truth))
        swaps = draw_swaps(n_patients, n_permutations=n_permutations, seed=number)
        data = patient, np.zeros((0, n_patients), dtype=np.int32), swaps
        found = compare_ranks(truth, first, second, *data)
        squares = ((score - truth) ** 2 for score in (first, second))
        found["mean"] = compare_ratios(*squares, np.ones(len(truth)), *data)
        yield {name: one.p for name, one in found.items()}


def check_uniform(p: list[dict[str, float]]) -> None:
    for name in ("auc", "average_precision", "mean"):
        values = [one[name] for one in p]
        assert kstest(values, "uniform").pvalue > 0.01, name
        assert len(set(values)) > len(values) / 4


@pytest.mark.slow
def test_p_is_uniform_where_two_predictions_are_of_one_kind_in_1000_data_sets() -> None:
    check_uniform(list(null_p(1000, 999, seed=1)))


def test_p_is_uniform_where_two_predictions_are_of_one_kind() -> None:
    check_uniform(list(null_p(100, 199, seed=0)))


def test_p_finds_a_difference_that_is_there() -> None:
    rng = np.random.default_rng(0)
    truth, first, patient = simulated(rng, 60)
    second = rng.normal(size=len(truth))  # which knows nothing
    swaps = draw_swaps(60, n_permutations=499, seed=0)
    found = compare_ranks(truth, first, second, patient, metrics.draw_resamples(60, n_resamples=500, seed=0), swaps)
    assert found["auc"].p == pytest.approx(1 / 500)
    assert 0 < found["auc"].difference.low < found["auc"].difference.high
