"""The objective of networks that find boxes: the losses of the network, over all images whose boxes are known.

Every rank computes the losses of its own images, so all gradients are summed over ranks. Where a network draws at
random which candidates it learns from, or normalises over its images, losses depend on how images are divided.
"""

# n images of a rank

from collections.abc import Callable, Sequence

import torch
from torch import nn

from rsna_e2e.config import RunConfig
from rsna_e2e.core.device import Compute
from rsna_e2e.loader.batch import BatchBoxes, SeriesBatch
from rsna_e2e.model.box_model import BoxModel
from rsna_e2e.model.chunked_backward import derive_seed
from rsna_e2e.model.norms import freeze_norms
from rsna_e2e.training.distributed import Ranks


class BoxObjective:
    """What a phase on single images minimises: the mean over images of the sum of the network's losses."""

    has_series_loss = False

    def __init__(self, model: BoxModel, config: RunConfig, compute: Compute, *, ranks: Ranks) -> None:
        self._model, self._config, self._compute, self._ranks = model, config, compute, ranks
        self.names = ("loss", *model.loss_names)

    @property
    def summed(self) -> list[nn.Parameter]:
        """All weights."""
        return list(self._model.parameters())

    def set_modes(self, *, frozen: Sequence[nn.Module]) -> None:
        """Put the model into the mode of a step, its norms as configured."""
        self._model.train()
        for module in frozen:
            module.eval()
        if self._config.model.batchnorm == "frozen":
            freeze_norms(self._model)

    def totals(self, batches: Sequence[SeriesBatch]) -> torch.Tensor:
        """Return how many images of all ranks the losses are the mean over."""
        known = torch.stack([_boxes(batch).known.sum() for batch in batches]).sum()
        return self._ranks.sum_(known.to(torch.float64)).clamp(min=1).float()

    def backward(
        self,
        batch: SeriesBatch,
        totals: torch.Tensor,
        *,
        step: int,
        scaler: torch.amp.GradScaler,
        before_last: Callable[[], None],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add this batch's gradients; return its parts of the losses to report, and 0: nothing is computed twice."""
        boxes, device = _boxes(batch), self._compute.device
        reported, nothing = torch.zeros(len(self.names), device=device), torch.zeros((), device=device)
        before_last()
        if not bool(boxes.known.any()):
            return reported, nothing
        torch.manual_seed(derive_seed(self._config.seed, step, batch.series_keys[0], "boxes", self._ranks.rank))
        images_nCSS = batch.images[0 : len(boxes.known)][boxes.known]
        with self._compute.autocast():
            losses = self._model.losses(images_nCSS, only_known(boxes))
        parts = torch.stack([losses[name].float() / totals for name in self._model.loss_names])
        total = parts.sum()
        scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        reported.copy_(torch.cat([total.reshape(1), parts]).detach())
        return reported, nothing

    def of_all_ranks(self, reported: torch.Tensor) -> torch.Tensor:
        """Return the losses of all ranks, of which every one has its part."""
        return self._ranks.sum_(reported)


def only_known(boxes: BatchBoxes) -> BatchBoxes:
    """Return the boxes of the images all of whose boxes are known, numbered among these."""
    number_n = boxes.known.cumsum(0) - 1
    return BatchBoxes(
        edges=boxes.edges,
        classes=boxes.classes,
        images=number_n[boxes.images],
        known=boxes.known[boxes.known],
    )


def _boxes(batch: SeriesBatch) -> BatchBoxes:
    assert batch.boxes is not None, "a task with boxes"
    return batch.boxes
