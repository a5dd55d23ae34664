"""The range test on a real model and optimiser, and that nothing of it stays."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import pytest
import torch
from torch import nn

from rsna_e2e.config import OptimizerConfig
from rsna_e2e.lr_finder import put_back, sweep_learning_rates
from rsna_e2e.optimizer import make_optimizer, set_learning_rates

BASE, HEAD = 0.01, 0.03
RANGE = {"lowest": 1e-4, "highest": 1.0, "n_steps": 40}


class Net(nn.Module):
    """A backbone with everything that can change: weights, running statistics, dropout, a frozen parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4))
        self.head = nn.Linear(4, 1)
        self.backbone[0].bias.requires_grad_(False)
        self.register_buffer("hidden", torch.zeros(1), persistent=False)


@dataclass
class Done:
    loss: float
    is_skipped: bool = False
    is_overflow: bool = False


class Stepping:
    """Real steps on random numbers; `outcomes` replaces what the steps of these numbers say."""

    def __init__(self, outcomes: dict[int, Done] | None = None) -> None:
        torch.manual_seed(0)
        self.model = Net()
        config = OptimizerConfig(learning_rate=BASE, head_learning_rate=HEAD, weight_decay=0.1)
        self.optimizer = make_optimizer(self.model, config, torch.device("cpu"))
        self.scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2)
        self.rates: list[list[float]] = []
        self.outcomes = outcomes or {}

    def __call__(self, step: int, batches: Any, *, learning_rate_factor: float) -> Done:
        set_learning_rates(self.optimizer, learning_rate_factor)
        self.rates.append([group["lr"] for group in self.optimizer.param_groups])
        self.model.train()
        self.model.head.bias.requires_grad_(False)
        self.model.hidden += 1
        self.optimizer.zero_grad(set_to_none=False)  # changes gradients in their place
        loss = self.model.head(self.model.backbone(torch.randn(6, 4))).square().mean()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return self.outcomes.get(step, Done(1.0))

    def state(self) -> list[Any]:
        """All that there is, to be compared bit by bit."""
        model = self.model
        return copy.deepcopy(
            [
                model.state_dict(),
                model.hidden,
                [(p.requires_grad, p.grad) for p in model.parameters()],
                [module.training for module in model.modules()],
                self.optimizer.state_dict(),
                self.scaler.state_dict(),
                torch.get_rng_state(),
            ]
        )


def forever() -> Iterator[list[Any]]:
    return repeat([])


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@pytest.mark.parametrize("n_before", [0, 3], ids=["fresh", "in_training"])
def test_everything_is_put_back_bit_by_bit(n_before: int) -> None:
    stepper = Stepping()
    for step in range(n_before):
        stepper(step, [], learning_rate_factor=0.5)
    stepper.model.backbone.eval()
    before, ids = stepper.state(), [id(p) for p in stepper.model.parameters()]
    with put_back(stepper.model, stepper.optimizer, stepper.scaler):
        for step in range(5):
            stepper(step, [], learning_rate_factor=2.0)
        within = stepper.state()
    after = stepper.state()
    assert [same(a, b) for a, b in zip(before, within, strict=True)] == [False] * 7
    assert [same(a, b) for a, b in zip(before, after, strict=True)] == [True] * 7
    assert [id(p) for p in stepper.model.parameters()] == ids  # in place: whoever holds them sees them put back


def test_training_goes_on_as_if_there_had_been_no_sweep() -> None:
    swept, other = Stepping(), Stepping()
    sweep_learning_rates(swept, swept.model, forever(), **RANGE)
    for stepper in (other, swept):
        torch.manual_seed(1)
        for step in range(5):
            stepper(step, [], learning_rate_factor=1.0)
    assert same(swept.state(), other.state())


def test_an_error_puts_back_too() -> None:
    stepper = Stepping()
    before = stepper.state()
    with pytest.raises(StopIteration):  # the batches run out
        sweep_learning_rates(stepper, stepper.model, iter([[]] * 3), **RANGE)
    assert same(stepper.state(), before)


def test_the_head_keeps_its_ratio_to_the_backbone() -> None:
    stepper = Stepping()
    sweep = sweep_learning_rates(stepper, stepper.model, forever(), **RANGE)
    assert len(stepper.rates) == 40
    for rate, (backbone, *_, head) in zip(sweep.learning_rates, stepper.rates, strict=True):
        assert backbone == pytest.approx(rate, rel=1e-12)
        assert head == pytest.approx(3 * rate, rel=1e-12)


def test_a_skipped_step_ends_the_sweep_unless_only_float16_was_exceeded() -> None:
    outcomes = {5: Done(1.0, is_skipped=True, is_overflow=True), 20: Done(1.0, is_skipped=True)}
    stepper = Stepping(outcomes)
    sweep = sweep_learning_rates(stepper, stepper.model, forever(), **RANGE)
    assert len(sweep.losses) == 20
    assert not math.isnan(sweep.losses.sum())
