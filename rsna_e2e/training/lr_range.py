"""`rsna-e2e find-lr`: the learning rate range test on the training batches of a recipe.

A model that is in training already can be tested too: everything that the test changes is restored afterwards.
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
from rsna_e2e.core.errors import UsageError
from rsna_e2e.core.records import Progress, no_progress
from rsna_e2e.loader.batch import SeriesBatch
from rsna_e2e.model.norms import snapshot
from rsna_e2e.store import Store
from rsna_e2e.training.lr_sweep import LrSweep, run_sweep
from rsna_e2e.training.phases import Phase
from rsna_e2e.training.prepared_run import PreparedRun, RunData, prepare_run
from rsna_e2e.training.step import Stepper


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
    init_backbone: Path | None = None,
    progress: Progress = no_progress,
) -> LrSweep:
    """Test learning rates for a phase of `config`, on its training batches and with all else that it configures.

    The model starts as a run's does, also for the second of two phases: give the weights to start from with init_from
    or init_backbone.
    The images, what is frozen and the optimiser are those of the phase's last epoch. Raises UsageError for a phase that
    the configuration has not, and what `train` and `run_sweep` raise.
    """
    data = RunData.of(store, config)
    if phase == "slices" and config.slice_phase is None:
        raise UsageError(f"recipe {config.recipe} has no phase on single slices (slice_phase=null). Use --phase series")
    if phase == "series" and config.epochs == 0:
        raise UsageError(f"recipe {config.recipe} has no phase on whole series (epochs=0). Use --phase slices")
    prepared = prepare_run(data, config, device=device, init_from=init_from, init_backbone=init_backbone)
    tested = [planned for planned in prepared.phases if planned.kind == phase][-1]
    prepared.check_norms(tested)
    stepper = _make_stepper(prepared, tested, n_steps=n_steps)
    with closing(_batches(tested)) as batches:
        return sweep_learning_rates(
            stepper, prepared.model, batches, lowest=lowest, highest=highest, n_steps=n_steps, progress=progress
        )


def _make_stepper(prepared: PreparedRun, phase: Phase, *, n_steps: int) -> Stepper:
    """Return what takes the steps of a phase, with the backbone frozen if it is in the phase's last epoch."""
    stepper = Stepper(
        *(prepared.model, phase.optimizer, prepared.config, prepared.data.task, prepared.compute),
        n_steps=n_steps,
        is_joint=phase.kind == "series",
    )
    stepper.freeze_backbone(phase.epoch(phase.numbers.stop - 1).is_backbone_frozen)
    return stepper


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
    restore_tensors = snapshot(tensors)
    gradients = [(p, p.requires_grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    optimizer_state, scaler_state = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(scaler.state_dict())
    gpus = sorted({tensor.get_device() for tensor in tensors if tensor.is_cuda})
    try:
        with torch.random.fork_rng(devices=gpus):
            yield
    finally:
        restore_tensors()
        for parameter, is_trained, gradient in gradients:
            parameter.requires_grad_(is_trained)
            parameter.grad = gradient
        for module, is_training in modes:
            module.training = is_training
        optimizer.load_state_dict(optimizer_state)
        scaler.load_state_dict(scaler_state)
