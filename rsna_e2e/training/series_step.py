"""A training step over one series of random images, as the trainer takes it; benchmarks and forecasts measure it."""

# N slices, C windows, S image side, F features of the backbone, L labels

from itertools import count

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from rsna_e2e.config import RunConfig, resolve_task
from rsna_e2e.core.device import choose_compute
from rsna_e2e.core.process import return_freed_memory
from rsna_e2e.loader.batch import SeriesBatch
from rsna_e2e.loader.division import Chunk
from rsna_e2e.model.losses import weighted_bce
from rsna_e2e.model.network import JointModel
from rsna_e2e.tasks.task import Task
from rsna_e2e.training.chunk_size import resolve_chunks
from rsna_e2e.training.distributed import ALONE
from rsna_e2e.training.phases import check_norms, divide
from rsna_e2e.training.step import Stepper, StepResult

KEY = "series"
SCHEDULE_STEPS = 10**6  # more than are ever taken
LEARNING_RATE_FACTOR = 1e-3  # the weights may stay about as they are
_FEW = 4  # slices, from which norms take their statistics


class SeriesStep:
    """A model with the norms of a trained one, and one random series of `n_slices` on the device, to take steps on.

    `config` is the given one with numbers for `chunk` and `graph_slices`, found as training finds them. n_channels: of
    the images, by default a channel for each window. Raises OutOfResourcesError when not even a few slices fit.
    """

    def __init__(
        self, config: RunConfig, *, n_slices: int, n_channels: int | None = None, device: str = "auto"
    ) -> None:
        task = resolve_task(config)
        self.compute = choose_compute(config.precision, device, cpu_threads=config.cpu_threads)
        self.n_slices = n_slices
        torch.manual_seed(config.seed)
        with self.compute.device:  # random numbers for hundreds of millions of weights take a CPU seconds
            model = JointModel.for_task(config.model.without_initial_weights(), task, n_channels=n_channels)
        self._model = self.compute.place(model).train()
        n_channels = n_channels or len(task.inputs.windows_hu)
        self._images = self._make_images(n_slices, n_channels, config.image.size)
        self._settle_norms(self._make_images(_FEW, n_channels, config.image.size))
        self.config = resolve_chunks(self._model, config, task, self.compute)
        chunks = divide(self._model, self.config, ALONE).chunks([n_slices])
        check_norms(self._model, self.config, {"series": min(map(len, chunks))}, n_channels=n_channels)
        self.batch = made_up_batch(self._images, chunks, task)
        is_joint = config.model.head != "none"
        phase = config.optimizer if is_joint or config.slice_phase is None else config.slice_phase.optimizer
        self._stepper = Stepper(
            *(self._model, phase, self.config, task, self.compute), n_steps=SCHEDULE_STEPS, is_joint=is_joint
        )
        self._numbers = count()

    @property
    def n_features(self) -> int:
        """Width of the backbone's embeddings."""
        return self._model.n_features

    def train(self) -> StepResult:
        """Take a step as the trainer takes it, though a short one."""
        return self._stepper(next(self._numbers), [self.batch], learning_rate_factor=LEARNING_RATE_FACTOR)

    def head_alone(self) -> torch.Tensor:
        """Do the part of a step that is independent of chunks: hold gradients and moments of all parameters, and run
        the heads forward and backward over as many embeddings. Return their loss."""
        for parameter in self._model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self._stepper.optimizer.step()
        embeddings_NF = torch.rand(
            self.n_slices, self._model.n_features, device=self.compute.device, requires_grad=True
        )
        logits = self._model.classify(embeddings_NF, self.batch.series_lengths)
        weights_L = torch.ones(self.batch.labels.shape[1], device=self.compute.device)
        total, weight = weighted_bce(logits.slices, self.batch.labels, self.batch.label_mask, label_weights_L=weights_L)
        loss = total / weight
        if logits.series is not None:
            loss = loss + logits.series.mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    @torch.inference_mode()
    def infer(self) -> torch.Tensor:
        """Logits of the series."""
        self._model.eval()
        return self._model.classify(self._embed(self._images), self.batch.series_lengths).slices

    def synchronise(self) -> None:
        """Wait for the device."""
        if self.compute.device.type == "cuda":
            torch.cuda.synchronize(self.compute.device)

    @torch.no_grad()
    def flops_per_slice(self) -> float:
        """Floating-point operations of the backbone's forward and backward pass: three times those of the first.

        A gradient goes to the input and one to the weights of every layer (but to no image: under 1 % of a ResNet).
        torch counts the forward pass, a multiply-add as two; its count of the backward pass of grouped convolutions is
        as if they had no groups (torch 2.15). What is computed twice is not counted twice, and the heads not at all.
        """
        n = min(2, self.n_slices)
        with FlopCounterMode(display=False) as counter:
            self._embed(self._images[:n])
        return 3.0 * float(counter.get_total_flops()) / n

    def _embed(self, images_NCSS: torch.Tensor) -> torch.Tensor:
        with self.compute.autocast():
            return self._model.embed(images_NCSS)

    def _make_images(self, n_slices: int, n_channels: int, size: int) -> torch.Tensor:
        images_NCSS = torch.empty(
            (n_slices, n_channels, size, size),
            dtype=self.compute.image_dtype,
            device=self.compute.device,
            memory_format=torch.channels_last,
        )
        return images_NCSS.uniform_(-1.0, 1.0)

    @torch.no_grad()
    def _settle_norms(self, images_NCSS: torch.Tensor) -> None:
        """Give every BatchNorm the gain and the statistics of a trained one.

        A backbone that starts from nothing multiplies by a gain of 0 at the end of every block: its gradients would be
        zeros, which a GPU's matrix units multiply in less time than numbers; and the running statistics that frozen
        norms divide by would fit no activation.
        """
        norms = [module for module in self._model.modules() if isinstance(module, _BatchNorm)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0  # takes the statistics of this one pass
            if norm.affine:
                nn.init.ones_(norm.weight)
        if norms:
            self._embed(images_NCSS)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def made_up_batch(images: torch.Tensor, chunks: tuple[Chunk, ...], task: Task) -> SeriesBatch:
    """A batch of one series, all of it of this rank. images [N, C, S, S]; every label is known and 0."""
    n = len(images)
    labels = torch.zeros(n, len(task.slices), device=images.device)
    series_labels = torch.zeros(1, len(task.series_labels), device=images.device)
    return SeriesBatch(
        images=images,
        chunks=chunks,
        series_lengths=torch.tensor([n]),
        labels=labels,
        label_mask=torch.ones_like(labels, dtype=torch.bool),
        series_labels=series_labels,
        series_mask=torch.ones_like(series_labels, dtype=torch.bool),
        series_keys=(KEY,),
        rows=np.arange(n, dtype=np.int64),
    )


def measure_peak(config: RunConfig, device: str, n_slices: int, *, is_whole: bool) -> float:
    """Return the peak memory, MiB, of this process over a step, or over the part of it that is independent of chunks.

    To be called in a fresh process. On a GPU: what tensors took; on a CPU: what was resident.
    """
    return_freed_memory()
    step = SeriesStep(config, n_slices=n_slices, device=device)
    if is_whole:
        for _ in range(2):  # the optimiser has its moments from the second on
            step.train()
    else:
        step.head_alone()
    return step.compute.peak_mib()
