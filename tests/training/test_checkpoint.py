"""Checkpoints: whole or not there, bitwise what was saved, found again, and never run."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from weights_files import MALFORMED, PICKLES, pickles

from rsna_e2e.config import save_config
from rsna_e2e.core.errors import BadInputError, OutOfResourcesError
from rsna_e2e.core.files import sealed
from rsna_e2e.core.weights_file import decode
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.task import task_sha256
from rsna_e2e.training.checkpoint import (
    Best,
    CheckpointState,
    check_task,
    find_checkpoint,
    kept_epochs,
    load_model,
    restore,
    save_checkpoint,
    valid_checkpoints,
)
from rsna_e2e.training.checkpoint import folder as checkpoint_folder
from rsna_e2e.training.checkpoint.optimizer import restore_optimizer

FILES = ("model.safetensors", "optimizer.safetensors", "ema.safetensors", "checkpoint.json")
OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "adamw fused": lambda p: AdamW(p, lr=0.01, fused=True),
    "adam": lambda p: Adam(p, lr=0.01),
    "adam amsgrad": lambda p: Adam(p, lr=0.01, amsgrad=True),
    "sgd momentum": lambda p: SGD(p, lr=0.01, momentum=0.9),
    "sgd": lambda p: SGD(p, lr=0.01),
}


class Net(nn.Module):
    """A convolution in channels-last memory, a normalisation with buffers, and a part that may rest."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 2)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(self.norm(self.conv(images)).amax(dim=(2, 3)))


def _optimizer(model: Net, kind: str = "adamw fused") -> Optimizer:
    return OPTIMIZERS[kind]([{"params": model.conv.parameters()}, {"params": [*model.norm.parameters()]},
                             {"params": model.linear.parameters()}])  # fmt: skip


def _ema(model: Net) -> AveragedModel:
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)


def _train(model: Net, optimizer: Optimizer, ema: AveragedModel | None = None, *, steps: range) -> None:
    for step in steps:
        torch.manual_seed(step)
        optimizer.zero_grad()
        model(torch.randn(2, 3, 6, 6)).square().sum().backward()
        optimizer.step()
        if ema is not None:
            ema.update_parameters(model)


def _state(step: int, *, epoch: int = 1, best: tuple[int, int] | None = None) -> CheckpointState:
    return CheckpointState(
        step=step,
        epoch=epoch,
        phase="series",
        data_hash="d",
        best=Best(step=best[0], epoch=best[1], validation_loss=0.5, validation={"auc": None}) if best else None,
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder without checkpoints."""
    folder = tmp_path / "run"
    folder.mkdir()
    save_config(small.config(), path=folder / "config.yaml")
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with all its files, of a run of one step."""
    torch.manual_seed(0)
    model = Net()
    optimizer, ema = _optimizer(model), _ema(model)
    _train(model, optimizer, ema, steps=range(1))
    return save_checkpoint(tmp_path_factory.mktemp("run"), _state(1), model=model, optimizer=optimizer, ema=ema)


@pytest.fixture
def saved(original: Path, run: Path) -> Path:
    """The same, to be treated badly."""
    return Path(shutil.copytree(original, run / "checkpoints" / original.name))


def _names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def _everything(folder: Path) -> CheckpointState:
    model = Net()
    return restore(folder, model=model, optimizer=_optimizer(model), ema=_ema(model))


def _reseal(folder: Path) -> None:
    """Make every checksum right again, as someone would who changed a file on purpose."""
    path = folder / "checkpoint.json"
    content = json.loads(path.read_text())
    del content["content_sha256"]
    content["sha256"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in content["sha256"]}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(content | {"content_sha256": digest}))


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("frozen", [False, True])
def test_a_restored_run_goes_on_as_one_that_never_stopped(kind: str, frozen: bool, run: Path) -> None:
    torch.manual_seed(0)
    model = Net()
    model.conv.requires_grad_(not frozen)  # frozen so far: a parameter without state
    optimizer, ema = _optimizer(model, kind), _ema(model)
    _train(model, optimizer, ema, steps=range(3))
    folder = save_checkpoint(run, _state(3), model=model, optimizer=optimizer, ema=ema)

    again = Net()
    again_optimizer, again_ema = _optimizer(again, kind), _ema(again)
    assert restore(folder, model=again, optimizer=again_optimizer, ema=again_ema) == _state(3)
    for one in (model, again):
        one.conv.requires_grad_(True)
    _train(model, optimizer, ema, steps=range(3, 6))
    _train(again, again_optimizer, again_ema, steps=range(3, 6))
    for first, second in ((model, again), (ema, again_ema)):
        pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
        assert all(name == other and torch.equal(a, b) for (name, a), (other, b) in pairs)


def test_moments_lie_in_memory_as_their_parameters(saved: Path) -> None:
    model = Net()
    optimizer = _optimizer(model)
    restore(saved, model=model, optimizer=optimizer)
    moments = optimizer.state[model.conv.weight]["exp_avg"]
    assert moments.stride() == model.conv.weight.stride() == (27, 1, 9, 3)  # channels last


def test_the_optimiser_is_saved_by_names(saved: Path) -> None:
    names = decode((saved / "optimizer.safetensors").read_bytes(), path=saved)
    assert {name for name in names if "conv" in name} == {
        f"conv.{which}/{key}" for which in ("weight", "bias") for key in ("step", "exp_avg", "exp_avg_sq")
    }
    assert names["conv.weight/step"] == 1


def test_what_an_optimiser_counts_in_its_groups_comes_back(run: Path) -> None:
    model = Net()
    optimizer = _optimizer(model)
    _train(model, optimizer, steps=range(1))
    optimizer.param_groups[1]["step"] = 7  # as NVIDIA apex does
    optimizer.param_groups[1]["lr"] = 5.0  # the schedule's, not ours
    folder = save_checkpoint(run, _state(1), model=model, optimizer=optimizer)
    again = Net()
    restored = _optimizer(again)
    restore(folder, model=again, optimizer=restored)
    assert [group.get("step") for group in restored.param_groups] == [None, 7, None]
    assert restored.param_groups[1]["lr"] == 0.01


@pytest.mark.needs_cuda
def test_a_run_moves_between_devices(run: Path) -> None:
    model = Net()
    optimizer = _optimizer(model)
    _train(model, optimizer, steps=range(2))
    folder = save_checkpoint(run, _state(2), model=model, optimizer=optimizer)
    moved = Net().cuda()
    moved_optimizer = _optimizer(moved)
    restore(folder, model=moved, optimizer=moved_optimizer)
    assert moved_optimizer.state[moved.conv.weight]["step"].device.type == "cuda"
    back = save_checkpoint(run, _state(2, epoch=2), model=moved, optimizer=moved_optimizer)
    assert all((back / name).read_bytes() == (folder / name).read_bytes() for name in FILES[:2])


def test_the_state_comes_back_as_it_was(run: Path) -> None:
    state = CheckpointState(
        step=123,
        epoch=2,
        phase="slices",
        data_hash="abc",
        n_slices=4567,
        elapsed_s=0.1 + 0.2,
        validation_loss=None,
        best=Best(step=100, epoch=1, validation_loss=1 / 3, validation={"weighted_log_loss": 1 / 3, "any_auc": None}),
        epochs_since_best=1,
        skipped=3,
        skipped_in_a_row=1,
        scaler={"scale": 65536.0, "growth_interval": 2000, "_growth_tracker": 5},
    )
    folder = save_checkpoint(run, state, model=Net())
    assert folder.name == "step-00000123-epoch-002"
    assert load_model(Net(), folder) == state
    scaler = load_model(Net(), folder).scaler
    assert scaler is not None
    assert [type(value) for value in scaler.values()] == [float, int, int]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_no_state(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        CheckpointState(step=1, epoch=1, phase="series", data_hash="d", validation_loss=value)


def test_a_checkpoint_of_an_earlier_version_has_no_task(run: Path) -> None:
    """Its checkpoint.json, as that version wrote it."""
    folder = save_checkpoint(run, _state(1), model=Net())
    state = {"step": 1, "epoch": 1, "phase": "series", "data_hash": "d", "n_slices": 0, "elapsed_s": 0.0}
    state |= {"validation_loss": None, "best": None, "epochs_since_best": 0, "skipped": 0, "skipped_in_a_row": 0}
    sha256 = {FILES[0]: hashlib.sha256((folder / FILES[0]).read_bytes()).hexdigest()}
    content = {"format_version": 1, "state": state | {"scaler": None}, "optimizer_groups": [], "sha256": sha256}
    (folder / "checkpoint.json").write_text(json.dumps(sealed(content)))
    found = load_model(Net(), folder)
    assert found == _state(1)
    check_task(folder, found, ICH)


def test_a_checkpoint_of_another_task_is_named(run: Path) -> None:
    state = _state(1).model_copy(update={"task_sha256": task_sha256(ICH)})
    found = load_model(Net(), save_checkpoint(run, state, model=Net()))
    check_task(run, found, ICH)
    other = replace(ICH, inputs=replace(ICH.inputs, mean=(0.5, 0.5, 0.5)))
    with pytest.raises(BadInputError, match="of a run for another task than ich, or for another version of it"):
        check_task(run, found, other)


def test_prediction_takes_the_moving_average(run: Path) -> None:
    model = Net()
    ema = _ema(model)
    _train(model, _optimizer(model), ema, steps=range(3))
    folder = save_checkpoint(run, _state(3), model=model, ema=ema)
    plain, averaged = Net(), Net()
    load_model(plain, folder, prefer_ema=False)
    load_model(averaged, folder)
    assert torch.equal(plain.conv.weight, model.conv.weight)
    assert torch.equal(averaged.conv.weight, ema.module.conv.weight)
    assert not torch.equal(plain.conv.weight, averaged.conv.weight)


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_is_noticed(name: str, saved: Path) -> None:
    whole = (saved / name).read_bytes()
    n_bits = 8 * len(whole.rstrip())
    for bit in {0, n_bits - 1, *np.random.default_rng(0).integers(n_bits, size=20).tolist()}:
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        (saved / name).write_bytes(content)
        with pytest.raises(BadInputError, match=f"{name}: damaged"):
            _everything(saved)
        assert list(valid_checkpoints(saved.parents[1])) == []
    (saved / name).write_bytes(whole)
    assert _everything(saved).step == 1


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", PICKLES)
def test_a_pickle_in_place_of_a_file_is_refused_and_not_run(name: str, kind: str, saved: Path, tmp_path: Path) -> None:
    (saved / name).write_bytes(pickles(tmp_path / "canary", tmp_path)[kind])
    for _ in range(2):
        with pytest.raises(BadInputError, match=name):
            _everything(saved)
        if name != "checkpoint.json":
            _reseal(saved)  # and once more, with all checksums right
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_file_with_its_right_checksum_is_named(kind: str, saved: Path) -> None:
    (saved / "optimizer.safetensors").write_bytes(MALFORMED[kind])
    _reseal(saved)
    with pytest.raises(BadInputError, match=r"optimizer\.safetensors: not a readable"):
        _everything(saved)


@pytest.mark.parametrize(
    ("change", "value"),
    [
        (("state", "step"), "3"),
        (("state", "step"), 3.0),
        (("state", "step"), True),
        (("state", "phase"), "neither"),
        (("state", "elapsed_s"), None),
        (("state", "elapsed_s"), float("nan")),
        (("state", "best"), {"step": 1}),
        (("state", "scaler"), {"scale": "1"}),
        (("state", "more"), 1),
        (("sha256", "../../secret"), "0" * 64),
        (("format_version",), 2),
        (("optimizer_groups",), {}),
    ],
)
def test_a_state_of_wrong_types_is_refused(change: tuple[str, ...], value: object, saved: Path) -> None:
    path = saved / "checkpoint.json"
    content = json.loads(path.read_text())
    node = content
    for key in change[:-1]:
        node = node[key]
    node[change[-1]] = value
    del content["content_sha256"]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(content | {"content_sha256": digest}))
    with pytest.raises(BadInputError, match=r"checkpoint\.json"):
        load_model(Net(), saved)


@pytest.mark.parametrize("key", ["skipped", "best", "step"])
def test_a_state_that_lacks_a_key_is_refused(key: str, saved: Path) -> None:
    path = saved / "checkpoint.json"
    content = json.loads(path.read_text())
    del content["state"][key]
    path.write_text(json.dumps(content))
    _reseal(saved)
    with pytest.raises(BadInputError, match=r"checkpoint\.json"):
        load_model(Net(), saved)


@pytest.mark.parametrize("text", ["", "[1]", "null", "{}", "[" * 100_000])
def test_what_is_no_checkpoint_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"not a checkpoint \(no checkpoint\.json\)"):
        load_model(Net(), tmp_path)
    (tmp_path / "checkpoint.json").write_text(text)
    with pytest.raises(BadInputError, match=r"checkpoint\.json: damaged"):
        load_model(Net(), tmp_path)


def test_an_optimiser_of_another_model_is_refused(saved: Path) -> None:
    class Other(Net):
        def __init__(self) -> None:
            super().__init__()
            self.more = nn.Linear(1, 1)

    model = Other()
    with pytest.raises(BadInputError, match=r"model\.safetensors: weights do not fit .*more\.weight"):
        restore(saved, model=model)
    model = Net()
    with pytest.raises(BadInputError, match=r"optimizer\.safetensors: has 3 groups of parameters, the optimiser 1"):
        restore(saved, model=model, optimizer=AdamW(model.parameters()))
    with pytest.raises(BadInputError, match=r"optimizer\.safetensors: does not fit this optimiser: (conv|norm)\."):
        restore(saved, model=model, optimizer=AdamW([{"params": model.linear.parameters()}, {"params": []}]))


def test_a_file_that_was_not_saved_is_named(run: Path) -> None:
    folder = save_checkpoint(run, _state(1), model=Net())
    model = Net()
    with pytest.raises(BadInputError, match=r"has no optimizer\.safetensors"):
        restore(folder, model=model, optimizer=_optimizer(model))
    with pytest.raises(BadInputError, match=r"has no ema\.safetensors"):
        restore(folder, model=model, ema=_ema(model))


def test_the_last_and_the_best_stay(run: Path) -> None:
    for step, best in ((1, (1, 1)), (2, (2, 2)), (3, (2, 2)), (4, (2, 2)), (5, (2, 2))):
        save_checkpoint(run, _state(step, epoch=step, best=best), model=Net(), keep_last=2)
    assert _names(run) == [f"step-0000000{step}-epoch-00{step}" for step in (2, 4, 5)]
    assert find_checkpoint(run, "best").name == find_checkpoint(run).name == "step-00000002-epoch-002"
    assert find_checkpoint(run, "last").name == "step-00000005-epoch-005"
    save_checkpoint(run, _state(6, epoch=6, best=(6, 6)), model=Net(), keep_last=1)
    assert _names(run) == ["step-00000006-epoch-006"]


def test_before_and_after_a_validation_are_two_checkpoints(run: Path) -> None:
    save_checkpoint(run, _state(4, epoch=0), model=Net())
    save_checkpoint(run, _state(4, epoch=1, best=(4, 1)), model=Net())
    assert [found.state.epoch for found in valid_checkpoints(run)] == [1, 0]


def test_a_damaged_newest_is_passed_over_and_told(run: Path) -> None:
    for step in (1, 2, 3):
        save_checkpoint(run, _state(step, best=(2, 1)), model=Net(), keep_last=3)
    (run / "checkpoints" / "step-00000003-epoch-001" / "model.safetensors").write_bytes(b"")
    told: list[str] = []
    assert find_checkpoint(run, "last", on_damaged=lambda error: told.append(str(error))).name.startswith(
        "step-00000002"
    )
    assert len(told) == 1
    assert "step-00000003-epoch-001" in told[0]


def test_a_damaged_best_gives_way_to_the_last_unless_asked_for(run: Path) -> None:
    for step in (1, 2):
        save_checkpoint(run, _state(step, best=(1, 1)), model=Net())
    (run / "checkpoints" / "step-00000001-epoch-001" / "model.safetensors").unlink()
    told: list[BadInputError] = []
    assert find_checkpoint(run, "auto", on_damaged=told.append).name == "step-00000002-epoch-001"
    assert len(told) == 1
    with pytest.raises(BadInputError, match="step-00000001-epoch-001"):
        find_checkpoint(run, "best")


def test_a_run_without_a_checkpoint_says_so(run: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="not a run folder"):
        find_checkpoint(tmp_path)
    with pytest.raises(BadInputError, match="has not saved one yet"):
        find_checkpoint(run)
    folder = save_checkpoint(run, _state(1), model=Net())
    assert find_checkpoint(run) == folder
    with pytest.raises(BadInputError, match="no best checkpoint"):
        find_checkpoint(run, "best")
    (folder / "checkpoint.json").unlink()
    with pytest.raises(BadInputError, match="Damaged: step-00000001-epoch-001"):
        find_checkpoint(run)


def test_a_step_done_twice_is_saved_once(saved: Path) -> None:
    before = (saved / "checkpoint.json").stat().st_ino
    assert save_checkpoint(saved.parents[1], _state(1), model=Net()) == saved
    assert (saved / "checkpoint.json").stat().st_ino == before


def test_a_damaged_checkpoint_is_replaced(saved: Path) -> None:
    (saved / "model.safetensors").write_bytes(b"")
    save_checkpoint(saved.parents[1], _state(1), model=Net())
    assert load_model(Net(), saved).step == 1
    assert _names(saved.parents[1]) == [saved.name]


def test_an_earlier_save_removes_the_damaged_later_ones_not_itself(run: Path) -> None:
    for step in (10, 30):
        save_checkpoint(run, _state(step), model=Net())
    (run / "checkpoints" / "step-00000030-epoch-001" / "model.safetensors").write_bytes(b"")
    save_checkpoint(run, _state(20), model=Net(), keep_last=1)
    assert _names(run) == ["step-00000020-epoch-001"]


def test_leftovers_of_dead_processes_go_and_those_of_live_ones_stay(run: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    parent = run / "checkpoints"
    for process in (dead.pid, os.getpid(), os.getppid()):
        (parent / f"step-00000001-epoch-001.tmp-{process}").mkdir(parents=True)
    save_checkpoint(run, _state(1), model=Net())
    assert _names(run) == ["step-00000001-epoch-001", f"step-00000001-epoch-001.tmp-{os.getppid()}"]


@pytest.mark.parametrize("name", FILES)
def test_a_full_disk_keeps_what_was_there_and_leaves_nothing(
    name: str, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = checkpoint_folder._write

    def until_full(path: Path, content: bytes) -> None:
        write(path, content[: len(content) // 2] if path.name == name else content)
        if path.name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint_folder, "_write", until_full)
    model = Net()
    ema = _ema(model)
    # conv, norm and linear in float32, an int64 counter of the norm; all that again, and a counter, for the average
    needed = 2 * (4 * (3 * 4 * 9 + 4 + 4 * 4 + 4 * 2 + 2) + 8) + 8
    with pytest.raises(OutOfResourcesError, match=rf"step-00000002-epoch-001: the disk is full; .* {needed:,} bytes"):
        save_checkpoint(saved.parents[1], _state(2), model=model, optimizer=_optimizer(model), ema=ema)
    assert _names(saved.parents[1]) == [saved.name]
    assert _everything(saved).step == 1


def test_a_place_that_cannot_be_written_is_named(run: Path) -> None:
    (run / "checkpoints").write_text("in the way")
    with pytest.raises(BadInputError, match="checkpoints"):
        save_checkpoint(run, _state(1), model=Net())


def test_the_end_of_every_epoch_stays_where_wanted(run: Path) -> None:
    save_config(small.config("checkpoint.keep_epochs=true"), path=run / "config.yaml")
    places = [(1, 0), (2, 0), (2, 1), (3, 1), (4, 1), (4, 2), (5, 2), (6, 2)]  # epochs of two steps, saved at each
    for step, epoch in places:
        save_checkpoint(run, _state(step, epoch=epoch, best=(2, 1)), model=Net(), keep_last=1, keep_epochs=True)
    assert _names(run) == ["step-00000002-epoch-001", "step-00000004-epoch-002", "step-00000006-epoch-002"]
    assert find_checkpoint(run, "epoch-2").name == "step-00000004-epoch-002"
    assert {epoch: folder.name for epoch, folder in kept_epochs(run).items()} == {
        1: "step-00000002-epoch-001",
        2: "step-00000004-epoch-002",
    }
    with pytest.raises(BadInputError, match="no checkpoint of epoch 3; there is one of 1, 2"):
        find_checkpoint(run, "epoch-3")
    (run / "checkpoints" / "step-00000004-epoch-002" / "model.safetensors").write_bytes(b"")
    with pytest.raises(BadInputError, match=r"epoch-002/model\.safetensors: damaged"):
        find_checkpoint(run, "epoch-2")  # and not what was saved in the midst of epoch 3


def test_a_run_that_keeps_no_epochs_says_so(run: Path) -> None:
    save_config(small.config(), path=run / "config.yaml")
    save_checkpoint(run, _state(2), model=Net())
    with pytest.raises(BadInputError, match=r"has no checkpoint of every epoch.*checkpoint\.keep_epochs=true"):
        find_checkpoint(run, "epoch-1")


@pytest.mark.parametrize("name", ["params", "lr"])
def test_a_checkpoint_counts_no_settings(saved: Path, name: str) -> None:
    model = Net()
    optimizer = _optimizer(model)
    with pytest.raises(BadInputError, match="it has counters with the names of settings"):
        restore_optimizer(optimizer, model, {}, [{name: 1}] * len(optimizer.param_groups), path=saved)
