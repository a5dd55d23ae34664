"""Scores of the study's ways over their seeds, and paired differences between ways, with intervals over series."""

# N slices, S series, B resamples of series

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from rsna_e2e.core.records import Float64Array
from rsna_e2e.evaluation.cells import losses
from rsna_e2e.evaluation.inputs import SeriesSource, read_inputs
from rsna_e2e.tasks import metrics
from rsna_e2e.tasks.metrics import Estimate
from rsna_e2e.tasks.metrics.ranked import ranks, resampled_ranks
from rsna_e2e.tasks.task import Task

N_RESAMPLES = 2000

LOSS, AUC, MEAN_AUC, PRECISION = "log loss", "AUC", "mean AUC", "average precision"
MEASURES = (LOSS, AUC, MEAN_AUC, PRECISION)  # the last three over slices: of the headline, of all labels, the headline

_QUANTILES = 1.9600 + 0.8416  # of the normal distribution: two-sided level of 5 %, power of 80 %


@dataclass(frozen=True, slots=True)
class Scores:
    """Each measure of predictions of the same series, and the same in each resample, [B]."""

    values: dict[str, float]
    resampled: dict[str, Float64Array]
    n_series: int

    @classmethod
    def of(cls, submission: Path, truth: Path, task: Task, *, seed: int) -> Self:
        """Score a submission; with one seed and the same series, resamples are the same.

        Raises what `read_inputs` raises.
        """
        inputs = read_inputs(submission, truth, task, SeriesSource(), allow_missing=True)
        assert inputs.layout is not None  # the table beside a submission knows the series
        series_N, n_series = inputs.layout.series_of_slice, len(inputs.layout.series_keys)
        draws_BS = metrics.draw_resamples(n_series, n_resamples=N_RESAMPLES, seed=seed)
        found = losses(task, inputs.truth, inputs.predicted, series_N)
        unit_U = series_N if len(found.loss) == len(series_N) else np.arange(n_series)
        upper_B, lower_B = (metrics.resampled_mean(part, unit_U, draws_BS) for part in (found.loss, found.weight))
        values, resampled = {LOSS: found.score}, {LOSS: upper_B / lower_B}
        areas: list[tuple[float, Float64Array]] = []
        for label, name in enumerate(inputs.task.slices.names):
            samples = inputs.truth.slices[:, label], inputs.predicted.slices[:, label]
            value, value_B = ranks(*samples), resampled_ranks(*samples, series_N, draws_BS)
            areas.append((value["auc"], value_B["auc"]))
            if name == task.headline:
                values |= {AUC: value["auc"], PRECISION: value["average_precision"]}
                resampled |= {AUC: value_B["auc"], PRECISION: value_B["average_precision"]}
        values[MEAN_AUC] = float(np.mean([value for value, _ in areas]))
        resampled[MEAN_AUC] = np.mean([value_B for _, value_B in areas], axis=0)
        return cls(values, resampled, n_series)

    @classmethod
    def mean(cls, scores: Iterable[Self]) -> Self:
        """The mean over trainings with several seeds, in each resample of the series."""
        some = list(scores)
        values = {name: float(np.mean([one.values[name] for one in some])) for name in MEASURES}
        resampled = {name: np.mean([one.resampled[name] for one in some], axis=0) for name in MEASURES}
        return cls(values, resampled, some[0].n_series)

    def minus(self, other: Self) -> Self:
        """The paired difference of scores of the same series and resamples."""
        values = {name: self.values[name] - other.values[name] for name in MEASURES}
        resampled = {name: self.resampled[name] - other.resampled[name] for name in MEASURES}
        return type(self)(values, resampled, self.n_series)

    def estimate(self, measure: str) -> Estimate:
        """A measure with its interval."""
        return metrics.with_interval(self.values[measure], self.resampled[measure], n_clusters=self.n_series)

    def detectable(self, measure: str) -> float:
        """Of a difference: how large it would have to be to be found with a power of 80 % at a level of 5 %.

        Source: J. M. Lachin, Controlled Clinical Trials 1981, 2:93-113; the standard error is that of the resamples.
        """
        return _QUANTILES * float(np.std(self.resampled[measure]))
