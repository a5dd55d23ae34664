"""One step of training: exact gradients chunk by chunk, shared by the ranks, checked, clipped, applied.

Every rank embeds its own chunks of a batch and computes the heads on the embeddings of all ranks. That takes no longer
than on its own part, because the time of an LSTM depends on the length of the series, not on their number. So the
heads' gradients, most of the bytes, need not be summed; that all ranks get the same bits is checked.
"""

# N slices of a batch (packed), n of them in a chunk, F features of an embedding, L labels

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rsna_e2e.config import OptimizerConfig, RunConfig
from rsna_e2e.core.device import Compute
from rsna_e2e.loader.batch import SeriesBatch
from rsna_e2e.model.chunked_backward import backward_in_chunks, derive_seed
from rsna_e2e.model.losses import weighted_bce
from rsna_e2e.model.network import JointModel
from rsna_e2e.model.norms import freeze_norms, moving_buffers, snapshot
from rsna_e2e.model.slice_dropout import slice_keys
from rsna_e2e.tasks.task import Task
from rsna_e2e.training.distributed import ALONE, Ranks
from rsna_e2e.training.gradient_sum import GradientSum, fill_missing
from rsna_e2e.training.optimizer import make_optimizer, make_schedule, set_learning_rates

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What a step did, the same on every rank.

    loss: of the slice labels, over the known cells of the batches; series_loss: of the series, NaN without that head.
    gradient_norm: before clipping. learning_rate: of the backbone. is_skipped: loss or gradient was not finite, and
    nothing was changed. is_overflow: the only cause was fp16 overflow; GradScaler has lowered its scale for the next
    step. recompute_error: see `chunked_backward.Backward`, the largest of all ranks. heads_agree: all ranks got the
    same bits of the heads' gradients; otherwise those of the main rank were sent to all, which takes time. busy_share:
    slices that all ranks embedded, as a part of what they could have embedded in the time of the busiest.
    """

    loss: float
    series_loss: float
    gradient_norm: float
    learning_rate: float
    is_skipped: bool
    is_overflow: bool
    recompute_error: float
    heads_agree: bool
    busy_share: float


class Stepper:
    """Takes the optimiser steps of one phase on one model.

    is_joint: the heads take part, on whole series; otherwise backbone and slice classifier learn alone, on single
    slices. The phase has `n_steps` steps from `first_step` on. `config.graph_slices` is a number by now.
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
        assert config.graph_slices != "auto"
        self._model, self._config, self._compute, self._ranks = model, config, compute, ranks
        self._graph_slices = config.graph_slices
        self._is_joint, self._first_step = is_joint, first_step
        self._is_backbone_frozen = self._has_disagreed = False
        self._clip_norm = optimizer.clip_norm
        self._label_weights_L = torch.tensor(task.slices.weights, device=compute.device)
        self._factor = make_schedule(optimizer, n_steps=n_steps)
        for head in (model.head, model.study_head):
            if head is not None:
                head.requires_grad_(is_joint)
        self.optimizer = make_optimizer(model, optimizer, compute.device)
        self.scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.needs_scaler)
        self._embed_images = torch.compile(model.embed) if config.compile else model.embed

    def freeze_backbone(self, is_frozen: bool) -> None:
        """Freeze the backbone from now on, or train it again."""
        self._is_backbone_frozen = is_frozen
        self._model.backbone.requires_grad_(not is_frozen)

    def __call__(
        self, step: int, batches: Sequence[SeriesBatch], *, learning_rate_factor: float | None = None
    ) -> StepResult:
        """Take step number `step` on `batches`, which are accumulated, each with this rank's share of its images.

        learning_rate_factor: on the configured learning rates, instead of the schedule's.
        """
        self._set_modes()
        if learning_rate_factor is None:
            learning_rate_factor = self._factor(step - self._first_step)
        set_learning_rates(self.optimizer, learning_rate_factor)
        self.optimizer.zero_grad()
        restore_buffers = snapshot(moving_buffers(self._model))
        losses, recompute_error, heads_agree = self._accumulate(step, batches)
        norm = self._clip()
        own = torch.tensor([float(_n_own(batch)) for batch in batches], device=self._compute.device)
        largest = self._ranks.max_(torch.cat([recompute_error, own]))
        found = torch.cat([losses, norm.reshape(1), largest])
        loss, series_loss, gradient_norm, error, *largest_shares = found.tolist()
        is_skipped = not all(map(math.isfinite, (loss, series_loss, gradient_norm)))
        if is_skipped:
            restore_buffers()
        else:
            self.scaler.step(self.optimizer)
            self._ranks.average_buffers_(self._model.backbone, weight=sum(map(_n_own, batches)))
        self.scaler.update()
        return StepResult(
            loss=loss,
            series_loss=series_loss if self._has_series_loss else math.nan,
            gradient_norm=gradient_norm,
            learning_rate=float(self.optimizer.param_groups[0]["lr"]),
            is_skipped=is_skipped,
            is_overflow=is_skipped and math.isfinite(loss + series_loss) and self._scale_is_above_1(),
            recompute_error=error,
            heads_agree=heads_agree,
            busy_share=sum(len(batch.rows) for batch in batches) / (self._ranks.n_ranks * sum(largest_shares)),
        )

    def _accumulate(self, step: int, batches: Sequence[SeriesBatch]) -> tuple[torch.Tensor, torch.Tensor, bool]:
        """Leave the gradients of all batches, summed over ranks; return the losses [2], this rank's error of
        recomputation, and whether ranks agreed on the heads."""
        backbone = list(self._model.backbone.parameters())
        sums = GradientSum(self._ranks, backbone, bucket_mib=self._config.distributed.bucket_mib)
        losses, recompute_error = torch.zeros(3, device=self._compute.device).tensor_split([2])
        weights = self._weights(batches)
        for batch in batches:
            some_losses, error = self._backward(batch, step, weights, sums if batch is batches[-1] else None)
            losses += some_losses
            torch.maximum(recompute_error, error, out=recompute_error)
        sums.finish()
        in_backbone = set(backbone)
        of_heads = fill_missing(p for p in self._model.parameters() if p not in in_backbone)
        heads_agree = self._ranks.agree_([losses, *of_heads])
        if not heads_agree:
            self._report_disagreement()
        return losses, recompute_error, heads_agree

    def _report_disagreement(self) -> None:
        """Tell the operator once; metrics.jsonl has it of every step."""
        if not self._has_disagreed:
            logger.warning("ranks computed different gradients of the heads; those of the main rank are used")
        self._has_disagreed = True

    def _clip(self) -> torch.Tensor:
        """Clip gradients to the configured norm, if there is one; return their norm before."""
        parameters = [p for p in self._model.parameters() if p.requires_grad]
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self._clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self._clip_norm, norm)
        return norm

    def _scale_is_above_1(self) -> bool:
        return self.scaler.is_enabled() and self.scaler.get_scale() > 1.0

    @property
    def _has_series_loss(self) -> bool:
        return self._is_joint and self._model.study_head is not None

    def _set_modes(self) -> None:
        self._model.train()
        if self._is_backbone_frozen:
            self._model.backbone.eval()
        if self._is_joint and self._config.model.batchnorm == "frozen":
            freeze_norms(self._model)

    def _weights(self, batches: Sequence[SeriesBatch]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the divisors of the summed slice and series losses: the weighted counts of known labels."""
        slices = torch.cat([batch.label_mask for batch in batches])
        series = torch.cat([batch.series_mask for batch in batches])
        return self._weight_of(slices), self._weight_of(series)

    def _weight_of(self, mask: torch.Tensor) -> torch.Tensor:
        smallest = torch.finfo(torch.float32).tiny  # nothing is known: 0 / smallest is 0
        return (mask.sum(0) * self._label_weights_L).sum().clamp(min=smallest)

    def _backward(
        self,
        batch: SeriesBatch,
        step: int,
        weights: tuple[torch.Tensor, torch.Tensor],
        last: GradientSum | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add this batch's gradients; return its parts of the two losses [2], and the error of recomputation.

        last: sums the gradients over ranks, if this is the last batch of the step; every rank takes part then, also
        those without slices, and no other collective may run meanwhile.
        """
        reported = torch.zeros(2, device=self._compute.device)
        keys_N = slice_keys(derive_seed(self._config.seed, step), torch.from_numpy(batch.rows).to(self._compute.device))

        def objective(embeddings_NF: torch.Tensor) -> torch.Tensor:
            loss, total = self._losses(embeddings_NF, batch, weights)
            reported.copy_(loss)
            scaled: torch.Tensor = self.scaler.scale(total)
            return scaled

        def gather(own_nF: torch.Tensor) -> torch.Tensor:
            all_NF = torch.zeros(len(batch.rows), self._model.n_features, device=self._compute.device)
            for chunk in batch.chunks:
                all_NF[chunk.rows] = own_nF[chunk.images]
            return self._ranks.sum_(all_NF)  # every slice is one rank's, and 0 on the others: exact

        done = backward_in_chunks(
            self._model.backbone,
            lambda images, chunk: self._embed(images, keys_N[chunk.rows]),
            batch.images,
            batch.chunks,
            objective,
            seed=derive_seed(self._config.seed, step, batch.series_keys[0]),
            graph_slices=self._graph_slices,
            gather=None if self._ranks.n_ranks == 1 else gather,
            before_last=(lambda: None) if last is None else last.begin,
        )
        return reported, done.recompute_error

    def _embed(self, images_nCSS: torch.Tensor, keys_n: torch.Tensor) -> torch.Tensor:
        if self._config.compile and self._is_joint:
            # One shape for chunks of any size, but for 1, and wherever in a batch they begin: torch would compile those
            # by themselves. So no view goes in, only its memory.
            images_nCSS = torch.utils.dlpack.from_dlpack(images_nCSS)
            torch._dynamo.maybe_mark_dynamic(images_nCSS, 0)
            torch._dynamo.maybe_mark_dynamic(keys_n, 0)
        with self._compute.autocast(), self._model.slice_keys.of(keys_n):
            return self._embed_images(images_nCSS)

    def _losses(
        self, embeddings_NF: torch.Tensor, batch: SeriesBatch, weights: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the losses to report [2], of slices and of series, and the objective to minimise."""
        slice_weight, series_weight = weights
        none = torch.zeros((), device=embeddings_NF.device)
        auxiliary = series_loss = none
        if self._model.slice_classifier is not None:
            logits_NL = self._model.classify_slices(embeddings_NF)
            auxiliary = self._bce(logits_NL, batch.labels, batch.label_mask) / slice_weight
        if not self._is_joint:
            return torch.stack([auxiliary.detach(), none]), auxiliary
        logits = self._model.classify(embeddings_NF, batch.series_lengths)
        loss = self._bce(logits.slices, batch.labels, batch.label_mask) / slice_weight
        if logits.series is not None:
            series_loss = self._bce(logits.series, batch.series_labels, batch.series_mask) / series_weight
        config = self._config.model
        total = loss + config.slice_loss_weight * auxiliary + config.study_loss_weight * series_loss
        return torch.stack([loss.detach(), series_loss.detach()]), total

    def _bce(self, logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        total, _ = weighted_bce(logits, labels, mask, label_weights_L=self._label_weights_L)
        return total


def _n_own(batch: SeriesBatch) -> int:
    return sum(map(len, batch.chunks))
