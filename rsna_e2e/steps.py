"""One step of training: exact gradients chunk by chunk, summed over ranks, checked, clipped, applied."""

# N slices (packed), F features of an embedding, L labels

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import pad
from torch.nn.modules.batchnorm import _BatchNorm

from rsna_e2e.batch import StudyBatch, study_targets
from rsna_e2e.chunked import backward_in_chunks, make_chunks
from rsna_e2e.config import OptimizerConfig, RunConfig
from rsna_e2e.device import Compute
from rsna_e2e.distributed import ALONE, Ranks
from rsna_e2e.losses import weighted_bce
from rsna_e2e.model import JointModel
from rsna_e2e.optimizer import make_optimizer, make_schedule, set_learning_rates
from rsna_e2e.tasks import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What a step did, the same on every rank.

    loss: of the slice labels, over the known cells of all ranks; study_loss: of the series, NaN without that head.
    gradient_norm: before clipping. learning_rate: of the backbone. is_skipped: it was not finite, and changed nothing.
    is_overflow: no more than float16's range was exceeded; the scale of the loss has been lowered for the next.
    recompute_error: see `chunked.Backward`, of this rank.
    """

    loss: float
    study_loss: float
    gradient_norm: float
    learning_rate: float
    is_skipped: bool
    is_overflow: bool
    recompute_error: float


class Stepper:
    """Takes the optimiser steps of one phase on one model.

    is_joint: the heads take part, on whole series; otherwise backbone and slice classifier learn alone, on single
    slices. The phase has `n_steps` steps from `first_step` on. `config.chunk` and `graph_slices` are numbers by now.
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
        first_step: int = 0,
        ranks: Ranks = ALONE,
    ) -> None:
        assert config.chunk != "auto"
        assert config.graph_slices != "auto"
        self._model, self._config, self._compute, self._ranks = model, config, compute, ranks
        self._chunk, self._graph_slices = config.chunk, config.graph_slices
        self._is_joint, self._first_step = is_joint, first_step
        self._has_frozen_norms = is_joint and config.model.batchnorm == "frozen"
        self._is_backbone_frozen = False
        self._clip_norm = optimizer.clip_norm or math.inf
        self._label_weights_L = torch.tensor(task.label_weights, device=compute.device)
        self._factor = make_schedule(optimizer, n_steps=n_steps)
        for head in (model.head, model.study_head):
            if head is not None:
                head.requires_grad_(is_joint)
        self.optimizer = make_optimizer(model, optimizer, compute.device)
        self.scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.needs_scaler)
        self._backbone: Callable[..., torch.Tensor] = model.backbone
        if config.compile:
            self._backbone = torch.compile(model.backbone, dynamic=None if self._norms_mix_chunks else False)

    def freeze_backbone(self, is_frozen: bool) -> None:
        """Let the backbone rest from now on, or learn again."""
        self._is_backbone_frozen = is_frozen
        self._model.backbone.requires_grad_(not is_frozen)

    def __call__(
        self, step: int, batches: Sequence[StudyBatch], *, learning_rate_factor: float | None = None
    ) -> StepResult:
        """Take step number `step` on this rank's share of `batches`, which are accumulated.

        learning_rate_factor: on the configured learning rates, instead of the schedule's.
        """
        self._set_modes()
        if learning_rate_factor is None:
            learning_rate_factor = self._factor(step - self._first_step)
        set_learning_rates(self.optimizer, learning_rate_factor)
        self.optimizer.zero_grad()
        buffers = [buffer.clone() for buffer in self._model.buffers()]
        losses, recompute_error = torch.zeros(3, device=self._compute.device).tensor_split([2])
        weights = self._weights(batches)
        for batch in batches:
            if batch.series_keys:
                some_losses, error = self._backward(batch, step, weights)
                losses += some_losses
                torch.maximum(recompute_error, error, out=recompute_error)
        parameters = [p for p in self._model.parameters() if p.requires_grad]
        self._ranks.sum_(losses)
        self._ranks.sum_gradients_(parameters, bucket_mib=self._config.distributed.bucket_mib)
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self._clip_norm)
        loss, study_loss, gradient_norm, error = torch.cat([losses, norm.reshape(1), recompute_error]).tolist()
        is_skipped = not all(map(math.isfinite, (loss, study_loss, gradient_norm)))
        if is_skipped:
            _restore(self._model, buffers)
        else:
            self.scaler.step(self.optimizer)
            self._ranks.average_buffers_(self._model.backbone, weight=sum(len(batch.labels) for batch in batches))
        self.scaler.update()
        return StepResult(
            loss=loss,
            study_loss=study_loss if self._has_study_loss else math.nan,
            gradient_norm=gradient_norm,
            learning_rate=float(self.optimizer.param_groups[0]["lr"]),
            is_skipped=is_skipped,
            is_overflow=is_skipped and math.isfinite(loss + study_loss) and self._scale_is_above_1(),
            recompute_error=error,
        )

    def _scale_is_above_1(self) -> bool:
        return self.scaler.is_enabled() and self.scaler.get_scale() > 1.0

    @property
    def _norms_mix_chunks(self) -> bool:
        """Whether slices of a chunk may see each other, and chunks are of many sizes."""
        return self._is_joint and not self._has_frozen_norms

    @property
    def _has_study_loss(self) -> bool:
        return self._is_joint and self._model.study_head is not None

    def _set_modes(self) -> None:
        self._model.train()
        if self._is_backbone_frozen:
            self._model.backbone.eval()
        if self._has_frozen_norms:
            for module in self._model.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()

    def _weights(self, batches: Sequence[StudyBatch]) -> tuple[float, float]:
        """What the sums of slice losses and of study losses are divided by: the known cells of all ranks, weighted."""
        weights_L = self._label_weights_L.cpu().double()
        smallest = torch.finfo(torch.float32).tiny  # nothing is known: 0 / smallest is 0
        n_slices_L = torch.stack([batch.n_known_slices for batch in batches]).sum(0).double()
        n_series_L = torch.stack([batch.n_known_series for batch in batches]).sum(0).double()
        return max(float(weights_L @ n_slices_L), smallest), max(float(weights_L @ n_series_L), smallest)

    def _backward(
        self, batch: StudyBatch, step: int, weights: tuple[float, float]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add this batch's gradients; return its parts of the two losses [2], and the error of recomputation."""
        lengths, keys = batch.series_lengths.tolist(), batch.series_keys
        if not self._is_joint:  # slices of many series, normalised together
            lengths, keys = [len(batch.labels)], keys[:1]
        chunks = make_chunks(lengths, keys, chunk_size=self._chunk)
        reported = torch.zeros(2, device=self._compute.device)

        def objective(embeddings_NF: torch.Tensor) -> torch.Tensor:
            loss, total = self._losses(embeddings_NF, batch, weights)
            reported.copy_(loss)
            scaled: torch.Tensor = self.scaler.scale(total)
            return scaled

        done = backward_in_chunks(
            self._model.backbone,
            self._embed,
            batch.images,
            chunks,
            objective,
            seed=self._config.seed,
            step=step,
            graph_slices=self._graph_slices,
        )
        return reported, done.recompute_error

    def _embed(self, images_NCSS: torch.Tensor) -> torch.Tensor:
        n = len(images_NCSS)
        if self._config.compile and self._norms_mix_chunks:  # no slice may be added: any number of them, but for 1
            torch._dynamo.maybe_mark_dynamic(images_NCSS, 0)
        elif self._config.compile and self._has_frozen_norms:  # slices do not mix: fill up to the one compiled shape
            images_NCSS = pad(images_NCSS, (0, 0, 0, 0, 0, 0, 0, self._chunk - n))
        with self._compute.autocast():
            features_NF = self._backbone(images_NCSS)
        return features_NF[:n].float()

    def _losses(
        self, embeddings_NF: torch.Tensor, batch: StudyBatch, weights: tuple[float, float]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the losses to report [2], of slices and of series, and the objective to minimise."""
        by_slices, by_series = weights
        none = torch.zeros((), device=embeddings_NF.device)
        auxiliary = study_loss = none
        if self._model.slice_classifier is not None:
            logits_NL = self._model.classify_slices(embeddings_NF)
            auxiliary = self._bce(logits_NL, batch.labels, batch.label_mask) / by_slices
        if not self._is_joint:
            return torch.stack([auxiliary.detach(), none]), auxiliary
        logits = self._model.classify(embeddings_NF, batch.series_lengths)
        loss = self._bce(logits.slices, batch.labels, batch.label_mask) / by_slices
        if logits.studies is not None:
            targets = study_targets(batch.labels, batch.label_mask, batch.series_lengths)
            study_loss = self._bce(logits.studies, *targets) / by_series
        config = self._config.model
        total = loss + config.slice_loss_weight * auxiliary + config.study_loss_weight * study_loss
        return torch.stack([loss.detach(), study_loss.detach()]), total

    def _bce(self, logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        total, _ = weighted_bce(logits, labels, mask, label_weights_L=self._label_weights_L)
        return total


@torch.no_grad()
def _restore(module: nn.Module, buffers: Sequence[torch.Tensor]) -> None:
    """Undo what a step that is not taken did to running statistics."""
    for buffer, before in zip(module.buffers(), buffers, strict=True):
        buffer.copy_(before)
