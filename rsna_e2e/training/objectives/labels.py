"""The objective of whole series: exact gradients of a loss through heads and backbone, chunk by chunk, by many ranks.

Every rank embeds its own chunks of a batch and computes the heads on the embeddings of all ranks. That takes no longer
than on its own part, because the time of an LSTM depends on the length of the series, not on their number. So the
heads' gradients, most of the bytes, need not be summed.
"""

# N slices of a batch (packed), n of them in a chunk, C windows, S image side, F features of an embedding, L labels

from collections.abc import Callable, Sequence

import torch
from torch import nn

from rsna_e2e.config import RunConfig
from rsna_e2e.core.device import Compute
from rsna_e2e.loader.batch import SeriesBatch
from rsna_e2e.model.chunked_backward import backward_in_chunks, derive_seed
from rsna_e2e.model.network import JointModel
from rsna_e2e.model.norms import freeze_norms
from rsna_e2e.model.slice_dropout import slice_keys
from rsna_e2e.tasks.task import Task
from rsna_e2e.training.distributed import Ranks
from rsna_e2e.training.objectives.losses import Totals, loss_of


class LabelObjective:
    """What one phase minimises: the loss of a task's score, and the auxiliary one of the classifier of single slices.

    is_joint: the heads take part, on whole series; otherwise backbone and slice classifier learn alone, on single
    slices. `config.graph_slices` is a number by now.
    """

    def __init__(
        self, model: JointModel, config: RunConfig, task: Task, compute: Compute, *, is_joint: bool, ranks: Ranks
    ) -> None:
        assert config.graph_slices != "auto"
        self._model, self._config, self._compute, self._ranks = model, config, compute, ranks
        self._graph_slices, self._is_joint = config.graph_slices, is_joint
        self._loss = loss_of(task, config.model, compute.device)
        for head in (model.head, model.study_head):
            if head is not None:
                head.requires_grad_(is_joint)
        self._embed_images = torch.compile(model.embed) if config.compile else model.embed

    names: tuple[str, ...] = ("loss", "series_loss")  # of the losses to report

    @property
    def has_series_loss(self) -> bool:
        """Whether there is a loss of series to report."""
        return self._is_joint and self._model.study_head is not None

    @property
    def summed(self) -> list[nn.Parameter]:
        """Those of the backbone."""
        return list(self._model.backbone.parameters())

    def set_modes(self, *, frozen: Sequence[nn.Module]) -> None:
        """Put the model into the mode of a step, its norms as configured."""
        self._model.train()
        for module in frozen:
            module.eval()
        if self._is_joint and self._config.model.batchnorm == "frozen":
            freeze_norms(self._model)

    def totals(self, batches: Sequence[SeriesBatch]) -> Totals:
        """Return the weights of all their known labels."""
        return self._loss.totals(batches)

    def backward(
        self,
        batch: SeriesBatch,
        totals: Totals,
        *,
        step: int,
        scaler: torch.amp.GradScaler,
        before_last: Callable[[], None],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add this batch's gradients; return its parts of the two losses to report [2], and the error of recomputation.

        Every rank takes part, also those without slices. before_last: see `backward_in_chunks`.
        """
        reported = torch.zeros(2, device=self._compute.device)
        keys_N = slice_keys(derive_seed(self._config.seed, step), torch.from_numpy(batch.rows).to(self._compute.device))

        def minimised(embeddings_NF: torch.Tensor) -> torch.Tensor:
            loss, total = self._losses(embeddings_NF, batch, totals)
            reported.copy_(loss)
            scaled: torch.Tensor = scaler.scale(total)
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
            minimised,
            seed=derive_seed(self._config.seed, step, batch.series_keys[0]),
            graph_slices=self._graph_slices,
            gather=None if self._ranks.n_ranks == 1 else gather,
            before_last=before_last,
        )
        return reported, done.recompute_error

    def of_all_ranks(self, reported: torch.Tensor) -> torch.Tensor:
        """Return the losses of all ranks: those of any, as each computes the heads on all slices."""
        return reported

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
        self, embeddings_NF: torch.Tensor, batch: SeriesBatch, totals: Totals
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the losses to report [2], and what is minimised."""
        none = torch.zeros((), device=embeddings_NF.device)
        auxiliary = series = none
        if self._model.slice_classifier is not None:
            logits_NL = self._model.classify_slices(embeddings_NF)
            auxiliary = self._loss.of_single_slices(logits_NL, batch) / totals.classifier
        if not self._is_joint:
            return torch.stack([auxiliary.detach(), none]), auxiliary
        logits = self._model.classify(embeddings_NF, batch.series_lengths)
        slices = self._loss.of_slices(logits.slices, batch) / totals.slices
        if logits.series is not None:
            series = self._loss.of_series(logits.series, batch) / totals.series
        config = self._config.model
        total = config.sequence_loss_weight * slices + config.slice_loss_weight * auxiliary
        return self._loss.reported(slices.detach(), series.detach()), total + self._loss.series_factor * series
