"""A learning rate range test: steps at growing rates, when to stop, and what their losses suggest.

After L. N. Smith, "Cyclical Learning Rates for Training Neural Networks" (arXiv:1506.01186, section 3.3); growing the
rate by a factor, smoothing the losses and stopping at four times their best follow fastai's finder (S. Gugger, "How Do
You Find A Good Learning Rate", 2018).
"""

# T steps taken

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsna_e2e.core.errors import DivergedError, UsageError
from rsna_e2e.core.files import atomic_writer, csv_blocks
from rsna_e2e.core.records import Float64Array, Progress, no_progress

MIN_STEPS = 10
_STOP_AT = 4.0  # times the best average so far: fastai's
_SPAN = 0.05  # of the sweep, on either side: what losses are averaged over
_START = 0.1  # of the sweep: rates too low to matter, whose losses show where the loss starts


@dataclass(frozen=True, slots=True, kw_only=True)
class LrSweep:
    """The result of a range test. Rates are those of the backbone; the head's rate is in a fixed ratio to it.

    learning_rates, losses: [T], of the steps taken, all finite. smoothed: [T], the losses averaged over about a tenth
    of the sweep, and limited to the highest of the first tenth, because the size of a diverging loss means nothing.
    steepest: the rate at which they fall fastest on a logarithmic axis; None if they never fall. tenth_of_lowest: a
    tenth of the rate at their lowest point.
    """

    learning_rates: Float64Array
    losses: Float64Array
    smoothed: Float64Array
    steepest: float | None
    tenth_of_lowest: float

    def __str__(self) -> str:
        if self.steepest is None:
            return "no suggestion: the loss never fell. Try other rates, or more steps"
        return (
            f"suggested learning rate: {self.steepest:.1e}, where the loss fell fastest, or {self.tenth_of_lowest:.1e}"
            ", a tenth of the rate where it was lowest"
        )


def run_sweep(
    take_step: Callable[[int, float], float],
    *,
    lowest: float,
    highest: float,
    n_steps: int,
    progress: Progress = no_progress,
) -> LrSweep:
    """Take `n_steps` steps at rates that grow by one factor from `lowest` to `highest`, fewer when the loss runs away.

    take_step: trains step number i at a rate, and returns its loss. Running away is a loss that is not finite, or an
    average of the past losses over four times its best. Raises UsageError for a range that is none, DivergedError
    when the loss is not finite from the beginning.
    """
    if not (0 < lowest < highest and n_steps >= MIN_STEPS):
        raise UsageError(f"--highest must be above --lowest, and --steps at least {MIN_STEPS}")
    rates_T, losses = np.geomspace(lowest, highest, n_steps), list[float]()
    weight = _weight(n_steps)
    best = math.inf
    for step, rate in enumerate(rates_T.tolist()):
        loss = take_step(step, rate)
        if not math.isfinite(loss):
            break
        losses.append(loss)
        average = _average_of_past(np.array(losses), weight)[-1]
        if step >= _START * n_steps:  # one batch of easy series is not yet a best
            best = min(best, average)
        progress(step + 1, n_steps, f"rate {rate:.1e}, loss {average:.3g}")
        if average > _STOP_AT * best:
            break
    if len(losses) < 2:
        raise DivergedError(f"the loss is not finite at a learning rate of {lowest:.1e}. Lower --lowest")
    return _judge(rates_T[: len(losses)], np.array(losses), n_steps)


def write_csv(sweep: LrSweep, path: Path) -> None:
    """Write one row per step: step, learning_rate, loss, smoothed_loss."""
    columns = zip(sweep.learning_rates, sweep.losses, sweep.smoothed, strict=True)
    rows = ((step, *(f"{value:.9g}" for value in values)) for step, values in enumerate(columns))
    with atomic_writer(path) as file:
        file.writelines(csv_blocks([("step", "learning_rate", "loss", "smoothed_loss"), *rows]))


def smooth(values_T: Float64Array, *, weight: float) -> Float64Array:
    """Average every value with its neighbours on both sides, which count `weight` to the power of their distance.

    An average of the past alone (fastai's, of weight 0.98) lags by tens of steps, which in a sweep is decades of the
    learning rate.
    """

    def both_sides(v_T: Float64Array) -> Float64Array:
        return _sum_of_past(v_T, weight) + _sum_of_past(v_T[::-1], weight)[::-1] - v_T

    return both_sides(values_T) / both_sides(np.ones_like(values_T))


def _weight(n_steps: int) -> float:
    """The weight that averages over `_SPAN` of the sweep on either side."""
    return 1.0 - 1.0 / max(_SPAN * n_steps, 1.0)


def _average_of_past(values_T: Float64Array, weight: float) -> Float64Array:
    """The exponential moving average, corrected for its beginning."""
    return _sum_of_past(values_T, weight) / _sum_of_past(np.ones_like(values_T), weight)


def _sum_of_past(values_T: Float64Array, weight: float) -> Float64Array:
    sums, total = [], 0.0
    for value in values_T.tolist():
        total = weight * total + value
        sums.append(total)
    return np.array(sums)


def _judge(rates_T: Float64Array, losses_T: Float64Array, n_steps: int) -> LrSweep:
    highest = losses_T[: math.ceil(_START * n_steps)].max()
    smoothed_T = smooth(np.minimum(losses_T, highest), weight=_weight(n_steps))
    lowest = int(smoothed_T.argmin())
    slopes_T = np.gradient(smoothed_T, np.log(rates_T))[: lowest + 1]
    return LrSweep(
        learning_rates=rates_T,
        losses=losses_T,
        smoothed=smoothed_T,
        steepest=float(rates_T[slopes_T.argmin()]) if lowest > 0 else None,
        tenth_of_lowest=float(rates_T[lowest]) / 10,
    )
