"""What predictions without pixels score: what a submission does not exceed was not learned from images."""

# N slices that are scored, E studies, R slices to learn from, L labels of slices, M of studies

from dataclasses import replace

import numpy as np

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import Float64Array
from rsna_e2e.evaluation.baselines import by_position
from rsna_e2e.evaluation.cells import Cells, losses
from rsna_e2e.evaluation.comparisons import Floor
from rsna_e2e.evaluation.header_samples import Guess, Samples, guess_by_forest, make_samples
from rsna_e2e.evaluation.scores import Evaluation
from rsna_e2e.evaluation.series_layout import rows_by_image
from rsna_e2e.store import Store
from rsna_e2e.tasks import metrics

PLACE = -2  # column of the features that says where in its series a slice lies


def with_floors(evaluation: Evaluation, store: Store, *, seed: int = 0) -> Evaluation:
    """Add what position and headers alone score, fitted on the training split of a store without the scored patients.

    Headers are also fitted to shuffled labels, which must score no better than a constant, or the comparison itself
    leaks. Where the store lacks what it takes, `floors_left_out` says so.
    """
    try:
        samples = _samples(evaluation, store)
    except BadInputError as error:
        return replace(evaluation, floors_left_out=str(error).replace(str(store.path), store.path.name))
    shuffled = samples.shuffled(np.random.default_rng(seed))
    floors = (
        _floor(evaluation, "position", _by_position(samples)),
        _floor(evaluation, "metadata", guess_by_forest(samples, seed=seed)),
        _floor(evaluation, "metadata, labels shuffled", guess_by_forest(shuffled, seed=seed)),
    )
    return replace(evaluation, floors=(*evaluation.floors, *floors), floors_left_out="")


def _by_position(samples: Samples) -> Guess:
    def predict(weights_R: Float64Array) -> Float64Array:
        return by_position(samples.features[:, PLACE], samples.labels, weights_R, samples.predicted_features[:, PLACE])

    studies_EM = np.zeros((0, 0))
    if samples.series_labels.size:
        prevalence_M = samples.series_labels.mean(axis=0)
        studies_EM = np.broadcast_to(prevalence_M, (len(samples.predicted_series_features), len(prevalence_M)))
    return Guess(weighted=predict(samples.weights), ranked=predict(np.ones(len(samples.weights))), studies=studies_EM)


def _floor(evaluation: Evaluation, name: str, guess: Guess) -> Floor:
    """Score predictions that were fitted with the weights of the score by it, and those without weights by the AUC."""
    task, headline = evaluation.task, evaluation.task.headline_index
    cells = Cells(slices=guess.weighted, studies=guess.studies)
    found = losses(task, evaluation.truth, cells, evaluation.study_of_slice)
    area = metrics.auc(evaluation.truth.slices[:, headline], guess.ranked[:, headline])
    return Floor(name=name, weighted_log_loss=found.score, auc=area)


def _samples(evaluation: Evaluation, store: Store) -> Samples:
    """Return what is learned from and what is predicted. Raises BadInputError where the store lacks it."""
    scored_N = rows_by_image(store, evaluation.image_ids)
    patients = set(store.index["patient_id"][scored_N].tolist())
    spans = [span for span in store.series if span.split == "train" and span.patient_id not in patients]
    n_studies = len(evaluation.truth.studies)
    of_studies = [scored_N[evaluation.study_of_slice == study] for study in range(n_studies)]
    return make_samples(store, evaluation.task, spans, scored_N, of_studies)
