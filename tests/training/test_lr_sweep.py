"""The learning rate range test on losses whose steepest point and end are known."""

import csv
import math
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from rsna_e2e.core.errors import DivergedError, UsageError
from rsna_e2e.evaluation.report.learning_rate import write_lr_figure
from rsna_e2e.training.lr_sweep import LrSweep, run_sweep, smooth, write_csv

RANGE = {"lowest": 1e-7, "highest": 1.0}
STEEPEST, RISE = 1e-3, 0.05  # of the made-up loss
WITHIN = (
    1.6  # factor: three steps of a sweep of 100, 0.07 decades each; noise and averaging may move the slope by those
)


def made_up(rate: float) -> float:
    """From 0.7 to 0.4 along a logistic curve with its middle at `STEEPEST`, and beyond `RISE` away."""
    fall = 0.3 / (1 + math.exp(-4 * math.log10(rate / STEEPEST)))
    return 0.7 - fall + (5 * math.log10(rate / RISE) if rate > RISE else 0.0)


def sweep_of(loss_of: object, n_steps: int = 100) -> LrSweep:
    return run_sweep(lambda step, rate: loss_of(step, rate), n_steps=n_steps, **RANGE)


def test_rates_grow_by_one_factor_from_the_lowest_to_the_highest() -> None:
    seen: list[tuple[int, float]] = []
    run_sweep(lambda step, rate: seen.append((step, rate)) or 1.0, lowest=1e-4, highest=1e-1, n_steps=31)
    assert [step for step, _ in seen] == list(range(31))
    assert [rate for _, rate in seen] == pytest.approx([1e-4 * 10 ** (step / 10) for step in range(31)], rel=1e-12)


@pytest.mark.parametrize("n_steps", [100, 1000])
def test_the_steepest_descent_is_found_under_noise(n_steps: int) -> None:
    noise = 0.03 * np.random.default_rng(0).standard_normal(n_steps)
    sweep = sweep_of(lambda step, rate: made_up(rate) + noise[step], n_steps)
    assert STEEPEST / WITHIN < sweep.steepest < STEEPEST * WITHIN
    assert RISE / 100 / WITHIN < sweep.tenth_of_lowest < RISE / 10  # the low part of the loss is flat: a decade
    assert f"suggested learning rate: {sweep.steepest:.1e}, " in str(sweep)


def test_a_loss_that_runs_away_ends_the_sweep_and_says_nothing_else() -> None:
    mild, wild = (
        sweep_of(lambda _, rate, height=h: made_up(min(rate, RISE)) + height * (rate > RISE)) for h in (3, 99)
    )
    # 82 of the rates are under RISE; the average of the past reaches four times 0.42 after a few more, or at once
    assert (np.geomspace(1e-7, 1.0, 100) <= RISE).sum() == 81
    assert 82 < len(mild.losses) < 90
    assert len(wild.losses) == 82
    assert mild.steepest == wild.steepest


def test_a_sweep_ends_before_a_loss_that_is_not_finite() -> None:
    sweep = sweep_of(lambda step, _: math.nan if step == 40 else 1.0 - step / 100)
    assert len(sweep.losses) == len(sweep.learning_rates) == len(sweep.smoothed) == 40


def test_a_fall_beyond_the_lowest_point_does_not_count() -> None:
    course = np.interp(range(100), [0, 20, 60, 70, 80, 81, 99], [1.0, 1.0, 0.4, 1.0, 1.0, 0.6, 0.6])
    sweep = sweep_of(lambda step, _: course[step])
    assert 20 < np.searchsorted(sweep.learning_rates, sweep.steepest) < 60


def test_an_easy_first_batch_does_not_end_the_sweep() -> None:
    assert len(sweep_of(lambda step, _: 0.7 if step else 0.01).losses) == 100


def test_a_loss_that_only_rises_suggests_nothing() -> None:
    sweep = sweep_of(lambda step, _: 1.0 + step / 100)
    assert sweep.steepest is None
    assert "never fell" in str(sweep)


def test_smoothing_by_hand() -> None:
    # weights by distance 1, 1/2, 1/4: (4 + 0 + 2) / 1.75, (2 + 0 + 4) / 2, (1 + 0 + 8) / 1.75
    np.testing.assert_allclose(smooth(np.array([4.0, 0.0, 8.0]), weight=0.5), [6 / 1.75, 3.0, 9 / 1.75], rtol=1e-12)


def test_a_range_that_is_none_is_refused() -> None:
    for wrong in ({"lowest": 0.0}, {"lowest": 1.0}, {"highest": 1e-8}, {"n_steps": 9}):
        with pytest.raises(UsageError, match="--highest must be above --lowest, and --steps at least 10"):
            run_sweep(lambda *_: 1.0, **{**RANGE, "n_steps": 100, **wrong})


def test_a_loss_that_is_never_finite_is_an_error() -> None:
    with pytest.raises(DivergedError, match=r"not finite at a learning rate of 1\.0e-07\. Lower --lowest"):
        sweep_of(lambda *_: math.inf)


def test_the_csv_holds_every_step(tmp_path: Path) -> None:
    sweep = sweep_of(lambda step, _: 2.0 - step / 100, 10)
    write_csv(sweep, tmp_path / "lr.csv")
    rows = list(csv.DictReader((tmp_path / "lr.csv").read_text().splitlines()))
    assert list(rows[0]) == ["step", "learning_rate", "loss", "smoothed_loss"]
    assert [int(row["step"]) for row in rows] == list(range(10))
    for name, values in (
        ("learning_rate", sweep.learning_rates), ("loss", sweep.losses), ("smoothed_loss", sweep.smoothed)
    ):  # fmt: skip
        assert [float(row[name]) for row in rows] == pytest.approx(values, rel=1e-8)


def test_the_figure_marks_what_is_suggested(tmp_path: Path) -> None:
    pictures = {}
    for name, loss_of in (("falls", lambda _, rate: made_up(rate)), ("rises", lambda step, _: 1.0 + step / 100)):
        write_lr_figure(sweep_of(loss_of), tmp_path / f"{name}.png", title=name)
        pictures[name] = matplotlib.image.imread(tmp_path / f"{name}.png")[..., :3]
    vermilion = np.array([0xC0, 0x4A, 0x00]) / 255  # of the steepest descent
    has_mark = {name: (abs(pixels - vermilion).max(axis=2) < 0.01).any() for name, pixels in pictures.items()}
    assert has_mark == {"falls": True, "rises": False}
