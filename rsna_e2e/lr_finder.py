"""The learning rate range test on a model in training, which is afterwards as if nothing had been."""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from rsna_e2e.batch import StudyBatch
from rsna_e2e.lr_sweep import LrSweep, run_sweep
from rsna_e2e.records import Progress, no_progress


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
    def __call__(self, step: int, batches: Sequence[StudyBatch], *, learning_rate_factor: float) -> Outcome: ...


def sweep_learning_rates(
    stepper: TakesSteps,
    model: nn.Module,
    batches: Iterator[Sequence[StudyBatch]],
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
    tensors = [(tensor, tensor.detach().clone()) for tensor in (*model.parameters(), *model.buffers())]
    gradients = [(p, p.requires_grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    optimizer_state, scaler_state = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(scaler.state_dict())
    gpus = sorted({tensor.get_device() for tensor, _ in tensors if tensor.is_cuda})
    try:
        with torch.random.fork_rng(devices=gpus):
            yield
    finally:
        with torch.no_grad():
            for tensor, before in tensors:
                tensor.copy_(before)
        for parameter, is_trained, gradient in gradients:
            parameter.requires_grad_(is_trained)
            parameter.grad = gradient
        for module, is_training in modes:
            module.training = is_training
        optimizer.load_state_dict(optimizer_state)
        scaler.load_state_dict(scaler_state)
