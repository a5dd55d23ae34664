"""The range test on a real model and optimiser, and that nothing of it stays."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
import small
import torch
from torch import nn

from rsna_e2e.cli import main
from rsna_e2e.config import OptimizerConfig
from rsna_e2e.store import Store
from rsna_e2e.training import lr_range
from rsna_e2e.training.lr_range import find_learning_rate, put_back, sweep_learning_rates
from rsna_e2e.training.optimizer import make_optimizer, set_learning_rates
from rsna_e2e.training.step import Stepper

pytestmark = pytest.mark.usefixtures("one_thread")

BASE, HEAD = 0.01, 0.03
SETTINGS = (
    "model.backbone=test_resnet",
    "model.backbone_arguments={}",
    "image.size=32",
    "slice_phase=null",
    "model.batchnorm=frozen",
)
RANGE = {"lowest": 1e-4, "highest": 1.0, "n_steps": 40}


class Net(nn.Module):
    """A backbone with everything that can change: weights, running statistics, dropout, a frozen parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4))
        self.head = nn.Linear(4, 1)
        self.backbone[0].bias.requires_grad_(False)
        self.register_buffer("hidden", torch.zeros(1), persistent=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small.make_store(tmp_path_factory.mktemp("lr_finder"))


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


SLICES = "slice_phase={epochs: 1, slices_per_batch: 4, optimizer: {learning_rate: 0.003}}"
FEW = {"lowest": 1e-4, "highest": 1e-1, "n_steps": 10}


@pytest.fixture
def steppers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, list[Any]]]:
    """The steppers that are made, each with its model's state when its sweep began, and the series of every step."""
    made: list[tuple[Any, list[Any]]] = []

    class Watched(Stepper):
        def __init__(self, model: nn.Module, *arguments: Any, **named: Any) -> None:
            super().__init__(model, *arguments, **named)
            self.seen: list[tuple[int, int]] = []  # series in a step, side of its images
            made.append((self, copy.deepcopy([model.state_dict(), self.optimizer.state_dict()])))

        def __call__(self, step: int, batches: Any, **named: Any) -> Any:
            self.seen.append((sum(len(batch.series_keys) for batch in batches), batches[0].images.shape[-1]))
            return super().__call__(step, batches, **named)

    monkeypatch.setattr(lr_range, "Stepper", Watched)
    return made


@pytest.mark.parametrize("phase", ["slices", "series"])
def test_a_real_model_is_put_back_bit_by_bit(store: Store, steppers: list[Any], phase: str) -> None:
    sweep = find_learning_rate(store, small.config(SLICES, "chunk=4", "graph_slices=8"), phase=phase, **FEW)
    ((stepper, before),) = steppers
    assert same([stepper._model.state_dict(), stepper.optimizer.state_dict()], before)
    assert len(stepper.seen) == len(sweep.losses) == 10  # more than an epoch has
    assert len(set(sweep.losses)) == 10


def test_images_and_backbone_are_as_in_the_last_epoch(store: Store, steppers: list[Any]) -> None:
    settings = ["epochs=3", "freeze_backbone_epochs=1", "image.size_from_epoch={1: 24, 3: 32}"]
    find_learning_rate(store, small.config(*settings), phase="series", **FEW)
    assert {side for _, side in steppers[0][0].seen} == {32}
    assert all(p.requires_grad for p in steppers[0][0]._model.backbone.parameters())


def test_the_verb_writes_a_table_and_a_figure(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [word for s in SETTINGS for word in ("--set", s)]
    out = tmp_path / "deep" / "rates"
    assert main(["find-lr", str(store.path), str(out), "--steps", "12", "--lowest", "1e-4", *settings]) == 0
    table = (out / "lr.csv").read_text().splitlines()
    assert table[0] == "step,learning_rate,loss,smoothed_loss"
    assert 3 <= len(table) <= 13
    assert float(table[1].split(",")[1]) == 1e-4
    assert (out / "lr.png").read_bytes().startswith(b"\x89PNG")
    assert "lr.png" in capsys.readouterr().out


def test_what_cannot_be_tested_is_named(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [word for s in SETTINGS for word in ("--set", s)]
    command = ["find-lr", str(store.path), str(tmp_path / "out"), *settings]
    assert main([*command, "--phase", "slices"]) == 2
    assert "has no phase on single slices (slice_phase=null). Use --phase series" in capsys.readouterr().err
    assert main([*command, "--steps", "3"]) == 2
    assert "--steps at least 10" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--lowest", "0"])
    assert "'0' is not a number above 0" in capsys.readouterr().err
