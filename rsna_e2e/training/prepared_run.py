"""Prepares a training run up to its first step: its data, its model on the device, its loaders and its phases."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self

import numpy as np
import torch

from rsna_e2e.config import RunConfig, resolve_task
from rsna_e2e.core.device import Compute, check_compute, choose_compute
from rsna_e2e.core.errors import UsageError, is_out_of_memory
from rsna_e2e.core.records import Rows
from rsna_e2e.loader.choice import check_order, choose_loader, count_channels
from rsna_e2e.loader.division import Division
from rsna_e2e.loader.holdout import check_learned, check_unseen, hold_out
from rsna_e2e.loader.series_loader import SeriesLoader
from rsna_e2e.model.box_model import BoxModel
from rsna_e2e.model.make import Network, make_network
from rsna_e2e.store import Store, rows_of
from rsna_e2e.store.embeddings import Embeddings
from rsna_e2e.store.reader import check_labels
from rsna_e2e.tasks.task import Task, task_sha256
from rsna_e2e.training.checkpoint import Checkpoint, CheckpointState
from rsna_e2e.training.chunk_size import resolve_chunks
from rsna_e2e.training.distributed import ALONE, Ranks
from rsna_e2e.training.initial_weights import load_all, load_backbone_of
from rsna_e2e.training.phases import Phase, check_norms, divide, plan_phases

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunData:
    """The data of a run: series of a store, by their positions in it, and the input of the model.

    embeddings: the input of a model without a backbone. n_channels: of that input. training, held_out: positions of the
    series to train on and to score on.
    """

    store: Store
    task: Task
    embeddings: Embeddings | None
    n_channels: int
    training: list[int]
    held_out: list[int]

    @classmethod
    def of(cls, store: Store, config: RunConfig, *, embeddings: Embeddings | None = None) -> Self:
        """Return the data that `config` takes from a store.

        Raises BadInputError for a store prepared for another task; UsageError when embeddings are missing or too many,
        when slices have no order or another than is configured, when no series is left to train on, and when the
        classifier of the embeddings saw what is held out, or the one fold that is learned from.
        """
        task = resolve_task(config)
        check_labels(store, task)
        check_order(store, config)
        n_channels = count_channels(config, task, embeddings)
        training, held_out = hold_out(store, config)
        if config.model.finds_boxes:
            _check_boxes(store, training, held_out)
        if embeddings is not None and config.training_fold is not None:
            check_learned(embeddings, config)
        if embeddings is not None and held_out:
            check_unseen(embeddings, config)
        return cls(
            store=store,
            task=task,
            embeddings=embeddings,
            n_channels=n_channels,
            training=training,
            held_out=held_out,
        )

    @property
    def training_rows(self) -> Rows:
        """The store rows of the slices to train on."""
        return rows_of([self.store.series[position] for position in self.training])

    @property
    def data_hash(self) -> str:
        """Identifies the store and the embeddings: a run is resumed only on the same."""
        return self.store.data_hash if self.embeddings is None else self.embeddings.data_hash


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRun:
    """A run before its first step. config: as given, with numbers for `chunk` and `graph_slices`."""

    data: RunData
    config: RunConfig
    compute: Compute
    ranks: Ranks
    model: Network
    phases: tuple[Phase, ...]

    def first_state(self) -> CheckpointState:
        """Return where the run stands before its first step."""
        data, phase = self.data, self.phases[0].kind
        return CheckpointState(
            step=0, epoch=0, phase=phase, data_hash=data.data_hash, task_sha256=task_sha256(data.task)
        )

    def check_norms(self, *phases: Phase) -> None:
        """Raise UsageError when a normalisation layer would get a single value per channel in one of `phases`."""
        check_norms(
            self.model,
            self.config,
            {phase.kind: phase.smallest_chunk for phase in phases},
            spans=[self.data.store.series[position] for position in self.data.training],
            n_channels=self.data.n_channels,
        )


def _check_boxes(store: Store, training: Sequence[int], held_out: Sequence[int]) -> None:
    """Raise UsageError where no image to train on has a box, and warn where none to score on has one."""

    def has_box(positions: Sequence[int]) -> bool:
        return bool(np.isin(store.boxes.images, rows_of(store.series[position] for position in positions)).any())

    if not has_box(training):
        raise UsageError(
            f"{store.path}: none of the images to train on has a box. Give a table of boxes: rsna-e2e label STORE "
            "TABLE --task TASK --replace"
        )
    if held_out and not has_box(held_out):
        logger.warning("no image of the fold that is held out has a box: what is found there cannot be scored")


def prepare_run(
    data: RunData,
    config: RunConfig,
    *,
    device: str = "auto",
    ranks: Ranks = ALONE,
    init_from: Path | None = None,
    init_backbone: Path | None = None,
    last: Checkpoint | None = None,
) -> PreparedRun:
    """Prepare a run on `device`; nothing is written.

    init_from: a run folder or a safetensors file of a joint model to start from. init_backbone: a run folder, of any
    task, whose backbone to start from. last: the checkpoint that the run will be resumed from. Raises
    MissingCapabilityError when the device cannot compute as configured, OutOfResourcesError when not even a few slices
    fit its memory, BadInputError for unusable weights, UsageError for images that the backbone does not take.
    """
    compute = choose_compute(config.precision, device, local_rank=ranks.local_rank, cpu_threads=config.cpu_threads)
    check_compute(compute, compiles=config.compile)
    model = _make_model(data, config, compute, ranks, init_from=init_from, init_backbone=init_backbone, last=last)
    settled = resolve_chunks(model, config, data.task, compute, ranks=ranks)
    loader_at = make_loaders(data, settled, compute, division=divide(model, settled, ranks))
    phases = plan_phases(settled, lambda epoch: loader_at(settled.image.size_at(epoch)), data.training)
    return PreparedRun(data=data, config=settled, compute=compute, ranks=ranks, model=model, phases=phases)


def make_loaders(
    data: RunData, config: RunConfig, compute: Compute, *, division: Division
) -> Callable[[int], SeriesLoader]:
    """Return a function that gives the loader of a rank's share for images of a side, pixels; each is made once."""

    @cache
    def loader(size: int) -> SeriesLoader:
        sized = config.model_copy(update={"image": config.image.model_copy(update={"size": size})})
        return choose_loader(
            data.store, sized, task=data.task, compute=compute, embeddings=data.embeddings, division=division
        )

    return loader


def _make_model(
    data: RunData,
    config: RunConfig,
    compute: Compute,
    ranks: Ranks,
    *,
    init_from: Path | None,
    init_backbone: Path | None,
    last: Checkpoint | None,
) -> Network:
    """Return the model on its device, the same on every rank, with the weights that training starts from."""
    torch.manual_seed(config.seed)
    has_weights = any(given is not None for given in (init_from, init_backbone, last))
    architecture = config.model.without_initial_weights() if has_weights else config.model
    model = make_network(architecture, data.task, n_channels=data.n_channels)
    if last is None and init_from is not None:
        load_all(model, init_from, data.task)
    if last is None and init_backbone is not None:
        load_backbone_of(model, init_backbone, config, n_channels=data.n_channels)
    model = compute.place(model)
    ranks.broadcast_(model)
    _try_one_image(model, config, compute, n_channels=data.n_channels)
    return model


@torch.inference_mode()
def _try_one_image(model: Network, config: RunConfig, compute: Compute, *, n_channels: int) -> None:
    """Find out before anything is written whether the backbone takes images of these sizes."""
    for size in sorted({config.image.size, *config.image.size_from_epoch.values()}):
        image = torch.zeros(1, n_channels, size, size, dtype=compute.image_dtype, device=compute.device)
        try:
            with compute.autocast():
                if isinstance(model, BoxModel):
                    model.eval().find(image)
                else:
                    model.eval().embed(image)
        except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
            if is_out_of_memory(error):
                raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UsageError(f"{config.model.backbone} does not take images of {size} px: {reason}") from None
