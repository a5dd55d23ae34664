"""What predictions without pixels score: what a submission does not exceed was not learned from images."""

# N slices that are scored, E studies, R slices to learn from, T series, L labels of slices, M of studies, F features

from dataclasses import dataclass, replace

import numpy as np

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import Float64Array, Rows
from rsna_e2e.evaluation.baselines import by_forest, by_position, features
from rsna_e2e.evaluation.cells import Cells, losses
from rsna_e2e.evaluation.comparisons import Floor
from rsna_e2e.evaluation.scores import Evaluation
from rsna_e2e.evaluation.series_layout import rows_by_image
from rsna_e2e.store import SeriesSpan, Store, rows_of
from rsna_e2e.tasks import metrics

PLACE = -2  # column of the features that says where in its series a slice lies


@dataclass(frozen=True, slots=True, kw_only=True)
class _Samples:
    """Features and labels to learn from, of slices [R, F] and [R, L], with the weight that their score gives them [R],
    and of series [T, F] and [T, M]; and the features of what is predicted, [N, F] and [E, F]."""

    features: Float64Array
    labels: Float64Array
    weights: Float64Array
    series_features: Float64Array
    series_labels: Float64Array
    scored_features: Float64Array
    scored_series_features: Float64Array


def with_floors(evaluation: Evaluation, store: Store, *, seed: int = 0) -> Evaluation:
    """Add what position and headers alone score, fitted on the training split of a store without the scored patients.

    Headers are also fitted to shuffled labels, which must score no better than a constant, or the comparison itself
    leaks. Where the store lacks what it takes, `floors_left_out` says so.
    """
    try:
        samples = _samples(evaluation, store)
    except BadInputError as error:
        return replace(evaluation, floors_left_out=str(error).replace(str(store.path), store.path.name))
    rng = np.random.default_rng(seed)
    shuffled = replace(  # the features: labels keep their weights
        samples, features=rng.permutation(samples.features), series_features=rng.permutation(samples.series_features)
    )
    floors = (
        _by_position(evaluation, samples),
        _by_headers(evaluation, samples, "metadata", seed=seed),
        _by_headers(evaluation, shuffled, "metadata, labels shuffled", seed=seed),
    )
    return replace(evaluation, floors=(*evaluation.floors, *floors), floors_left_out="")


def _by_position(evaluation: Evaluation, samples: _Samples) -> Floor:
    def predict(weights_R: Float64Array) -> Float64Array:
        return by_position(samples.features[:, PLACE], samples.labels, weights_R, samples.scored_features[:, PLACE])

    studies_EM = np.zeros((0, 0))
    if samples.series_labels.size:
        prevalence_M = samples.series_labels.mean(axis=0)
        studies_EM = np.broadcast_to(prevalence_M, (len(samples.scored_series_features), len(prevalence_M)))
    return _floor(evaluation, "position", predict(samples.weights), predict(np.ones(len(samples.weights))), studies_EM)


def _by_headers(evaluation: Evaluation, samples: _Samples, name: str, *, seed: int) -> Floor:
    def predict(weights_R: Float64Array) -> Float64Array:
        is_used_R = weights_R > 0
        learned = samples.features[is_used_R], samples.labels[is_used_R], weights_R[is_used_R]
        return by_forest(*learned, samples.scored_features, seed=seed)

    ranked_NL = predict(np.ones(len(samples.weights)))
    weighted_NL = ranked_NL if (samples.weights == 1).all() else predict(samples.weights)
    studies_EM = np.zeros((0, 0))
    if samples.series_labels.size:
        ones = np.ones(len(samples.series_labels))
        series = samples.series_features, samples.series_labels, ones, samples.scored_series_features
        studies_EM = by_forest(*series, seed=seed)
    return _floor(evaluation, name, weighted_NL, ranked_NL, studies_EM)


def _floor(
    evaluation: Evaluation, name: str, weighted_NL: Float64Array, ranked_NL: Float64Array, studies_EM: Float64Array
) -> Floor:
    """Score predictions that were fitted with the weights of the score by it, and those without weights by the AUC."""
    task, headline = evaluation.task, evaluation.task.headline_index
    cells = Cells(slices=weighted_NL, studies=studies_EM)
    found = losses(task, evaluation.truth, cells, evaluation.study_of_slice)
    area = metrics.auc(evaluation.truth.slices[:, headline], ranked_NL[:, headline])
    return Floor(name=name, weighted_log_loss=found.score, auc=area)


def _samples(evaluation: Evaluation, store: Store) -> _Samples:
    """Return what is learned from and what is predicted. Raises BadInputError where the store lacks it."""
    scored_N = rows_by_image(store, evaluation.image_ids)
    patients = set(store.index["patient_id"][scored_N].tolist())
    spans = [span for span in store.series if span.split == "train" and span.patient_id not in patients]
    rows_R, labels_RL = _known_slices(evaluation, store, spans)
    known, series_labels = _known_series(evaluation, store, spans)
    if not len(rows_R) or (evaluation.studies and not known):
        raise BadInputError(f"{store.path}: has no labels of other patients than those that are scored")
    features_F = features(store)
    n_studies = len(evaluation.truth.studies)
    of_studies = [scored_N[evaluation.study_of_slice == study] for study in range(n_studies)]
    return _Samples(
        features=features_F[rows_R],
        labels=labels_RL,
        weights=_weights(evaluation, store, rows_R, labels_RL),
        series_features=_means(features_F, [np.arange(len(store))[span.rows] for span in known]),
        series_labels=series_labels,
        scored_features=features_F[scored_N],
        scored_series_features=_means(features_F, of_studies),
    )


def _known_slices(evaluation: Evaluation, store: Store, spans: list[SeriesSpan]) -> tuple[Rows, Float64Array]:
    """Return the slices of these series whose labels are all known, and these labels."""
    names = evaluation.task.slices.names
    if not set(names) <= set(store.label_names):
        raise BadInputError(f"{store.path}: has no labels of the task {evaluation.task.name}")
    rows_R = rows_of(spans)
    labels_RL = store.labels[rows_R][:, [store.label_names.index(name) for name in names]].astype(np.float64)
    is_known_R = ~np.isnan(labels_RL).any(axis=1)
    return rows_R[is_known_R], labels_RL[is_known_R]


def _known_series(
    evaluation: Evaluation, store: Store, spans: list[SeriesSpan]
) -> tuple[list[SeriesSpan], Float64Array]:
    """Return those of these series whose own labels are all known, and these labels; none where they have no own."""
    if evaluation.studies is None:
        return [], np.zeros((0, 0))
    columns = [store.series_label_names.index(name) for name in evaluation.task.series.names]
    row_of = {span.series_key: row for row, span in enumerate(store.series)}
    labels_TM = store.series_labels[[row_of[span.series_key] for span in spans]][:, columns].astype(np.float64)
    known = np.flatnonzero(~np.isnan(labels_TM).any(axis=1))
    return [spans[row] for row in known.tolist()], labels_TM[known]


def _weights(evaluation: Evaluation, store: Store, rows_R: Rows, labels_RL: Float64Array) -> Float64Array:
    """Return the weight of slices in the score, of which all are 1 where none has any."""
    if evaluation.task.score == "log_loss":
        return np.ones(len(rows_R))
    study_R = np.unique(store.index["study_uid"][rows_R].astype(str), return_inverse=True)[1]
    positive_R = labels_RL[:, evaluation.task.headline_index]
    share_R: Float64Array = (np.bincount(study_R, weights=positive_R) / np.bincount(study_R))[study_R]
    return share_R if share_R.any() else np.ones(len(rows_R))


def _means(features_NF: Float64Array, groups: list[Rows]) -> Float64Array:
    """Return the mean features of groups of rows."""
    return np.array([features_NF[rows].mean(axis=0) for rows in groups]).reshape(len(groups), features_NF.shape[1])
