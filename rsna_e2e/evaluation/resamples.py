"""Bootstrap resamples of the clusters that samples lie in, and intervals of numbers by them."""

# N samples, C clusters, B resamples

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tasks import metrics
from rsna_e2e.tasks.metrics import Draws, Estimate, Int64Array
from rsna_e2e.tasks.metrics.ranked import ranks, resampled_ranks

# When no label varies, predicting the prevalence loses 0 but for rounding, and a ratio to that is meaningless.
_NO_LOSS = 1e-9


@dataclass(frozen=True, slots=True)
class Resamples:
    """The cluster of each sample [N], and how often each resample draws each cluster [B, C]."""

    cluster: Int64Array
    draws: Draws

    @classmethod
    def none(cls, n: int) -> "Resamples":
        """No resamples, all samples in one cluster: estimates get no intervals."""
        return cls(np.zeros(n, dtype=np.int64), np.zeros((0, 1), dtype=np.int32))

    @classmethod
    def draw(cls, cluster_N: Int64Array, *, n_resamples: int, seed: int) -> "Resamples":
        """Draw with replacement as many clusters as there are."""
        n_clusters = int(cluster_N.max()) + 1
        if n_clusters == 1:  # every resample would be the same
            return cls.none(len(cluster_N))
        return cls(cluster_N, metrics.draw_resamples(n_clusters, n_resamples=n_resamples, seed=seed))

    def of(self, cluster_N: Int64Array) -> "Resamples":
        """Return the same resamples for other samples, which lie in these clusters."""
        return Resamples(cluster_N, self.draws)

    def only(self, is_kept_N: npt.NDArray[np.bool_]) -> "Resamples":
        """Return the same resamples for some of the samples."""
        return Resamples(self.cluster[is_kept_N], self.draws)

    def _with_interval(self, value: float, resampled_B: Float64Array) -> Estimate:
        return metrics.with_interval(value, resampled_B, n_clusters=len(np.unique(self.cluster)))

    def mean(self, value_N: Float64Array) -> Estimate:
        """Mean over the samples."""
        mean_B = metrics.resampled_mean(value_N, self.cluster, self.draws)
        return self._with_interval(float(value_N.mean()), mean_B)

    def ratio(self, upper_N: Float64Array, lower_N: Float64Array) -> Estimate:
        """One sum over the samples by another; undefined where that is 0 but for rounding."""
        if lower_N.mean() < _NO_LOSS:
            return Estimate(float("nan"))
        upper_B, lower_B = (metrics.resampled_mean(part, self.cluster, self.draws) for part in (upper_N, lower_N))
        with np.errstate(invalid="ignore"):  # of a resample without anything to divide by
            ratio_B = upper_B / lower_B
        return self._with_interval(float(upper_N.mean() / lower_N.mean()), ratio_B)

    def auc(self, truth_N: Float64Array, score_N: Float64Array) -> Estimate:
        """Area under the ROC curve."""
        return self.ranks(truth_N, score_N)["auc"]

    def ranks(
        self, truth_N: Float64Array, score_N: Float64Array, *, levels: Sequence[float] = ()
    ) -> dict[str, Estimate]:
        """All that `resampled_ranks` gives, by its name there."""
        found = ranks(truth_N, score_N, levels=levels)
        resampled = resampled_ranks(truth_N, score_N, self.cluster, self.draws, levels=levels)
        return {name: self._with_interval(value, resampled[name]) for name, value in found.items()}

    def auc_of_part(
        self, truth_N: Float64Array, score_N: Float64Array, is_part_N: npt.NDArray[np.bool_]
    ) -> tuple[Estimate, Estimate, Estimate]:
        """Area under the ROC curve of some samples, of the others, and the former less the latter."""
        values, resampled, n_clusters = [], [], []
        for is_it_N in (is_part_N, ~is_part_N):
            kept, truth, score = self.only(is_it_N), truth_N[is_it_N], score_N[is_it_N]
            values.append(metrics.auc(truth, score))
            resampled.append(resampled_ranks(truth, score, kept.cluster, kept.draws)["auc"])
            n_clusters.append(len(np.unique(kept.cluster)))
        values.append(values[0] - values[1])
        resampled.append(resampled[0] - resampled[1])
        n_clusters.append(min(n_clusters))  # the smaller part makes it vary most
        part, others, difference = (
            metrics.with_interval(value, value_B, n_clusters=n)
            for value, value_B, n in zip(values, resampled, n_clusters, strict=True)
        )
        return part, others, difference
