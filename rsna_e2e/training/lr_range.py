"""`rsna-e2e find-lr`: the learning rate range test on the batches of a recipe.

A model that is in training already can be tested too: afterwards it is as if nothing had been.
"""

import copy
import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from rsna_e2e.config import RunConfig
from rsna_e2e.core.device import choose_compute
from rsna_e2e.core.errors import UsageError
from rsna_e2e.core.records import Progress, no_progress
from rsna_e2e.loader.batch import SeriesBatch
from rsna_e2e.loader.choice import count_channels
from rsna_e2e.loader.holdout import split_series
from rsna_e2e.model.norms import copied, copy_back
from rsna_e2e.store import Store
from rsna_e2e.store.reader import check_labels
from rsna_e2e.tasks.task import get_task
from rsna_e2e.training.distributed import ALONE
from rsna_e2e.training.lr_sweep import LrSweep, run_sweep
from rsna_e2e.training.phases import Phase, check_norms, divide, plan_phases
from rsna_e2e.training.step import Stepper
from rsna_e2e.training.train import make_loaders, prepare_model


class Outcome(Protocol):
    """What a step says about itself."""

    @property
    def loss(self) -> float: ...
    @property
    def is_skipped(self) -> bool: ...
    @property
    def is_overflow(self) -> bool: ...


class TakesSteps(Protocol):
    """What trains: step number, batches, and the factor on every group's base learning rate."""

    @property
    def optimizer(self) -> Optimizer: ...
    @property
    def scaler(self) -> torch.amp.GradScaler: ...
    def __call__(self, step: int, batches: Sequence[SeriesBatch], *, learning_rate_factor: float) -> Outcome: ...


def find_learning_rate(
    store: Store,
    config: RunConfig,
    *,
    phase: Literal["slices", "series"],
    lowest: float,
    highest: float,
    n_steps: int,
    device: str = "auto",
    init_from: Path | None = None,
    progress: Progress = no_progress,
) -> LrSweep:
    """Test learning rates for a phase of `config`, on its training batches and with all else that it configures.

    The model starts as a run's does, also for the second of two phases: give the weights to start from with init_from.
    The images and what is frozen are those of the phase's last epoch. Raises UsageError for a phase that the
    configuration has not, and what `train` and `run_sweep` raise.
    """
    task = get_task(config.task)
    check_labels(store, task)
    training, _ = split_series(store, config)
    if phase == "slices" and config.slice_phase is None:
        raise UsageError(f"recipe {config.recipe} has no phase on slices here. Use --phase series")
    if phase == "series" and config.epochs == 0:
        raise UsageError(f"recipe {config.recipe} has no phase on whole series here. Use --phase slices")
    compute = choose_compute(config.precision, device, cpu_threads=config.cpu_threads)
    n_channels = count_channels(config, task, embeddings=None)
    model, config = prepare_model(
        config,
        task,
        compute,
        ALONE,
        n_channels=n_channels,
        init_from=init_from,
        last=None,
    )
    loader_at = make_loaders(store, config, task, compute, division=divide(model, config, ALONE))
    phases = plan_phases(config, lambda epoch: loader_at(config.image.size_at(epoch)), training)
    tested = next(planned for planned in phases if planned.kind == phase)
    spans = [store.series[position] for position in training]
    check_norms(model, config, {phase: tested.smallest_chunk}, spans=spans, n_channels=n_channels)
    is_joint = phase == "series"
    stepper = Stepper(model, tested.optimizer, config, task, compute, n_steps=n_steps, is_joint=is_joint)
    stepper.freeze_backbone(tested.epoch(tested.numbers.stop - 1).is_backbone_frozen)
    with closing(_batches(tested)) as batches:
        return sweep_learning_rates(
            stepper, model, batches, lowest=lowest, highest=highest, n_steps=n_steps, progress=progress
        )


def _batches(phase: Phase) -> Generator[list[SeriesBatch]]:
    """Yield the batches of every step, without end, from the epochs that are like the last."""
    last = phase.epoch(phase.numbers.stop - 1)
    while True:
        for epoch in map(phase.epoch, phase.numbers):
            if epoch.loader is last.loader and epoch.is_backbone_frozen == last.is_backbone_frozen:
                with closing(epoch.load(skip_steps=0)) as steps:
                    for _, batches in steps:
                        yield batches


def sweep_learning_rates(
    stepper: TakesSteps,
    model: nn.Module,
    batches: Iterator[Sequence[SeriesBatch]],
    *,
    lowest: float,
    highest: float,
    n_steps: int,
    progress: Progress = no_progress,
) -> LrSweep:
    """Take the steps of a range test on `batches`, one item a step, and put everything back.

    Rates are of the first group, the backbone's; the others keep their ratio to it. A step that was skipped for more
    than the range of float16 ends the sweep. Errors: see `run_sweep`.
    """
    base = float(stepper.optimizer.param_groups[0]["base_lr"])

    def take_step(step: int, rate: float) -> float:
        done = stepper(step, next(batches), learning_rate_factor=rate / base)
        return math.nan if done.is_skipped and not done.is_overflow else done.loss

    with put_back(model, stepper.optimizer, stepper.scaler):
        return run_sweep(take_step, lowest=lowest, highest=highest, n_steps=n_steps, progress=progress)


@contextmanager
def put_back(model: nn.Module, optimizer: Optimizer, scaler: torch.amp.GradScaler) -> Iterator[None]:
    """Restore all that training changes, bit by bit, when the block ends, also by an error.

    That is parameters, buffers, gradients, what is frozen, each module's mode, the state and the rates of the
    optimiser, the scale of the loss, and torch's generators.
    """
    tensors = [tensor.detach() for tensor in (*model.parameters(), *model.buffers())]
    before = copied(tensors)
    gradients = [(p, p.requires_grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    optimizer_state, scaler_state = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(scaler.state_dict())
    gpus = sorted({tensor.get_device() for tensor in tensors if tensor.is_cuda})
    try:
        with torch.random.fork_rng(devices=gpus):
            yield
    finally:
        copy_back(tensors, before)
        for parameter, is_trained, gradient in gradients:
            parameter.requires_grad_(is_trained)
            parameter.grad = gradient
        for module, is_training in modes:
            module.training = is_training
        optimizer.load_state_dict(optimizer_state)
        scaler.load_state_dict(scaler_state)
