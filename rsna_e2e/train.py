"""Joint training of backbone and head on whole series."""

# N slices (packed), L labels

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from rsna_e2e.batch import StudyBatch
from rsna_e2e.checkpoint import Best, CheckpointState, find_checkpoint, load_model, save_checkpoint
from rsna_e2e.config import OptimizerConfig, RunConfig
from rsna_e2e.device import Compute, choose_compute
from rsna_e2e.errors import DivergedError, UsageError
from rsna_e2e.files import write_json
from rsna_e2e.loader import StudyLoader
from rsna_e2e.meter import Meter
from rsna_e2e.metrics import auc, weighted_log_loss
from rsna_e2e.model import JointModel
from rsna_e2e.predict import check_labels, predict_series
from rsna_e2e.records import Float64Array, Progress, no_progress
from rsna_e2e.runlog import RunLog
from rsna_e2e.sampler import Batch
from rsna_e2e.steps import Stepper
from rsna_e2e.store import Store
from rsna_e2e.tasks import Task, get_task
from rsna_e2e.tensors import load_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Scores on the held-out fold: weighted log loss, and AUC of the any-label over slices (NaN with one class)."""

    weighted_log_loss: float
    any_auc: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSummary:
    """How a run ended. best: validation of the best epoch, None without a validation fold.

    stalls: steps whose batch was not there when it was asked for; stall_share: waiting for batches, as a part of the
    time.
    """

    steps: int
    slices_per_s: float
    stalls: int
    stall_share: float
    best_epoch: int
    best: Validation | None
    compute: Compute


def train(
    store: Store,
    run: Path,
    config: RunConfig,
    *,
    device: str = "auto",
    init_from: Path | None = None,
    progress: Progress = no_progress,
) -> TrainSummary:
    """Train the joint model of `config` on the labelled series of `store`; leave everything in `run`.

    init_from: a run folder or a safetensors file of a joint model to start from. Raises UsageError when `run` exists or
    no series is left to train on, BadInputError for unusable weights, DivergedError when the loss is not finite.
    """
    task = get_task(config.task)
    check_labels(store, task)
    training, held_out = _split(store, config)
    compute = choose_compute(config.precision, device)
    torch.manual_seed(config.seed)
    model = compute.place(_build_model(config, task, init_from))
    _try_one_image(model, config, task, compute)
    loader = StudyLoader(store, config, task=task, device=compute.device, dtype=compute.image_dtype)
    phases = _plan(config, loader, training)
    with RunLog(run, config, data_hash=store.data_hash, compute=compute, loader=loader.backend) as log:

        def validate() -> Validation | None:
            return _validate(model, loader, held_out, store, task, compute) if held_out else None

        summary = _fit(model, phases, config, task, compute, validate=validate, log=log, progress=progress)
    write_json(run / "summary.json", asdict(summary) | {"compute": str(compute)})
    return summary


@dataclass(frozen=True, slots=True, kw_only=True)
class _Phase:
    """Part of a run: its batches epoch by epoch, what loads them, and whether the head takes part."""

    kind: Literal["slices", "series"]
    first_epoch: int
    epochs: Sequence[Sequence[Batch]]
    n_slices: int
    load: Callable[..., Iterator[StudyBatch]]
    optimizer: OptimizerConfig

    @property
    def n_steps(self) -> int:
        return sum(map(len, self.epochs))


def _plan(config: RunConfig, loader: StudyLoader, training: Sequence[int]) -> list[_Phase]:
    phases: list[_Phase] = []
    first = 1
    if config.slice_phase is not None:
        size = config.slice_phase.slices_per_batch
        epochs = [
            loader.group_slices(training, batch_size=size, epoch=epoch)
            for epoch in range(1, config.slice_phase.epochs + 1)
        ]
        phases.append(
            _Phase(
                kind="slices",
                first_epoch=first,
                epochs=epochs,
                n_slices=sum(len(batch) for batches in epochs for batch in batches),
                load=loader.load_slices,
                optimizer=config.slice_phase.optimizer,
            )
        )
        first += config.slice_phase.epochs
    epochs = [loader.group(training, epoch=epoch) for epoch in range(first, first + config.epochs)]
    phases.append(
        _Phase(
            kind="series",
            first_epoch=first,
            epochs=epochs,
            n_slices=sum(loader.n_slices(batch) for batches in epochs for batch in batches),
            load=loader.load,
            optimizer=config.optimizer,
        )
    )
    return phases


def _fit(
    model: JointModel,
    phases: Sequence[_Phase],
    config: RunConfig,
    task: Task,
    compute: Compute,
    *,
    validate: Callable[[], Validation | None],
    log: RunLog,
    progress: Progress,
) -> TrainSummary:
    last_epoch = phases[-1].first_epoch + len(phases[-1].epochs) - 1
    meter = Meter(log, progress, n_slices=sum(phase.n_slices for phase in phases), n_epochs=last_epoch)
    best: Validation | None = None
    best_epoch, best_step = last_epoch, 0
    for phase in phases:
        is_joint = phase.kind == "series"
        stepper = Stepper(model, phase.optimizer, config, task, compute, n_steps=phase.n_steps, is_joint=is_joint)
        for epoch, batches in enumerate(phase.epochs, start=phase.first_epoch):
            for batch in meter.watch(phase.load(batches, epoch=epoch)):
                meter.record(phase.kind, epoch, batch, stepper(batch))
            validation = validate() if is_joint else None
            if validation:
                log.write("validation", meter.step, epoch=epoch, **asdict(validation))
            if validation and (best is None or validation.weighted_log_loss < best.weighted_log_loss):
                best, best_epoch, best_step = validation, epoch, meter.step
            _check_finite(model, epoch)
            state = CheckpointState(
                step=meter.step,
                epoch=epoch,
                phase=phase.kind,
                data_hash=log.data_hash,
                validation_loss=validation.weighted_log_loss if validation else None,
                best=_describe_best(best_step, best_epoch, best) if best else None,
            )
            save_checkpoint(log.run, state, model=model, keep_last=config.checkpoint.keep_last)
    return TrainSummary(
        steps=meter.step,
        slices_per_s=meter.slices_per_s,
        stalls=meter.stalls,
        stall_share=meter.stall_share,
        best_epoch=best_epoch,
        best=best,
        compute=compute,
    )


def _check_finite(model: JointModel, epoch: int) -> None:
    """Refuse to save weights that no step can mend."""
    for name, tensor in model.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise DivergedError(f"{name} is not finite after epoch {epoch}. Lower optimizer.learning_rate")


@torch.inference_mode()
def _try_one_image(model: JointModel, config: RunConfig, task: Task, compute: Compute) -> None:
    """Find out before anything is written whether the backbone takes images of this size."""
    size = config.image.size
    image = torch.zeros(1, len(task.windows_hu), size, size, device=compute.device)
    try:
        model.eval().embed(image)
    except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"{config.model.backbone} does not take images of {size} px: {reason}") from None


def _describe_best(step: int, epoch: int, best: Validation) -> Best:
    scores = {name: value if math.isfinite(value) else None for name, value in asdict(best).items()}
    return Best(step=step, epoch=epoch, validation_loss=best.weighted_log_loss, validation=scores)


def _validate(
    model: JointModel,
    loader: StudyLoader,
    held_out: Sequence[int],
    store: Store,
    task: Task,
    compute: Compute,
) -> Validation:
    rows, probability = predict_series(model, loader, held_out, compute=compute)
    truth: Float64Array = store.labels[rows].astype(np.float64)
    known = ~np.isnan(truth).any(axis=1)
    if not known.any():
        raise UsageError(
            "the validation fold has no slice with all its labels. Choose another with --set validation_fold=N"
        )
    return Validation(
        weighted_log_loss=weighted_log_loss(truth[known], probability[known], np.array(task.label_weights)),
        any_auc=auc(truth[known, task.any_index], probability[known, task.any_index]),
    )


def _split(store: Store, config: RunConfig) -> tuple[list[int], list[int]]:
    """Positions in `store.series` to train on and to validate on."""
    labelled = [position for position, span in enumerate(store.series) if span.split == "train"]
    held_out = [p for p in labelled if store.series[p].fold == config.validation_fold]
    training = [p for p in labelled if store.series[p].fold != config.validation_fold]
    if not training:
        raise UsageError(
            f"{store.path}: no labelled series to train on outside fold {config.validation_fold} "
            f"({len(labelled)} labelled in all). Prepare with --labels, or --set validation_fold=null"
        )
    if config.validation_fold is not None and not held_out:
        folds = sorted({store.series[p].fold for p in labelled})
        raise UsageError(f"{store.path}: no series in fold {config.validation_fold}; it has folds {folds}")
    return training, held_out


def _build_model(config: RunConfig, task: Task, init_from: Path | None) -> JointModel:
    architecture = config.model if init_from is None else config.model.without_initial_weights()
    model = JointModel(architecture, n_channels=len(task.windows_hu), n_labels=len(task.label_names))
    if init_from is not None and init_from.is_dir():
        load_model(model, find_checkpoint(init_from))
    elif init_from is not None:
        load_weights(model, init_from)
    return model
