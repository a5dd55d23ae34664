"""One step of training: forward, loss, backward, clip, update; and the schedule that it follows."""

# N slices (packed), L labels

import math

import torch
from torch.optim.lr_scheduler import LambdaLR

from rsna_e2e.batch import StudyBatch
from rsna_e2e.config import OptimizerConfig, RunConfig
from rsna_e2e.device import Compute
from rsna_e2e.errors import DivergedError
from rsna_e2e.losses import weighted_bce
from rsna_e2e.model import JointModel
from rsna_e2e.optimizer import make_optimizer, make_schedule
from rsna_e2e.tasks import Task


class Stepper:
    """One optimiser step at a time on one model.

    is_joint: the head takes part, on whole series; otherwise backbone and slice classifier learn alone.
    """

    def __init__(
        self,
        model: JointModel,
        optimizer: OptimizerConfig,
        config: RunConfig,
        task: Task,
        compute: Compute,
        *,
        n_steps: int,
        is_joint: bool,
    ) -> None:
        self._model, self._compute = model, compute
        self._is_joint = is_joint
        self._slice_loss_weight = config.model.slice_loss_weight
        self._clip_norm = optimizer.clip_norm or math.inf
        self._label_weights = torch.tensor(task.label_weights, device=compute.device)
        self._optimizer = make_optimizer(model, optimizer, compute.device)
        self._scheduler = LambdaLR(self._optimizer, make_schedule(optimizer, n_steps=n_steps))

    def __call__(self, batch: StudyBatch) -> dict[str, float]:
        """Take one step; return its loss, gradient norm and learning rate. Raises DivergedError."""
        self._model.train()
        loss, objective = self._losses(batch)
        self._optimizer.zero_grad(set_to_none=True)
        objective.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._clip_norm)
        if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
            raise DivergedError(
                f"loss {loss.item():.4g}, gradient norm {norm.item():.4g} on series "
                f"{', '.join(sorted({key[:8] for key in batch.series_keys}))}. Lower optimizer.learning_rate"
            )
        learning_rate = float(self._scheduler.get_last_lr()[0])
        self._optimizer.step()
        self._scheduler.step()
        return {"loss": loss.item(), "gradient_norm": norm.item(), "learning_rate": learning_rate}

    def _losses(self, batch: StudyBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss to report and the objective to minimise."""
        with self._compute.autocast():
            embeddings = self._model.embed(batch.images[:])
        slice_loss = torch.zeros((), device=embeddings.device)
        if self._model.slice_classifier is not None:
            slice_loss = self._loss(self._model.classify_slices(embeddings), batch)
        if not self._is_joint:
            return slice_loss, slice_loss
        loss = self._loss(self._model.classify(embeddings, batch.series_lengths).slices, batch)
        return loss, loss + self._slice_loss_weight * slice_loss

    def _loss(self, logits_NL: torch.Tensor, batch: StudyBatch) -> torch.Tensor:
        total, weight = weighted_bce(logits_NL, batch.labels, batch.label_mask, label_weights_L=self._label_weights)
        return total / weight.clamp(min=torch.finfo(weight.dtype).tiny)
