"""What predictions from headers learn from and predict: features and labels of a store, and a forest on them."""

# N slices that are predicted, E studies or series that are, R slices to learn from, T series, L labels of slices, M of
# studies, F features

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import Float64Array, Rows
from rsna_e2e.evaluation.baselines import by_forest, features
from rsna_e2e.store import SeriesSpan, Store, rows_of
from rsna_e2e.tasks.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Features and labels to learn from, of slices [R, F] and [R, L], with the weight that their score gives them [R],
    and of series [T, F] and [T, M]; and the features of what is predicted, [N, F] and [E, F]."""

    features: Float64Array
    labels: Float64Array
    weights: Float64Array
    series_features: Float64Array
    series_labels: Float64Array
    predicted_features: Float64Array
    predicted_series_features: Float64Array

    def shuffled(self, rng: np.random.Generator) -> "Samples":
        """Return the same with the features shuffled, so that labels keep their weights and say nothing of them."""
        return replace(
            self, features=rng.permutation(self.features), series_features=rng.permutation(self.series_features)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """What is predicted of slices [N, L], learned with the weights of the score, and without, as AUCs are scored; and
    of studies or series [E, M]."""

    weighted: Float64Array
    ranked: Float64Array
    studies: Float64Array


def make_samples(
    store: Store, task: Task, learned: Sequence[SeriesSpan], rows_N: Rows, groups_E: Sequence[Rows]
) -> Samples:
    """Return what is learned from these series about slices, and about groups of slices where a task has labels of
    series of their own. Raises BadInputError where the store has no labels of the task, or none of these series."""
    has_own = task.series_truth == "own"
    rows_R, labels_RL = _known_slices(store, task, learned)
    known, series_labels = _known_series(store, task, learned)
    if not len(rows_R) or (has_own and not known):
        raise BadInputError(f"{store.path}: has no labels of other patients than those that are scored")
    features_F = features(store)
    return Samples(
        features=features_F[rows_R],
        labels=labels_RL,
        weights=_weights(store, task, rows_R, labels_RL),
        series_features=_means(features_F, [np.arange(len(store))[span.rows] for span in known]),
        series_labels=series_labels,
        predicted_features=features_F[rows_N],
        predicted_series_features=_means(features_F, groups_E),
    )


def guess_by_forest(samples: Samples, *, seed: int) -> Guess:
    """Predict by random forests on headers alone."""

    def predict(weights_R: Float64Array) -> Float64Array:
        is_used_R = weights_R > 0
        learned = samples.features[is_used_R], samples.labels[is_used_R], weights_R[is_used_R]
        return by_forest(*learned, samples.predicted_features, seed=seed)

    ranked_NL = predict(np.ones(len(samples.weights)))
    weighted_NL = ranked_NL if (samples.weights == 1).all() else predict(samples.weights)
    studies_EM = np.zeros((0, 0))
    if samples.series_labels.size:
        ones = np.ones(len(samples.series_labels))
        series = samples.series_features, samples.series_labels, ones, samples.predicted_series_features
        studies_EM = by_forest(*series, seed=seed)
    return Guess(weighted=weighted_NL, ranked=ranked_NL, studies=studies_EM)


def _known_slices(store: Store, task: Task, spans: Sequence[SeriesSpan]) -> tuple[Rows, Float64Array]:
    """Return the slices of these series whose labels are all known, and these labels."""
    names = task.slices.names
    if not set(names) <= set(store.label_names):
        raise BadInputError(f"{store.path}: has no labels of the task {task.name}")
    rows_R = rows_of(spans)
    labels_RL = store.labels[rows_R][:, [store.label_names.index(name) for name in names]].astype(np.float64)
    is_known_R = ~np.isnan(labels_RL).any(axis=1)
    return rows_R[is_known_R], labels_RL[is_known_R]


def _known_series(store: Store, task: Task, spans: Sequence[SeriesSpan]) -> tuple[list[SeriesSpan], Float64Array]:
    """Return those of these series whose own labels are all known, and these labels; none where they have no own."""
    if task.series_truth != "own":
        return [], np.zeros((0, 0))
    columns = [store.series_label_names.index(name) for name in task.series.names]
    row_of = {span.series_key: row for row, span in enumerate(store.series)}
    labels_TM = store.series_labels[[row_of[span.series_key] for span in spans]][:, columns].astype(np.float64)
    known = np.flatnonzero(~np.isnan(labels_TM).any(axis=1))
    return [spans[row] for row in known.tolist()], labels_TM[known]


def _weights(store: Store, task: Task, rows_R: Rows, labels_RL: Float64Array) -> Float64Array:
    """Return the weight of slices in the score, of which all are 1 where none has any."""
    if task.score == "log_loss":
        return np.ones(len(rows_R))
    study_R = np.unique(store.index["study_uid"][rows_R].astype(str), return_inverse=True)[1]
    positive_R = labels_RL[:, task.headline_index]
    share_R: Float64Array = (np.bincount(study_R, weights=positive_R) / np.bincount(study_R))[study_R]
    return share_R if share_R.any() else np.ones(len(rows_R))


def _means(features_NF: Float64Array, groups: Sequence[Rows]) -> Float64Array:
    """Return the mean features of groups of rows."""
    return np.array([features_NF[rows].mean(axis=0) for rows in groups]).reshape(len(groups), features_NF.shape[1])
