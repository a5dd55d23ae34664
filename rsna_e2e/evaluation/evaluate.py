"""Score a submission against the truth, slice by slice and series by series."""

# N slices, S series, L labels, B resamples

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import Float64Array
from rsna_e2e.core.table_files import TableFile, table_at
from rsna_e2e.evaluation.scores import DECISION_THRESHOLD, Evaluation, InputFile, LabelScores, Level, SeriesLayout
from rsna_e2e.inference.predictions import find_predictions, read_predictions
from rsna_e2e.tasks import metrics
from rsna_e2e.tasks.labels import LabelTable, read_labels
from rsna_e2e.tasks.metrics import Estimate, Int64Array
from rsna_e2e.tasks.task import Task

N_BOOTSTRAP = 200

# A predictions table belongs to a submission when their probabilities agree this well: room for 4 written decimals.
TABLE_TOLERANCE = 1e-4

_MAX_IDS_SHOWN = 3

# A constant predictor loses nothing but rounding when no label varies; a ratio to it would mean nothing.
_NO_LOSS = 1e-9


def evaluate(
    submission: Path,
    truth: Path,
    *,
    task: Task,
    predictions: Path | None = None,
    n_bootstrap: int = N_BOOTSTRAP,
    seed: int = 0,
) -> Evaluation:
    """Score `submission` against `truth`, two label files of the same images.

    `predictions` is the table that `predict` writes; by default the one beside the submission, if there is one.
    A series is positive when any of its slices is, and its probability is the highest of its slices. Intervals come
    from `n_bootstrap` resamples of whole series. Raises BadInputError when ids differ or a file is not as it should be.
    """
    files = table_at(submission), table_at(truth)
    truth_table, submission_table = _read_pair(*files, task)
    layout = _find_layout(submission, submission_table, predictions, task)
    truth_NL, probability_NL = truth_table.values, submission_table.values
    by_slice, series = _Resamples.none(len(truth_NL)), None
    if layout is not None:
        by_slice = _Resamples.draw(layout.series_of_slice, n_resamples=n_bootstrap, seed=seed)
        series = _series_level(task, truth_NL, probability_NL, by_slice)
    weights_L = np.array(task.label_weights)
    loss_N = metrics.weighted_log_loss_rows(truth_NL, probability_NL, weights_L)
    constant_N = metrics.weighted_log_loss_rows(truth_NL, metrics.constant_prediction(truth_NL), weights_L)
    return Evaluation(
        task=task,
        submission=InputFile(name=submission.name, sha256=files[0].sha256()),
        truth=InputFile(name=truth.name, sha256=files[1].sha256()),
        n_repeated_truth_rows=truth_table.n_repeated_rows,
        image_ids=truth_table.image_ids,
        weighted_log_loss=by_slice.mean(loss_N),
        constant_weighted_log_loss=float(constant_N.mean()),
        ratio_to_constant=by_slice.ratio(loss_N, constant_N),
        slices=_score_level(task, truth_NL, probability_NL, by_slice),
        series=series,
        layout=layout,
        n_bootstrap=n_bootstrap,
        seed=seed,
    )


@dataclass(frozen=True, slots=True)
class _Resamples:
    """Which cluster each sample belongs to [N], and how often each cluster is drawn [B, S]."""

    cluster: Int64Array
    draws: Int64Array

    @classmethod
    def none(cls, n: int) -> "_Resamples":
        """No resamples: numbers without intervals."""
        return cls(np.zeros(n, dtype=np.int64), np.zeros((0, 1), dtype=np.int64))

    @classmethod
    def draw(cls, cluster_N: Int64Array, *, n_resamples: int, seed: int) -> "_Resamples":
        n_clusters = int(cluster_N.max()) + 1
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


def _series_level(task: Task, truth_NL: Float64Array, probability_NL: Float64Array, by_slice: _Resamples) -> Level:
    n_series = by_slice.draws.shape[1]
    truth_SL, probability_SL = (
        metrics.group_max(part, by_slice.cluster, n_series) for part in (truth_NL, probability_NL)
    )
    return _score_level(task, truth_SL, probability_SL, _Resamples(np.arange(n_series), by_slice.draws))


def _score_level(task: Task, truth_NL: Float64Array, probability_NL: Float64Array, resamples: _Resamples) -> Level:
    scores = tuple(
        _score_label(name, truth_NL[:, label], probability_NL[:, label], resamples)
        for label, name in enumerate(task.label_names)
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


def _read_pair(submission: TableFile, truth: TableFile, task: Task) -> tuple[LabelTable, LabelTable]:
    """Read both files and check that they speak of the same images, fully; rows of both are in one order."""
    truth_table, submission_table = read_labels(truth, task), read_labels(submission, task)
    for file, table in ((truth, truth_table), (submission, submission_table)):
        absent = np.argwhere(np.isnan(table.values))
        if len(absent):
            row_id = task.label_id(table.image_ids[absent[0][0]], task.label_names[absent[0][1]])
            raise BadInputError(
                f"{file}: {_count(len(absent), 'row')} missing, the first is {row_id}. Every image needs all labels"
            )
    between = np.argwhere((truth_table.values != 0) & (truth_table.values != 1))
    if len(between):
        row_id = task.label_id(truth_table.image_ids[between[0][0]], task.label_names[between[0][1]])
        raise BadInputError(
            f"{truth}: the Label of {row_id} is {truth_table.values[tuple(between[0])]}, but truth is 0 or 1. "
            "Give the submission first, then the truth"
        )
    _check_same_ids(submission, submission_table.image_ids, truth, truth_table.image_ids)
    return truth_table, submission_table


def _check_same_ids(
    file: Path | TableFile, image_ids: list[str], other: Path | TableFile, other_ids: list[str]
) -> None:
    missing, extra = sorted(set(other_ids) - set(image_ids)), sorted(set(image_ids) - set(other_ids))
    if missing or extra:
        parts = [
            f"{_count(len(ids), 'image')} {what} ({_some(ids)})"
            for ids, what in ((missing, f"of {other} missing"), (extra, f"not in {other}"))
            if ids
        ]
        raise BadInputError(f"{file}: {' and '.join(parts)}. Both files must hold the same images")


def _find_layout(
    submission: Path, submission_table: LabelTable, predictions: Path | None, task: Task
) -> SeriesLayout | None:
    path = predictions or find_predictions(submission)
    if predictions is None and not path.exists():
        return None
    table = read_predictions(path, task)
    _check_same_ids(path, table.image_ids, submission, submission_table.image_ids)
    order_N = np.argsort(np.array(table.image_ids))  # as LabelTable sorts them
    gap_NL = np.abs(table.probability[order_N] - submission_table.values)
    if gap_NL.max() > TABLE_TOLERANCE:
        image_id = submission_table.image_ids[int(gap_NL.max(axis=1).argmax())]
        raise BadInputError(
            f"{path}: probabilities differ from those of {submission} by up to {gap_NL.max():.3g} ({image_id}). "
            "The two belong to different predictions; run predict again"
        )
    series_keys, series_of_slice = np.unique(np.array(table.series_keys)[order_N], return_inverse=True)
    return SeriesLayout(
        series_keys=series_keys.tolist(),
        series_of_slice=series_of_slice.astype(np.int64),
        slice_index=table.slice_index[order_N],
        position_mm=table.position_mm[order_N],
    )


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"


def _some(ids: list[str]) -> str:
    return ", ".join(ids[:_MAX_IDS_SHOWN]) + ", ..." * (len(ids) > _MAX_IDS_SHOWN)
