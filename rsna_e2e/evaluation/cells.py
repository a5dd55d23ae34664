"""The score of a task, from truth or predictions of slices and, where they have labels of their own, of studies."""

# N slices, L their labels, E studies, M their labels, U units of which the score is a weighted mean

from dataclasses import dataclass

import numpy as np

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tasks import metrics
from rsna_e2e.tasks.metrics import Int64Array
from rsna_e2e.tasks.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """Truth or probabilities, of slices [N, L] and of studies [E, M]; E is 0 where these have no labels of their own.

    Truth of studies is NaN where it is unknown.
    """

    slices: Float64Array
    studies: Float64Array


@dataclass(frozen=True, slots=True)
class Losses:
    """What each unit adds to the sum of losses, and to that of weights [U]; the score is the one sum over the other.

    Units are slices, or studies where the score is of both levels.
    """

    loss: Float64Array
    weight: Float64Array

    @property
    def score(self) -> float:
        """The weighted mean of the losses."""
        return float(self.loss.mean() / self.weight.mean())


def losses(task: Task, truth: Cells, predicted: Cells, study_of_slice_N: Int64Array) -> Losses:
    """Return the losses by the task's score. study_of_slice_N: the row of each slice's study, where studies have
    labels."""
    if task.score == "log_loss":
        weights_L = np.array(task.slices.weights)
        loss_N = metrics.weighted_log_loss_rows(truth.slices, predicted.slices, weights_L)
        return Losses(loss_N, np.ones(len(loss_N)))
    slices, studies = (truth.slices, predicted.slices), (truth.studies, predicted.studies)
    return Losses(*metrics.study_log_loss_of(task, *slices, study_of_slice_N, *studies))


def best_constants(task: Task, truth: Cells, study_of_slice_N: Int64Array) -> Cells:
    """Return predictions that are the same for all, which no others beat by the task's score."""
    constant_NL = metrics.constant_prediction(truth.slices)
    if task.score == "log_loss":
        return Cells(slices=constant_NL, studies=np.zeros_like(truth.studies))
    headline = task.headline_index
    of_slices, of_studies_M = metrics.best_constants(truth.slices[:, headline], study_of_slice_N, truth.studies)
    slices_NL = np.array(constant_NL)
    slices_NL[:, headline] = of_slices
    return Cells(slices=slices_NL, studies=np.broadcast_to(of_studies_M, truth.studies.shape))
