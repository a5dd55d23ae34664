"""One step of training: the gradients of an objective, summed over batches and ranks, checked, clipped, applied.

Ranks share the backbone's work, so its gradients are summed over them. Each computes those of the heads whole; that all
get the same bits is checked.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from rsna_e2e.config import OptimizerConfig, RunConfig
from rsna_e2e.core.device import Compute
from rsna_e2e.loader.batch import SeriesBatch
from rsna_e2e.model.box_model import BoxModel
from rsna_e2e.model.freezing import freeze
from rsna_e2e.model.make import Network
from rsna_e2e.model.norms import moving_buffers, snapshot
from rsna_e2e.tasks.task import Task
from rsna_e2e.training.distributed import ALONE, Ranks
from rsna_e2e.training.gradient_sum import GradientSum, fill_missing
from rsna_e2e.training.objectives import BoxObjective, LabelObjective, Objective
from rsna_e2e.training.optimizer import make_optimizer, make_schedule, set_learning_rates

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What a step did, the same on every rank.

    loss: that of the task's score, over the known labels of the batches; series_loss: of the series, NaN without that
    head; parts: of networks that find boxes, the losses by name that it is the sum of. gradient_norm: before clipping.
    learning_rate: of the backbone. is_skipped: loss or gradient was not finite,
    and nothing was changed. is_overflow: the only cause was fp16 overflow; GradScaler has lowered its scale for the
    next step. recompute_error: see `chunked_backward.Backward`, the largest of all ranks. heads_agree: all ranks got
    the same bits of the heads' gradients; otherwise those of the main rank were sent to all, which takes time.
    busy_share: slices that all ranks embedded, as a part of what they could have embedded in the time of the busiest.
    """

    loss: float
    series_loss: float
    parts: Mapping[str, float] = field(default_factory=dict)
    gradient_norm: float
    learning_rate: float
    is_skipped: bool
    is_overflow: bool
    recompute_error: float
    heads_agree: bool
    busy_share: float


class Stepper:
    """Takes the optimiser steps of one phase on one model, with the gradients of its `Objective`.

    The phase has `n_steps` steps from `first_step` on.
    """

    def __init__(
        self,
        model: Network,
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
        self._model, self._config, self._compute, self._ranks = model, config, compute, ranks
        self._first_step = first_step
        self._has_disagreed = False
        self._frozen: Sequence[nn.Module] = ()
        self._learns_from = None if is_joint or config.slice_phase is None else config.slice_phase.learns_from
        self._clip_norm = optimizer.clip_norm
        self._factor = make_schedule(optimizer, n_steps=n_steps)
        self._objective = _objective(model, config, task, compute, is_joint=is_joint, ranks=ranks)
        self.optimizer = make_optimizer(model, optimizer, compute.device)
        self.scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.needs_scaler)

    def freeze_backbone(self, is_frozen: bool) -> None:
        """Freeze the backbone from now on, or train it again, on single slices from `slice_phase.learns_from` on."""
        self._frozen = freeze(self._model.backbone, learns=not is_frozen, learns_from=self._learns_from)

    def __call__(
        self, step: int, batches: Sequence[SeriesBatch], *, learning_rate_factor: float | None = None
    ) -> StepResult:
        """Take step number `step` on `batches`, which are accumulated, each with this rank's share of its images.

        learning_rate_factor: on the configured learning rates, instead of the schedule's.
        """
        self._objective.set_modes(frozen=self._frozen)
        if learning_rate_factor is None:
            learning_rate_factor = self._factor(step - self._first_step)
        set_learning_rates(self.optimizer, learning_rate_factor)
        self.optimizer.zero_grad()
        restore_buffers = snapshot(moving_buffers(self._model))
        losses, recompute_error, heads_agree = self._accumulate(step, batches)
        found = self._read(losses, self._clip(), recompute_error, batches)
        parts = dict(zip(self._objective.names, found, strict=False))
        gradient_norm, error, *largest_shares = found[len(parts) :]
        is_finite_loss = all(map(math.isfinite, parts.values()))
        is_skipped = not (is_finite_loss and math.isfinite(gradient_norm))
        loss, series_loss = parts.pop("loss"), parts.pop("series_loss", 0.0)
        if is_skipped:
            restore_buffers()
        else:
            self.scaler.step(self.optimizer)
            self._ranks.average_buffers_(self._model.backbone, weight=sum(map(_n_own, batches)))
        self.scaler.update()
        return StepResult(
            loss=loss,
            series_loss=series_loss if self._objective.has_series_loss else math.nan,
            parts=parts,
            gradient_norm=gradient_norm,
            learning_rate=float(self.optimizer.param_groups[0]["lr"]),
            is_skipped=is_skipped,
            is_overflow=is_skipped and is_finite_loss and self._scale_is_above_1(),
            recompute_error=error,
            heads_agree=heads_agree,
            busy_share=sum(len(batch.rows) for batch in batches) / (self._ranks.n_ranks * sum(largest_shares)),
        )

    def _read(
        self, losses: torch.Tensor, norm: torch.Tensor, recompute_error: torch.Tensor, batches: Sequence[SeriesBatch]
    ) -> list[float]:
        """Return the losses, the norm, the largest error of all ranks, and of each batch the largest share of a rank;
        the device is waited for once."""
        own = torch.tensor([float(_n_own(batch)) for batch in batches], device=self._compute.device)
        largest = self._ranks.max_(torch.cat([recompute_error, own]))
        values: list[float] = torch.cat([losses, norm.reshape(1), largest]).tolist()
        return values

    def _accumulate(self, step: int, batches: Sequence[SeriesBatch]) -> tuple[torch.Tensor, torch.Tensor, bool]:
        """Leave the gradients of all batches, summed over ranks; return the losses, this rank's error of recomputation,
        and whether ranks agreed on the heads."""
        summed, n_losses = list(self._objective.summed), len(self._objective.names)
        sums = GradientSum(self._ranks, summed, bucket_mib=self._config.distributed.bucket_mib)
        losses, recompute_error = torch.zeros(n_losses + 1, device=self._compute.device).tensor_split([n_losses])
        totals = self._objective.totals(batches)
        for batch in batches:
            # From the last pass of the last batch on, gradients are sent as they become final; no other collective may
            # run meanwhile
            before_last = sums.begin if batch is batches[-1] else _nothing
            some_losses, error = self._objective.backward(
                batch, totals, step=step, scaler=self.scaler, before_last=before_last
            )
            losses += some_losses
            torch.maximum(recompute_error, error, out=recompute_error)
        sums.finish()
        losses, are_summed = self._objective.of_all_ranks(losses), set(summed)
        of_heads = fill_missing(p for p in self._model.parameters() if p not in are_summed)
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


def _objective(
    model: Network, config: RunConfig, task: Task, compute: Compute, *, is_joint: bool, ranks: Ranks
) -> Objective:
    if isinstance(model, BoxModel):
        return BoxObjective(model, config, compute, ranks=ranks)
    return LabelObjective(model, config, task, compute, is_joint=is_joint, ranks=ranks)


def _n_own(batch: SeriesBatch) -> int:
    return sum(map(len, batch.chunks))


def _nothing() -> None:
    pass
