"""Scores of the study's ways over their seeds, and paired differences between ways, with intervals over patients."""

# N slices, S series, B resamples of patients

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Self

import numpy as np

from rsna_e2e.core.records import Float64Array
from rsna_e2e.evaluation.cells import losses
from rsna_e2e.evaluation.inputs import SeriesSource, read_inputs
from rsna_e2e.store import Store
from rsna_e2e.tasks import metrics
from rsna_e2e.tasks.metrics import Estimate
from rsna_e2e.tasks.metrics.ranked import ranks, resampled_ranks
from rsna_e2e.tasks.task import Task

N_RESAMPLES = 2000

LOSS, AUC, MEAN_AUC, PRECISION = "log loss", "AUC", "mean AUC", "average precision"
MEASURES = (LOSS, AUC, MEAN_AUC, PRECISION)  # the last three over slices: of the headline, of all labels, the headline

# Of the normal distribution: a two-sided level of 5 %, and a power of 80 %
_QUANTILES = NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(0.8)


@dataclass(frozen=True, slots=True)
class Scores:
    """Each measure of predictions of the same slices, and the same in each resample, [B]."""

    values: dict[str, float]
    resampled: dict[str, Float64Array]
    n_clusters: int

    @classmethod
    def of(
        cls,
        submission: Path,
        truth: Path,
        task: Task,
        *,
        store: Store | None = None,
        n_resamples: int = N_RESAMPLES,
        seed: int,
    ) -> Self:
        """Score a submission; with one seed and the same slices, resamples are the same.

        store: which says the patients; without it, series are resampled. Raises what `read_inputs` raises.
        """
        inputs = read_inputs(submission, truth, task, SeriesSource(store=store), allow_missing=True)
        assert inputs.layout is not None  # the table beside a submission knows the series
        who_S = inputs.patients or inputs.layout.series_keys
        cluster_N = np.unique(who_S, return_inverse=True)[1][inputs.layout.series_of_slice]
        draws_BS = metrics.draw_resamples(int(cluster_N.max()) + 1, n_resamples=n_resamples, seed=seed)
        found = losses(task, inputs.truth, inputs.predicted, np.zeros(0, dtype=np.int64))
        upper_B, lower_B = (metrics.resampled_mean(part, cluster_N, draws_BS) for part in (found.loss, found.weight))
        values, resampled = {LOSS: found.score}, {LOSS: upper_B / lower_B}
        areas: list[tuple[float, Float64Array]] = []
        for label, name in enumerate(inputs.task.slices.names):
            samples = inputs.truth.slices[:, label], inputs.predicted.slices[:, label]
            value, value_B = ranks(*samples), resampled_ranks(*samples, cluster_N, draws_BS)
            areas.append((value["auc"], value_B["auc"]))
            if name == task.headline:
                values |= {AUC: value["auc"], PRECISION: value["average_precision"]}
                resampled |= {AUC: value_B["auc"], PRECISION: value_B["average_precision"]}
        values[MEAN_AUC] = float(np.mean([value for value, _ in areas]))
        resampled[MEAN_AUC] = np.mean([value_B for _, value_B in areas], axis=0)
        return cls(values, resampled, draws_BS.shape[1])

    @classmethod
    def mean(cls, scores: Iterable[Self]) -> Self:
        """The mean over trainings with several seeds, in each resample of the patients."""
        some = list(scores)
        values = {name: float(np.mean([one.values[name] for one in some])) for name in MEASURES}
        resampled = {name: np.mean([one.resampled[name] for one in some], axis=0) for name in MEASURES}
        return cls(values, resampled, some[0].n_clusters)

    def minus(self, other: Self) -> Self:
        """The paired difference of scores of the same slices and resamples."""
        values = {name: self.values[name] - other.values[name] for name in MEASURES}
        resampled = {name: self.resampled[name] - other.resampled[name] for name in MEASURES}
        return type(self)(values, resampled, self.n_clusters)

    def estimate(self, measure: str) -> Estimate:
        """A measure with its interval."""
        return metrics.with_interval(self.values[measure], self.resampled[measure], n_clusters=self.n_clusters)


def detectable(differences: Sequence[Scores], measure: str) -> float:
    """How large a difference would have to be to be found with a power of 80 % at a level of 5 %, by as many seeds.

    differences: of each seed. Its standard error is made of that of the mean over resampled patients, and that of the
    mean over seeds; with one seed, of patients alone. Source: J. M. Lachin, Controlled Clinical Trials 1981, 2:93-113.
    """
    resampled_B = Scores.mean(differences).resampled[measure]
    finite_B = resampled_B[np.isfinite(resampled_B)]  # a resample may have one class alone
    if not len(finite_B):
        return math.nan
    of_patients = float(np.var(finite_B))
    values = [one.values[measure] for one in differences]
    of_seeds = float(np.var(values, ddof=1)) / len(values) if len(values) > 1 else 0.0
    return _QUANTILES * math.sqrt(of_patients + of_seeds)
