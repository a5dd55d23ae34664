"""Slices on a frozen backbone first, then on one that learns, whole or from a part on."""

import json
from pathlib import Path

import pytest
import small
import torch
from pydantic import ValidationError
from training_runs import FILES, metrics

from rsna_e2e.config import OptimizerConfig, RunConfig, SlicePhaseConfig
from rsna_e2e.core.errors import PreemptedError, UsageError
from rsna_e2e.model.network import JointModel
from rsna_e2e.store import Store
from rsna_e2e.training.checkpoint import find_checkpoint, kept_epochs, load_model
from rsna_e2e.training.foretell import describe_epochs
from rsna_e2e.training.lr_range import find_learning_rate
from rsna_e2e.training.optimizer import make_optimizer
from rsna_e2e.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")

TWO_STAGES = {
    "freeze_backbone_epochs": 1,
    "frozen_optimizer": {"learning_rate": 0.05, "schedule": "one_cycle"},
    "optimizer": {"learning_rate": 0.002, "head_learning_rate": 0.02, "schedule": "one_cycle"},
}
Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small.make_store(tmp_path_factory.mktemp("freezing"))


def config_of(*overrides: str, epochs: int = 2, **phase: object) -> RunConfig:
    """The small classifier of slices with these settings of its phase."""
    plain = small.image_config("model.embedding_width=null", *overrides)
    return plain.model_copy(update={"slice_phase": small.slice_phase(epochs=epochs, **phase)})


def first_weights(config: RunConfig) -> Weights:
    torch.manual_seed(config.seed)
    return JointModel(config.model, n_channels=3, n_labels=6).state_dict()


def weights_by_epoch(run: Path, config: RunConfig) -> list[Weights]:
    found = []
    for number in kept_epochs(run):
        model = JointModel(config.model, n_channels=3, n_labels=6)
        load_model(model, find_checkpoint(run, f"epoch-{number}"))
        found.append(model.state_dict())
    return found


def changed(before: Weights, after: Weights) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def of_backbone(names: set[str]) -> set[str]:
    return {name.removeprefix("backbone.") for name in names if name.startswith("backbone.")}


def test_a_frozen_backbone_keeps_weights_and_statistics_and_then_learns(store: Store, tmp_path: Path) -> None:
    config = config_of(**TWO_STAGES)
    train(store, tmp_path / "run", config)
    first, second = weights_by_epoch(tmp_path / "run", config)
    frozen = changed(first_weights(config), first)
    assert frozen == {"slice_classifier.weight", "slice_classifier.bias"}
    learned = of_backbone(changed(first, second))
    assert {"conv1.0.weight", "bn1.running_mean", "layer4.0.conv1.weight"} <= learned


def test_each_stage_has_its_learning_rate_and_its_cycle(store: Store, tmp_path: Path) -> None:
    train(store, tmp_path / "run", config_of(**TWO_STAGES))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for epoch, highest in ((1, 0.05), (2, 0.002)):
        rates = [line["learning_rate"] for line in lines if line["kind"] == "train_slices" and line["epoch"] == epoch]
        steps = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        n = len(rates)
        cycle = torch.optim.lr_scheduler.OneCycleLR(steps, max_lr=highest, total_steps=n)
        expected = []
        for _ in range(n):
            expected.append(steps.param_groups[0]["lr"])
            steps.step()
            cycle.step() if len(expected) < n else None
        assert rates == pytest.approx(expected, rel=1e-6)


def test_a_backbone_may_be_frozen_in_all_epochs(store: Store, tmp_path: Path) -> None:
    config = config_of("model.classifier=mlp", freeze_backbone_epochs="all")
    train(store, tmp_path / "run", config)
    assert of_backbone(changed(first_weights(config), weights_by_epoch(tmp_path / "run", config)[-1])) == set()


def test_a_backbone_may_learn_from_a_part_on(store: Store, tmp_path: Path) -> None:
    config = config_of(epochs=1, learns_from="layer3")
    train(store, tmp_path / "run", config)
    before = first_weights(config)
    learned = of_backbone(changed(before, weights_by_epoch(tmp_path / "run", config)[-1]))
    assert {name.split(".")[0] for name in learned} == {"layer3", "layer4"}
    weights = {name for name in of_backbone(set(before)) if name.startswith(("layer3", "layer4"))}
    assert {name for name in weights if name.endswith(("conv1.weight", "running_mean"))} <= learned


class KilledError(Exception):
    """An end without saving."""


@pytest.mark.parametrize(
    ("n_steps", "is_killed"),
    [(2, False), (4, True), (5, False)],
    ids=["in the first stage", "between both", "in the second"],
)
def test_a_run_that_is_stopped_in_either_stage_ends_as_one_that_was_not(
    store: Store, tmp_path: Path, n_steps: int, is_killed: bool
) -> None:
    config = config_of("ema_decay=0.75", **TWO_STAGES)
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(store, whole, config)

    def is_stopping() -> bool:
        is_time = (run / "metrics.jsonl").is_file() and _n_steps(run) >= n_steps
        if is_time and is_killed:
            raise KilledError
        return is_time

    with pytest.raises(KilledError if is_killed else PreemptedError):
        train(store, run, config, is_stopping=is_stopping)
    train(store, run, config, resume=True)
    for name in FILES:
        assert (find_checkpoint(run, "last") / name).read_bytes() == (
            find_checkpoint(whole, "last") / name
        ).read_bytes()
    assert metrics(run) == metrics(whole)


def _n_steps(run: Path) -> int:
    return sum("train_slices" in line for line in (run / "metrics.jsonl").read_text().splitlines())


def test_learning_rates_are_tested_on_the_second_stage(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def note(model: JointModel, optimizer: OptimizerConfig, *rest: object) -> torch.optim.Optimizer:
        seen.append(optimizer.learning_rate)
        return make_optimizer(model, optimizer, torch.device("cpu"))

    monkeypatch.setattr("rsna_e2e.training.step.make_optimizer", note)
    config = config_of(**TWO_STAGES)
    find_learning_rate(store, config, phase="slices", lowest=1e-5, highest=1e-3, n_steps=10, device="cpu")
    assert seen == [0.002]


def test_a_part_that_the_backbone_has_not_is_refused_before_anything_begins(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"learns_from: the backbone has no part 'layer9'\. It has conv1, conv1\.0, "):
        train(store, tmp_path / "run", config_of(learns_from="layer9"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"freeze_backbone_epochs": 4}, "freeze_backbone_epochs=4 is more than epochs=3"),
        ({"frozen_optimizer": {"learning_rate": 0.1}}, "set freeze_backbone_epochs between 0 and epochs"),
        (
            {"freeze_backbone_epochs": "all", "frozen_optimizer": {"learning_rate": 0.1}},
            "set freeze_backbone_epochs between 0 and epochs",
        ),
    ],
)
def test_stages_that_make_no_sense_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SlicePhaseConfig.model_validate({"epochs": 3, "optimizer": {"learning_rate": 0.1}} | changes)


def test_the_operator_is_told_of_frozen_epochs() -> None:
    config = config_of(freeze_backbone_epochs=1)
    assert describe_epochs(config) == (
        "2 epochs on shuffled single slices, 1 with a frozen backbone (slice_phase.epochs)"
    )
