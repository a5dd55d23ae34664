"""The score over slices and series at once, against a hand example, plain Python row by row, and closed forms."""

import math
from dataclasses import dataclass

import numpy as np
import pytest

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tasks.metrics import Int64Array, best_constants, study_log_loss

SAME = 1e-12  # float64, sums in another order
IMAGE_WEIGHT = 0.07361963
WEIGHTS = np.array([0.0736196319, 0.09202453988, 0.2346625767])


@dataclass(frozen=True, slots=True)
class Studies:
    """Truth and probability of slices [N] and of series [S, M]."""

    truth: Float64Array
    probability: Float64Array
    series: Int64Array
    series_truth: Float64Array
    series_probability: Float64Array

    def sums(self) -> tuple[Float64Array, Float64Array]:
        return study_log_loss(
            self.truth,
            self.probability,
            self.series,
            self.series_truth,
            self.series_probability,
            image_weight=IMAGE_WEIGHT,
            series_weights_M=WEIGHTS,
        )

    def score(self) -> float:
        numerator, denominator = self.sums()
        return float(numerator.sum() / denominator.sum())


def made_up(n_series: int, seed: int, *, unknown: float = 0.0) -> Studies:
    """Studies of up to 30 slices in any order, some without positives; a share of cells is unknown."""
    rng = np.random.default_rng(seed)
    series = rng.permutation(np.repeat(np.arange(n_series), rng.integers(1, 30, n_series)))
    truth = (rng.random(len(series)) < 0.4 * (series % 3 > 0)).astype(np.float64)
    series_truth = (rng.random((n_series, len(WEIGHTS))) < 0.3).astype(np.float64)
    truth[rng.random(truth.shape) < unknown] = np.nan
    series_truth[rng.random(series_truth.shape) < unknown] = np.nan
    return Studies(truth, rng.random(truth.shape), series, series_truth, rng.random(series_truth.shape))


def plain_score(studies: Studies) -> float:
    """The score row by row in plain Python."""

    def loss(truth: float, probability: float) -> float:
        return -math.log(probability) if truth == 1 else -math.log(1 - probability)

    losses, weights = [], []
    for study, (truths, probabilities) in enumerate(
        zip(studies.series_truth.tolist(), studies.series_probability.tolist(), strict=True)
    ):
        for truth, probability, weight in zip(truths, probabilities, WEIGHTS.tolist(), strict=True):
            if not math.isnan(truth):
                losses.append(weight * loss(truth, probability))
                weights.append(weight)
        images = [
            (truth, probability)
            for truth, probability, own in zip(
                studies.truth.tolist(), studies.probability.tolist(), studies.series.tolist(), strict=True
            )
            if own == study and not math.isnan(truth)
        ]
        for truth, probability in images:
            weight = IMAGE_WEIGHT * sum(truth for truth, _ in images) / len(images)
            losses.append(weight * loss(truth, probability))
            weights.append(weight)
    return math.fsum(losses) / math.fsum(weights)


def test_two_studies_by_hand() -> None:
    numerator, denominator = study_log_loss(
        np.array([0.0, 1.0, 0.0, 0.0, 0.0, 0.0]),
        np.array([0.5, 0.5, 0.5, 0.5, 0.9, 0.9]),
        np.array([0, 0, 0, 0, 1, 1]),
        np.array([[0.0, 1.0], [1.0, np.nan]]),
        np.array([[0.5, 0.25], [0.25, 0.9]]),
        image_weight=0.5,
        series_weights_M=np.array([1.0, 2.0]),
    )
    # First: ln 2 + 2 ln 4, and four slices of 0.5 * 1/4 * ln 2. Second: ln 4; its slices do not count, none is positive
    np.testing.assert_allclose(numerator, [5.5 * math.log(2), 2 * math.log(2)], rtol=SAME)
    np.testing.assert_allclose(denominator, [3.5, 1.0], rtol=SAME)


@pytest.mark.parametrize("unknown", [0.0, 0.25])
def test_the_score_is_that_of_plain_python(unknown: float) -> None:
    for seed in range(10):
        studies = made_up(12, seed, unknown=unknown)
        assert abs(studies.score() - plain_score(studies)) < SAME


def test_what_is_unknown_counts_in_neither_sum() -> None:
    numerator, denominator = Studies(
        np.array([np.nan, 1.0]),
        np.array([0.3, 0.5]),
        np.array([0, 1]),
        np.full((2, 3), np.nan),
        np.full((2, 3), 0.4),
    ).sums()
    np.testing.assert_allclose(numerator, [0, IMAGE_WEIGHT * math.log(2)], rtol=SAME)
    np.testing.assert_allclose(denominator, [0, IMAGE_WEIGHT], rtol=SAME)


def entropy(share: float) -> float:
    return 0.0 if share in (0, 1) else -share * math.log(share) - (1 - share) * math.log(1 - share)


def test_the_constant_prediction_in_closed_form() -> None:
    """Where a constant is the share of positives, each label costs the entropy of that share."""
    studies = made_up(40, seed=5)
    of_slices, of_series = best_constants(studies.truth, studies.series, studies.series_truth)
    constant = Studies(
        studies.truth,
        np.full(studies.truth.shape, of_slices),
        studies.series,
        studies.series_truth,
        np.broadcast_to(of_series, studies.series_truth.shape),
    )
    images = [studies.truth[studies.series == study] for study in range(40)]
    shares = [float(image.mean()) for image in images]
    counted = sum(share * len(image) for share, image in zip(shares, images, strict=True))
    found = sum(share * image.sum() for share, image in zip(shares, images, strict=True))
    losses = IMAGE_WEIGHT * counted * entropy(found / counted) + sum(
        40 * weight * entropy(label.mean()) for weight, label in zip(WEIGHTS, studies.series_truth.T, strict=True)
    )
    assert abs(constant.score() - losses / (IMAGE_WEIGHT * counted + 40 * WEIGHTS.sum())) < SAME


def test_no_other_constant_is_better() -> None:
    studies = made_up(20, seed=6, unknown=0.1)
    of_slices, of_series = best_constants(studies.truth, studies.series, studies.series_truth)

    def score(slice_constant: float, series_constants: Float64Array) -> float:
        constant = np.broadcast_to(series_constants, studies.series_truth.shape)
        filled = np.full(studies.truth.shape, slice_constant)
        return Studies(studies.truth, filled, studies.series, studies.series_truth, constant).score()

    best = score(of_slices, of_series)
    for step in (-0.01, 0.01):
        assert score(of_slices + step, of_series) > best
        assert all(score(of_slices, of_series + step * np.eye(3)[label]) > best for label in range(3))
