"""The formula of each score as a loss: what slices and series weigh in it, and what their sums are divided by."""

# N slices (packed), B series, L labels of slices, M of series

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rsna_e2e.config import ModelConfig
from rsna_e2e.loader.batch import SeriesBatch, positive_share
from rsna_e2e.model.losses import weighted_bce
from rsna_e2e.tasks.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What sums of losses over all batches of a step are divided by: the weights of all their known labels.

    classifier: of the classifier of single slices.
    """

    slices: torch.Tensor
    series: torch.Tensor
    classifier: torch.Tensor


class LogLoss:
    """Log loss of slices, weighted by label; that of series is one of its own, with a weight (`study_loss_weight`).

    series_factor: of the loss of series in what is minimised.
    """

    def __init__(self, task: Task, config: ModelConfig, device: torch.device) -> None:
        self._weights_L = torch.tensor(task.slices.weights, device=device)
        self._weights_M = torch.tensor(task.series_labels.weights, device=device)
        self.series_factor = config.study_loss_weight

    def totals(self, batches: Sequence[SeriesBatch]) -> Totals:
        """Return the divisors for these batches, which follow from their labels alone."""
        slices = _known_weight(torch.cat([batch.label_mask for batch in batches]), self._weights_L)
        series = _known_weight(torch.cat([batch.series_mask for batch in batches]), self._weights_M)
        return Totals(slices=slices, series=series, classifier=slices)

    def of_slices(self, logits_NL: torch.Tensor, batch: SeriesBatch) -> torch.Tensor:
        """Return the weighted sum of losses of slices."""
        return self.of_single_slices(logits_NL, batch)

    def of_single_slices(self, logits_NL: torch.Tensor, batch: SeriesBatch) -> torch.Tensor:
        """Return that of the classifier of single slices, to which all of them are worth the same."""
        total, _ = weighted_bce(logits_NL, batch.labels, batch.label_mask, label_weights_L=self._weights_L)
        return total

    def of_series(self, logits_BM: torch.Tensor, batch: SeriesBatch) -> torch.Tensor:
        """Return the weighted sum of losses of series."""
        total, _ = weighted_bce(logits_BM, batch.series_labels, batch.series_mask, label_weights_L=self._weights_M)
        return total

    def reported(self, slices: torch.Tensor, series: torch.Tensor) -> torch.Tensor:
        """Return what a step reports [2]: its loss, and that of series."""
        return torch.stack([slices, series])


class StudyLogLoss(LogLoss):
    """Log loss over slices and series at once, all divided by one number: the score of RSNA-STR Pulmonary Embolism 2020
    (`tasks.metrics.study_log_loss`), over all series of a step.

    A slice weighs as much as the share of positive slices in its series, and `slice_floor` more, without which no model
    would see a slice of a negative series.
    """

    def __init__(self, task: Task, config: ModelConfig, device: torch.device) -> None:
        super().__init__(task, config, device)
        self._headline, self._floor = task.headline_index, config.slice_floor
        self.series_factor = 1.0

    def totals(self, batches: Sequence[SeriesBatch]) -> Totals:
        apart = super().totals(batches)
        slices_N = [self._scale(batch) * (batch.label_mask * self._weights_L).sum(1) for batch in batches]
        series = [(batch.series_mask * self._weights_M).sum() for batch in batches]
        total = _not_zero(torch.cat(slices_N).sum() + torch.stack(series).sum())
        return Totals(slices=total, series=total, classifier=apart.classifier)

    def of_slices(self, logits_NL: torch.Tensor, batch: SeriesBatch) -> torch.Tensor:
        total, _ = weighted_bce(
            logits_NL,
            batch.labels,
            batch.label_mask,
            label_weights_L=self._weights_L,
            row_weights_N=self._scale(batch),
        )
        return total

    def reported(self, slices: torch.Tensor, series: torch.Tensor) -> torch.Tensor:
        return torch.stack([slices + series, series])

    def _scale(self, batch: SeriesBatch) -> torch.Tensor:
        """Return what each slice weighs [N]."""
        labels_N, mask_N = batch.labels[:, self._headline], batch.label_mask[:, self._headline]
        return positive_share(labels_N.to(self._weights_L.dtype), mask_N, batch.series_lengths) + self._floor


def loss_of(task: Task, config: ModelConfig, device: torch.device) -> LogLoss:
    """Return the loss that a task's score makes, or that of slices and series apart where that is configured."""
    kind = StudyLogLoss if task.score == "study_log_loss" and config.loss == "score" else LogLoss
    return kind(task, config, device)


def _known_weight(mask: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return _not_zero((mask.sum(0) * weights).sum())


def _not_zero(weight: torch.Tensor) -> torch.Tensor:
    return weight.clamp(min=torch.finfo(torch.float32).tiny)  # nothing is known: 0 / smallest is 0
