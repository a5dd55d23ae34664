"""One series of made-up images, and training's forward and backward passes over it: what `bench chunked` measures."""

# N slices, C windows, S image side, F features of the backbone, L labels

from typing import Any

import torch
from torch.optim import AdamW
from torch.utils.flop_counter import FlopCounterMode

from rsna_e2e.bench.memory import Memory, return_freed_memory
from rsna_e2e.chunked import Backward, backward_in_chunks, make_chunks
from rsna_e2e.config import RunConfig
from rsna_e2e.device import choose_compute
from rsna_e2e.losses import weighted_bce
from rsna_e2e.model import JointModel
from rsna_e2e.tasks import get_task

CHUNK = 16  # slices, where the configuration leaves it open
KEY = "series"
LEARNING_RATE = 1e-6  # the weights may stay as they are


class SeriesStep:
    """A model that starts from nothing, and one series of `n_slices` on the device, in the precision of the run.

    Chunks keep no more graphs than the configuration says; where it leaves that open, those of one chunk.
    n_channels: of the images, by default a channel for each window.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        n_slices: int,
        n_channels: int | None = None,
        device: str = "auto",
        compiled: bool = False,
    ) -> None:
        task = get_task(config.task)
        self.compute = choose_compute(config.precision, device, cpu_threads=config.cpu_threads)
        self.n_slices, self._seed = n_slices, config.seed
        self.chunk = CHUNK if config.chunk == "auto" else config.chunk
        self.graph_slices = self.chunk if config.graph_slices == "auto" else config.graph_slices
        torch.manual_seed(config.seed)
        n_channels, n_labels, size = n_channels or len(task.windows_hu), len(task.label_names), config.image.size
        model = JointModel(config.model.without_initial_weights(), n_channels=n_channels, n_labels=n_labels)
        self._model = self.compute.place(model).train()
        self._optimizer = AdamW(self._model.parameters(), lr=LEARNING_RATE, fused=True)
        self._backbone: Any = torch.compile(self._model.backbone) if compiled else self._model.backbone
        self._images = torch.empty(
            (n_slices, n_channels, size, size),
            dtype=self.compute.image_dtype,
            device=self.compute.device,
            memory_format=torch.channels_last,
        ).uniform_(-1.0, 1.0)
        self._labels = torch.zeros(n_slices, n_labels, device=self.compute.device)
        self._label_weights = torch.tensor(task.label_weights, device=self.compute.device)

    def in_chunks(self) -> Backward:
        """Gradients of the series, chunk by chunk."""
        self._model.zero_grad(set_to_none=True)
        return backward_in_chunks(
            self._model,
            self._embed,
            self._images,
            make_chunks([self.n_slices], [KEY], chunk_size=self.chunk),
            self._loss,
            seed=self._seed,
            step=0,
            graph_slices=self.graph_slices,
        )

    def in_one_graph(self) -> torch.Tensor:
        """Gradients of the series, all at once."""
        self._model.zero_grad(set_to_none=True)
        loss = self._loss(self._embed(self._images))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def head_alone(self) -> torch.Tensor:
        """Gradients of the heads, from embeddings that are given."""
        embeddings_NF = torch.rand(
            self.n_slices, self._model.n_features, device=self.compute.device, requires_grad=True
        )
        loss = self._loss(embeddings_NF)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def train(self) -> None:
        """A whole step: gradients in chunks, and the optimiser's update."""
        self.in_chunks()
        self._optimizer.step()

    @torch.inference_mode()
    def infer(self) -> torch.Tensor:
        """Logits of the series."""
        self._model.eval()
        return self._model.classify(self._embed(self._images), torch.tensor([self.n_slices])).slices

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
            features_NF: torch.Tensor = self._backbone(images_NCSS)
        return features_NF.float()

    def _loss(self, embeddings_NF: torch.Tensor) -> torch.Tensor:
        logits = self._model.classify(embeddings_NF, torch.tensor([self.n_slices])).slices
        known = torch.ones_like(self._labels, dtype=torch.bool)
        total, weight = weighted_bce(logits, self._labels, known, label_weights_L=self._label_weights)
        return total / weight


def measure_peak(config: RunConfig, device: str, n_slices: int, *, is_whole: bool) -> float:
    """Return the most memory, MiB, that this process ever held over one pass in chunks, or of the heads alone.

    To be called in a fresh process. On a GPU: what tensors took; on a CPU: what was resident.
    """
    return_freed_memory()
    step = SeriesStep(config, n_slices=n_slices, device=device)
    if is_whole:
        step.in_chunks()
    else:
        step.head_alone()
    if step.compute.device.type == "cuda":
        return torch.cuda.max_memory_allocated(step.compute.device) / 2**20
    return Memory.read().peak_mib
