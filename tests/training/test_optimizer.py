"""Optimisers against hand-worked steps, schedules against torch's own."""

import copy
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import small
import torch
from torch import nn
from torch.optim import lr_scheduler

from rsna_e2e.config import OptimizerConfig, load_config
from rsna_e2e.core.errors import MissingCapabilityError, UsageError
from rsna_e2e.model.network import JointModel
from rsna_e2e.training.optimizer import make_optimizer, make_schedule, set_learning_rates

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SCHEDULE = {"rel": 1e-9, "abs": 1e-12}  # float64 by recursion (torch) or in closed form (ours)
STEP = {"rtol": 1e-6, "atol": 0}  # a float32 step against its hand-worked value
PARITY = {"rtol": 1e-5, "atol": 1e-6}  # float32, 20 steps, kernels that order their operations differently
APEX = ("apex_fused_adam", "apex_fused_lamb")


class TwoParts(nn.Module):
    """The least that has a backbone and a rest."""

    def __init__(self, *, bias: bool = True) -> None:
        super().__init__()
        self.backbone = nn.Linear(2, 2, bias=bias)
        self.head = nn.Linear(2, 1, bias=bias)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.fill_(0.5)


def step_with(model: nn.Module, optimizer: torch.optim.Optimizer, gradient: float) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    optimizer.step()


def test_every_parameter_is_in_one_group_with_its_rate_and_decay() -> None:
    model = JointModel(small.config().model, n_channels=3, n_labels=6)
    config = OptimizerConfig(learning_rate=1e-3, head_learning_rate=1e-2, weight_decay=0.05)
    optimizer = make_optimizer(model, config, CPU)
    found = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(found) == len(list(model.parameters()))
    norms = {id(p) for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()}
    assert norms
    for name, parameter in model.named_parameters():
        group = found[id(parameter)]
        assert group["lr"] == group["base_lr"] == (1e-3 if name.startswith("backbone.") else 1e-2), name
        is_still = id(parameter) in norms or "bias" in name  # an LSTM's are called bias_ih_l0 and the like
        assert group["weight_decay"] == (0.0 if is_still else 0.05), name


def test_without_a_rate_of_its_own_the_head_takes_the_backbones_and_empty_groups_are_left_out() -> None:
    optimizer = make_optimizer(TwoParts(bias=False), OptimizerConfig(learning_rate=0.25), CPU)
    assert [group["base_lr"] for group in optimizer.param_groups] == [0.25, 0.25]


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        ("adamw", 0.5 * (1 - 0.1 * 0.2)),  # decoupled: shrinks by rate times decay
        ("adam", 0.5 - 0.1),  # L2: the decay is all there is of the gradient, and Adam's first step is the rate
        ("sgd", 0.5 - 0.1 * (0.2 * 0.5)),  # L2
    ],
)
def test_decay_by_hand(name: str, weight: float) -> None:
    model = TwoParts()
    optimizer = make_optimizer(model, OptimizerConfig(name=name, learning_rate=0.1, weight_decay=0.2), CPU)
    step_with(model, optimizer, 0.0)
    for layer in (model.backbone, model.head):
        torch.testing.assert_close(layer.weight, torch.full_like(layer.weight, weight), **STEP)
        torch.testing.assert_close(layer.bias, torch.full_like(layer.bias, 0.5), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("adamw", (0.4, 0.3)),  # equal gradients: every step is the rate
        ("adam", (0.4, 0.3)),
        ("sgd", (0.4, 0.4 - 0.1 * (1 + 0.5))),  # momentum 0.5
    ],
)
def test_two_steps_by_hand(name: str, weights: tuple[float, float]) -> None:
    model = TwoParts()
    optimizer = make_optimizer(model, OptimizerConfig(name=name, learning_rate=0.1, momentum=0.5), CPU)
    for weight in weights:
        step_with(model, optimizer, 1.0)
        torch.testing.assert_close(model.head.weight, torch.full((1, 2), weight), **STEP)


def test_rates_are_the_factor_times_the_base_however_often_they_are_set() -> None:
    model = TwoParts()
    optimizer = make_optimizer(
        model, OptimizerConfig(name="sgd", learning_rate=0.5, head_learning_rate=0.25, momentum=0), CPU
    )
    for factor in (0.1, 0.0, 0.5):
        set_learning_rates(optimizer, factor)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25, 0.125, 0.125]
    step_with(model, optimizer, 1.0)
    assert (model.backbone.bias[0], model.head.bias[0]) == (0.25, 0.375)


def judged(make: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler], *, n_steps: int) -> list[float]:
    """The factors of a scheduler of torch's on a learning rate of 1."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    factors = []
    for step in range(n_steps):
        factors.append(optimizer.param_groups[0]["lr"])
        if step < n_steps - 1:
            optimizer.step()
            scheduler.step()
    return factors


def factors(n_steps: int, **settings: Any) -> list[float]:
    factor = make_schedule(OptimizerConfig(learning_rate=1.0, **settings), n_steps=n_steps)
    return [factor(step) for step in range(n_steps)]


def test_warmup_is_torchs_linear_one() -> None:
    expected = judged(lambda o: lr_scheduler.LinearLR(o, start_factor=1 / 6, total_iters=5), n_steps=20)
    assert factors(20, warmup_fraction=0.25) == pytest.approx(expected, **SCHEDULE)


def test_cosine_is_torchs_after_the_warmup() -> None:
    expected = judged(lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=15), n_steps=15)
    assert factors(15, schedule="cosine") == pytest.approx(expected, **SCHEDULE)
    assert factors(20, schedule="cosine", warmup_fraction=0.25)[5:] == pytest.approx(expected, **SCHEDULE)


def test_step_is_torchs_at_fractions_of_the_run() -> None:
    expected = judged(lambda o: lr_scheduler.MultiStepLR(o, milestones=[7, 15], gamma=0.3), n_steps=20)
    settings = {"schedule": "step", "step_fractions": (0.75, 0.35), "step_factor": 0.3}
    assert factors(20, **settings) == pytest.approx(expected, **SCHEDULE)


@pytest.mark.parametrize("n_steps", [1, 2, 3, 4, 10, 97])
def test_one_cycle_is_torchs(n_steps: int) -> None:
    expected = judged(
        lambda o: lr_scheduler.OneCycleLR(o, max_lr=1.0, total_steps=n_steps, cycle_momentum=False), n_steps=n_steps
    )
    assert factors(n_steps, schedule="one_cycle") == pytest.approx(expected, **SCHEDULE)


def test_schedules_by_hand() -> None:
    # two steps of warm-up to 1, then half a cosine over eight
    cosine = factors(10, schedule="cosine", warmup_fraction=0.2)
    assert [cosine[step] for step in (0, 1, 2, 6)] == pytest.approx([1 / 3, 2 / 3, 1.0, 0.5])
    assert factors(4, schedule="step") == pytest.approx([1.0, 1.0, 0.1, 0.01])
    # the peak at 0.3 * 10 - 1 = step 2, the end at step 9
    one_cycle = factors(10, schedule="one_cycle")
    assert [one_cycle[step] for step in (0, 1, 2, 9)] == pytest.approx([0.04, 0.52, 1.0, 4e-6])
    assert factors(3) == [1.0, 1.0, 1.0]


def test_one_cycle_takes_no_second_warmup() -> None:
    with pytest.raises(UsageError, match="one_cycle has a warm-up of its own: set warmup_fraction to 0"):
        load_config("demo", ["optimizer.schedule=one_cycle"])
    load_config("demo", ["optimizer.schedule=one_cycle", "optimizer.warmup_fraction=0"])


@pytest.mark.parametrize("name", APEX)
def test_apex_needs_a_gpu(name: str) -> None:
    with pytest.raises(MissingCapabilityError, match=r"needs an NVIDIA GPU, .* cpu\. Use --set optimizer\.name=adamw"):
        make_optimizer(TwoParts(), OptimizerConfig(name=name, learning_rate=0.1), CPU)


def _uncompiled(*_: Any, **__: Any) -> None:
    raise RuntimeError("apex.optimizers requires cuda extensions")


@pytest.mark.parametrize("kind", ["none", "pypi", "uncompiled"])
@pytest.mark.parametrize("name", APEX)
def test_without_apex_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, name: str, kind: str) -> None:
    apex: Any = None if kind == "none" else ModuleType("apex")
    if kind == "uncompiled":
        apex.optimizers = ModuleType("apex.optimizers")
        apex.optimizers.FusedAdam = apex.optimizers.FusedLAMB = _uncompiled
    monkeypatch.setitem(sys.modules, "apex", apex)
    with pytest.raises(MissingCapabilityError, match=r"--no-build-isolation git\+https://github.com/NVIDIA/apex"):
        make_optimizer(TwoParts(), OptimizerConfig(name=name, learning_rate=0.1), CUDA)


@pytest.mark.parametrize(
    ("name", "apex_name", "expected"),
    [
        ("apex_fused_adam", "FusedAdam", {"adam_w_mode": True}),
        ("apex_fused_lamb", "FusedLAMB", {"adam_w_mode": True, "max_grad_norm": float(np.finfo(np.float32).max)}),
    ],
)
def test_apex_is_asked_for_decoupled_decay_and_no_clipping(
    monkeypatch: pytest.MonkeyPatch, name: str, apex_name: str, expected: dict[str, Any]
) -> None:
    apex: Any = ModuleType("apex")
    apex.optimizers = ModuleType("apex.optimizers")
    setattr(apex.optimizers, apex_name, lambda groups, **arguments: (groups, arguments))
    monkeypatch.setitem(sys.modules, "apex", apex)
    settings = OptimizerConfig(name=name, learning_rate=0.1, weight_decay=0.2)
    groups, arguments = make_optimizer(TwoParts(), settings, CUDA)
    assert [group["weight_decay"] for group in groups] == [0.2, 0.0, 0.2, 0.0]
    assert arguments == expected


def _random_steps(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    generator = torch.Generator().manual_seed(1)
    for step in range(20):
        set_learning_rates(optimizer, 1.0 - step / 40)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.device)
        optimizer.step()


@pytest.mark.needs_cuda
@pytest.mark.needs_apex
def test_apex_adam_equals_torchs_adamw() -> None:
    torch.manual_seed(0)
    ours = JointModel(small.config().model, n_channels=3, n_labels=6).to(CUDA)
    judge = copy.deepcopy(ours)
    for model, name in ((ours, "apex_fused_adam"), (judge, "adamw")):
        config = OptimizerConfig(name=name, learning_rate=1e-2, head_learning_rate=2e-2, weight_decay=0.1)
        _random_steps(model, make_optimizer(model, config, CUDA))
    torch.testing.assert_close(list(ours.parameters()), list(judge.parameters()), **PARITY)


@pytest.mark.needs_cuda
@pytest.mark.needs_apex
def test_the_first_step_of_apex_lamb_by_hand() -> None:
    model = TwoParts().to(CUDA)
    config = OptimizerConfig(name="apex_fused_lamb", learning_rate=0.1, weight_decay=0.2)
    step_with(model, make_optimizer(model, config, CUDA), 2.0)
    # You et al. 2020 (arXiv:1904.00962): the first Adam update is the sign, 1, plus the decay 0.2 * 0.5; weights of
    # equal size are scaled to 0.5 / 1.1 of it. What does not decay is not scaled.
    torch.testing.assert_close(model.head.weight.cpu(), torch.full((1, 2), 0.5 - 0.1 * 0.5), **PARITY)
    torch.testing.assert_close(model.head.bias.cpu(), torch.full((1,), 0.5 - 0.1), **PARITY)
