"""Joint training of backbone and head on whole series."""

# N slices (packed), L labels

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from rsna_e2e.batch import StudyBatch
from rsna_e2e.checkpoint import CheckpointState, find_checkpoint, load_checkpoint, save_checkpoint
from rsna_e2e.config import OptimizerConfig, RunConfig
from rsna_e2e.device import Compute, choose_compute
from rsna_e2e.errors import DivergedError, UsageError
from rsna_e2e.files import atomic_writer
from rsna_e2e.loader import StudyLoader
from rsna_e2e.losses import weighted_bce
from rsna_e2e.metrics import auc, weighted_log_loss
from rsna_e2e.model import JointModel, load_weights
from rsna_e2e.predict import check_labels, predict_series
from rsna_e2e.records import Float64Array, Progress, no_progress
from rsna_e2e.runlog import RunLog
from rsna_e2e.sampler import Batch
from rsna_e2e.store import Store
from rsna_e2e.tasks import Task, get_task


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Scores on the held-out fold: weighted log loss, and AUC of the any-label over slices (NaN with one class)."""

    weighted_log_loss: float
    any_auc: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSummary:
    """How a run ended. best: validation of the best epoch, None without a validation fold."""

    steps: int
    slices_per_s: float
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
    loader = StudyLoader(store, config, task=task, device=compute.device)
    epochs = [loader.group(training, epoch=epoch) for epoch in range(1, config.epochs + 1)]
    stepper = _Stepper(model, config, task, compute, n_steps=sum(map(len, epochs)))
    with RunLog(run, config, data_hash=store.data_hash, compute=compute) as log:

        def validate() -> Validation | None:
            return _validate(model, loader, held_out, store, config, compute) if held_out else None

        summary = _fit(
            stepper, loader, epochs, validate=validate, log=log, data_hash=store.data_hash, progress=progress
        )
    with atomic_writer(run / "summary.json") as file:
        file.write((json.dumps(asdict(summary) | {"compute": str(compute)}, indent=2) + "\n").encode())
    return summary


def make_schedule(config: OptimizerConfig, *, n_steps: int) -> Callable[[int], float]:
    """Return the factor on the learning rate as a function of the step: linear warm-up, then constant or half a cosine
    down to 0 at `n_steps` (Loshchilov and Hutter 2017, without restarts)."""
    n_warmup = round(config.warmup_fraction * n_steps)

    def factor(step: int) -> float:
        if step < n_warmup:
            return (step + 1) / (n_warmup + 1)
        if config.schedule == "constant":
            return 1.0
        return 0.5 * (1.0 + math.cos(math.pi * (step - n_warmup) / max(n_steps - n_warmup, 1)))

    return factor


class _Stepper:
    """One optimiser step at a time on one model."""

    def __init__(self, model: JointModel, config: RunConfig, task: Task, compute: Compute, *, n_steps: int) -> None:
        self.model = model
        self.compute = compute
        self.step = 0
        self._slice_loss_weight = config.model.slice_loss_weight
        self._clip_norm = config.optimizer.clip_norm or math.inf
        self._label_weights = torch.tensor(task.label_weights, device=compute.device)
        self._optimizer = _make_optimizer(model, config.optimizer)
        self._scheduler = LambdaLR(self._optimizer, make_schedule(config.optimizer, n_steps=n_steps))

    def __call__(self, batch: StudyBatch) -> dict[str, float]:
        """Take one step; return its loss, gradient norm and learning rate. Raises DivergedError."""
        self.model.train()
        with self.compute.autocast():
            embeddings = self.model.embed(batch.images)
        loss = self._loss(self.model.classify(embeddings, batch.series_lengths), batch)
        objective = loss
        if self.model.slice_classifier is not None:
            objective = loss + self._slice_loss_weight * self._loss(self.model.slice_classifier(embeddings), batch)
        self._optimizer.zero_grad(set_to_none=True)
        objective.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._clip_norm)
        if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
            raise DivergedError(
                f"step {self.step}: loss {loss.item():.4g}, gradient norm {norm.item():.4g} on series "
                f"{', '.join(key[:8] for key in batch.series_keys)}. Lower optimizer.learning_rate"
            )
        learning_rate = float(self._scheduler.get_last_lr()[0])
        self._optimizer.step()
        self._scheduler.step()
        self.step += 1
        return {"loss": loss.item(), "gradient_norm": norm.item(), "learning_rate": learning_rate}

    def _loss(self, logits_NL: torch.Tensor, batch: StudyBatch) -> torch.Tensor:
        total, weight = weighted_bce(logits_NL, batch.labels, batch.label_mask, label_weights_L=self._label_weights)
        return total / weight.clamp(min=torch.finfo(weight.dtype).tiny)


def _fit(
    stepper: _Stepper,
    loader: StudyLoader,
    epochs: Sequence[Sequence[Batch]],
    *,
    validate: Callable[[], Validation | None],
    log: RunLog,
    data_hash: str,
    progress: Progress,
) -> TrainSummary:
    best: Validation | None = None
    best_epoch, trained, train_s = len(epochs), 0, 0.0
    n_slices = sum(loader.n_slices(batch) for batches in epochs for batch in batches)
    for epoch, batches in enumerate(epochs, start=1):
        before_s = time.monotonic()
        for batch in loader.load(batches, epoch=epoch):
            waited_s = time.monotonic() - before_s
            values = stepper(batch)
            trained += len(batch.labels)
            train_s += time.monotonic() - before_s
            log.write("train", stepper.step, epoch=epoch, **values, slices_per_s=trained / train_s, wait_s=waited_s)
            progress(
                trained,
                n_slices,
                f"epoch {epoch}/{len(epochs)}  loss {values['loss']:.4f}  {trained / train_s:.0f} slices/s",
            )
            before_s = time.monotonic()
        validation = validate()
        if validation:
            log.write("validation", stepper.step, epoch=epoch, **asdict(validation))
        state = CheckpointState(
            step=stepper.step,
            epoch=epoch,
            validation_loss=validation.weighted_log_loss if validation else None,
            data_hash=data_hash,
        )
        save_checkpoint(stepper.model, state, folder=log.run / "checkpoints" / "last")
        if validation and (best is None or validation.weighted_log_loss < best.weighted_log_loss):
            best, best_epoch = validation, epoch
            save_checkpoint(stepper.model, state, folder=log.run / "checkpoints" / "best")
    return TrainSummary(
        steps=stepper.step,
        slices_per_s=trained / train_s,
        best_epoch=best_epoch,
        best=best,
        compute=stepper.compute,
    )


def _validate(
    model: JointModel,
    loader: StudyLoader,
    held_out: Sequence[int],
    store: Store,
    config: RunConfig,
    compute: Compute,
) -> Validation:
    task = get_task(config.task)
    rows, probability = predict_series(model, loader, held_out, compute=compute)
    truth: Float64Array = store.labels[rows].astype(np.float64)
    known = ~np.isnan(truth).any(axis=1)
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
        load_checkpoint(model, find_checkpoint(init_from))
    elif init_from is not None:
        load_weights(model, init_from)
    return model


def _make_optimizer(model: JointModel, config: OptimizerConfig) -> AdamW:
    """AdamW; the backbone and the rest may have learning rates of their own, and biases and norms do not decay."""
    groups = []
    for part, learning_rate in (
        (list(model.backbone.parameters()), config.learning_rate),
        (
            [p for name, p in model.named_parameters() if not name.startswith("backbone.")],
            config.head_learning_rate or config.learning_rate,
        ),
    ):
        for decays in (True, False):
            parameters = [p for p in part if (p.ndim > 1) == decays]
            groups.append(
                {"params": parameters, "lr": learning_rate, "weight_decay": config.weight_decay if decays else 0.0}
            )
    return AdamW(groups, fused=True)
