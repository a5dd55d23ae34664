"""Evaluation: scores a submission against the truth at the level of slices and of series, with bootstrap intervals."""

# N slices, S series, L labels, B resamples

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsna_e2e.core.records import Float64Array
from rsna_e2e.core.table_files import TableFile
from rsna_e2e.evaluation.inputs import Inputs, SeriesSource, read_inputs
from rsna_e2e.evaluation.scores import DECISION_THRESHOLD, Evaluation, LabelScores, Level
from rsna_e2e.store import Store
from rsna_e2e.tasks import metrics
from rsna_e2e.tasks.metrics import Estimate, Int64Array
from rsna_e2e.tasks.task import Task

N_BOOTSTRAP = 200

# When no label varies, predicting the prevalence loses 0 but for rounding, and a ratio to that is meaningless.
_NO_LOSS = 1e-9


def evaluate(
    submission: Path,
    truth: Path | TableFile,
    *,
    task: Task,
    predictions: Path | None = None,
    series_map: Path | None = None,
    store: Store | None = None,
    allow_missing: bool = False,
    n_bootstrap: int = N_BOOTSTRAP,
    seed: int = 0,
) -> Evaluation:
    """Score `submission` against `truth`, two label files of the same images; labels that one lacks are left out.

    predictions, series_map, store: which series slices belong to, see `SeriesSource`. Where that is known, a series is
    positive when any of its slices is, and its probability is the highest of its slices; where a series table stands
    beside the submission, the probabilities of the series head are scored as well; and intervals come from
    `n_bootstrap` resamples of whole series. allow_missing: leave out images that are in one of the files alone. Raises
    BadInputError when there are such images otherwise, or a file is not as it should be.
    """
    source = SeriesSource(series_map=series_map, predictions=predictions, store=store)
    inputs = read_inputs(submission, truth, task, source, allow_missing=allow_missing)
    return _score(inputs, n_bootstrap=n_bootstrap, seed=seed)


def _score(inputs: Inputs, *, n_bootstrap: int, seed: int) -> Evaluation:
    pair, layout = inputs.pair, inputs.layout
    resamples, series, series_head = _Resamples.none(len(pair.truth)), None, None
    if layout is not None:
        resamples = _Resamples.draw(layout.series_of_slice, n_resamples=n_bootstrap, seed=seed)
        series, series_head = _score_series(inputs, resamples)
    weights_L = np.array(pair.task.slices.weights)
    loss_N = metrics.weighted_log_loss_rows(pair.truth, pair.probability, weights_L)
    constant_N = metrics.weighted_log_loss_rows(pair.truth, metrics.constant_prediction(pair.truth), weights_L)
    return Evaluation(
        task=pair.task,
        files=inputs.files,
        n_repeated_truth_rows=inputs.n_repeated_truth_rows,
        left_out=pair.left_out,
        image_ids=pair.image_ids,
        weighted_log_loss=resamples.mean(loss_N),
        constant_weighted_log_loss=float(constant_N.mean()),
        ratio_to_constant=resamples.ratio(loss_N, constant_N),
        slices=_score_level(pair.task, pair.truth, pair.probability, resamples),
        series=series,
        series_head=series_head,
        layout=layout,
        n_bootstrap=n_bootstrap,
        seed=seed,
    )


@dataclass(frozen=True, slots=True)
class _Resamples:
    """Bootstrap resamples of clusters: the cluster of each sample [N], and how often each cluster is drawn [B, S]."""

    cluster: Int64Array
    draws: Int64Array

    @classmethod
    def none(cls, n: int) -> "_Resamples":
        """No resamples, all samples in one cluster: estimates get no intervals."""
        return cls(np.zeros(n, dtype=np.int64), np.zeros((0, 1), dtype=np.int64))

    @classmethod
    def draw(cls, cluster_N: Int64Array, *, n_resamples: int, seed: int) -> "_Resamples":
        n_clusters = int(cluster_N.max()) + 1
        if n_clusters == 1:  # every resample would be the same
            return cls.none(len(cluster_N))
        return cls(cluster_N, metrics.draw_resamples(n_clusters, n_resamples=n_resamples, seed=seed))

    def mean(self, value_N: Float64Array) -> Estimate:
        mean_B = metrics.resampled_mean(value_N, self.cluster, self.draws)
        return metrics.with_interval(float(value_N.mean()), mean_B)

    def ratio(self, upper_N: Float64Array, lower_N: Float64Array) -> Estimate:
        if lower_N.mean() < _NO_LOSS:
            return Estimate(float("nan"))
        upper_B, lower_B = (metrics.resampled_mean(part, self.cluster, self.draws) for part in (upper_N, lower_N))
        return metrics.with_interval(float(upper_N.mean() / lower_N.mean()), upper_B / lower_B)

    def auc(self, truth_N: Float64Array, score_N: Float64Array) -> Estimate:
        area_B = metrics.resampled_auc(truth_N, score_N, self.cluster, self.draws)
        return metrics.with_interval(metrics.auc(truth_N, score_N), area_B)


def _score_series(inputs: Inputs, by_slice: _Resamples) -> tuple[Level, Level | None]:
    """Return the scores of series by their highest slice, and by the series head where there is one."""
    pair, n_series = inputs.pair, by_slice.draws.shape[1]
    truth_SL, highest_SL = (
        metrics.group_max(part, by_slice.cluster, n_series) for part in (pair.truth, pair.probability)
    )
    by_series = _Resamples(np.arange(n_series), by_slice.draws)
    highest = _score_level(pair.task, truth_SL, highest_SL, by_series)
    if inputs.series_head is None:
        return highest, None
    return highest, _score_level(pair.task, truth_SL, inputs.series_head, by_series)


def _score_level(task: Task, truth_NL: Float64Array, probability_NL: Float64Array, resamples: _Resamples) -> Level:
    scores = tuple(
        _score_label(name, truth_NL[:, label], probability_NL[:, label], resamples)
        for label, name in enumerate(task.slices.names)
    )
    return Level(truth=truth_NL, probability=probability_NL, scores=scores)


def _score_label(name: str, truth_N: Float64Array, probability_N: Float64Array, resamples: _Resamples) -> LabelScores:
    is_positive, is_called = truth_N == 1, probability_N >= DECISION_THRESHOLD
    return LabelScores(
        label=name,
        n=len(truth_N),
        n_positive=int(is_positive.sum()),
        log_loss=resamples.mean(metrics.log_loss_cells(truth_N, probability_N)),
        constant_log_loss=float(metrics.log_loss_cells(truth_N, metrics.constant_prediction(truth_N)).mean()),
        auc=resamples.auc(truth_N, probability_N),
        average_precision=metrics.average_precision(truth_N, probability_N),
        calibration_error=metrics.calibration(truth_N, probability_N).expected_error,
        sensitivity=float(is_called[is_positive].mean()) if is_positive.any() else float("nan"),
        specificity=float((~is_called[~is_positive]).mean()) if not is_positive.all() else float("nan"),
    )
