"""What a whole run does beside its steps: averages, freezing, stopping early, sizes, saving."""

import json
import math
from pathlib import Path

import pytest
import small
import torch

from rsna_e2e.config import RunConfig
from rsna_e2e.core.errors import BadInputError, OutOfResourcesError
from rsna_e2e.model.network import JointModel
from rsna_e2e.store import Store
from rsna_e2e.training import loop as trainer_module
from rsna_e2e.training.checkpoint import find_checkpoint, load_model, valid_checkpoints
from rsna_e2e.training.train import TrainSummary, train

pytestmark = pytest.mark.usefixtures("one_thread")

CLOSE = {"rtol": 0, "atol": 1e-6}  # a float32 average of three weights


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small.make_store(tmp_path_factory.mktemp("trainer"))


def lines(run: Path, kind: str) -> list[dict[str, float]]:
    every = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in every if line["kind"] == kind]


def weights(run: Path, folder: Path, config: RunConfig, *, prefer_ema: bool = False) -> dict[str, torch.Tensor]:
    model = JointModel(config.model, n_channels=3, n_labels=6)
    load_model(model, folder, prefer_ema=prefer_ema)
    return model.state_dict()


def test_the_average_of_weights_is_saved_validated_and_predicted_with(store: Store, tmp_path: Path) -> None:
    run, decay = tmp_path / "run", 0.75
    config = small.config("ema_decay=0.75", "checkpoint.every_steps=1", "checkpoint.keep_last=99")
    train(store, run, config)
    folders = [checkpoint.folder for checkpoint in reversed(list(valid_checkpoints(run)))]
    steps = [weights(run, folder, config) for folder in folders]
    expected = steps[0]["head.linear.weight"]  # the first is taken as it is
    for folder, step in zip(folders[1:-1], steps[1:-1], strict=True):  # the last is the end of the epoch, no step
        expected = decay * expected + (1 - decay) * step["head.linear.weight"]
        averaged = weights(run, folder, config, prefer_ema=True)["head.linear.weight"]
        torch.testing.assert_close(averaged, expected, **CLOSE)
    assert len(folders) > 2
    assert not torch.equal(expected, steps[-1]["head.linear.weight"])


@pytest.mark.parametrize(("overrides", "n_lstms"), [((), 2), (("ema_decay=0.75",), 4)])
def test_all_lstms_have_their_weights_in_one_piece(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...], n_lstms: int
) -> None:
    """Also those of the average, which a copy leaves in pieces."""
    flattened: list[torch.nn.RNNBase] = []
    flatten = torch.nn.LSTM.flatten_parameters

    def note(self: torch.nn.LSTM) -> None:
        if self not in flattened:
            flattened.append(self)
        flatten(self)

    monkeypatch.setattr(torch.nn.LSTM, "flatten_parameters", note)
    train(store, tmp_path / "run", small.config(*overrides))
    assert len(flattened) == n_lstms


@pytest.mark.parametrize(("few", "is_tuned"), [(8, True), (0, False)])
def test_convolutions_are_tuned_where_shapes_are_few(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: int, is_tuned: bool
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", not is_tuned)
    monkeypatch.setattr(trainer_module, "_FEW_SHAPES", few)
    embed, seen = JointModel.embed, set()

    def note(self: JointModel, images: torch.Tensor) -> torch.Tensor:
        if len(images) > 1:  # a single one is tried before all begins
            seen.add((self.training, torch.backends.cudnn.benchmark))
        return embed(self, images)

    monkeypatch.setattr(JointModel, "embed", note)
    train(store, tmp_path / "run", small.config("epochs=1", "chunk=8", "graph_slices=8"))
    assert seen == {(True, is_tuned), (False, False)}  # never in validation
    assert torch.backends.cudnn.benchmark == is_tuned


def test_a_backbone_that_is_frozen_for_an_epoch_learns_in_the_next(store: Store, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = small.config("freeze_backbone_epochs=1", "epochs=2", "checkpoint.keep_last=99")
    train(store, run, config)
    torch.manual_seed(config.seed)
    first = JointModel(config.model, n_channels=3, n_labels=6).state_dict()
    after = {c.state.epoch: weights(run, c.folder, config) for c in valid_checkpoints(run)}
    name = "backbone.conv1.0.weight"
    assert torch.equal(after[1][name], first[name])
    assert not torch.equal(after[2][name], first[name])
    assert not torch.equal(after[1]["head.linear.weight"], first["head.linear.weight"])


def test_a_run_that_gets_no_better_stops_early(store: Store, tmp_path: Path) -> None:
    still = ["optimizer.learning_rate=1e-30", "optimizer.head_learning_rate=1e-30", "optimizer.weight_decay=0"]
    summary = train(store, tmp_path / "run", small.config("epochs=9", "early_stopping_epochs=2", *still))
    assert [line["epoch"] for line in lines(tmp_path / "run", "validation")] == [1, 2, 3]
    assert summary.best_epoch == 1


def test_images_grow_with_the_epochs(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, bool]] = []
    embed = JointModel.embed

    def note(self: JointModel, images: torch.Tensor) -> torch.Tensor:
        seen.append((images.shape[-1], self.training))
        return embed(self, images)

    monkeypatch.setattr(JointModel, "embed", note)
    sizes = ["epochs=3", "image.size=48", "image.size_from_epoch={1: 32, 2: 40}", "chunk=64", "graph_slices=64"]
    train(store, tmp_path / "run", small.config(*sizes, "image.size_from_epoch={1: 32, 2: 40, 3: 48}"))
    training = [size for size, is_training in seen if is_training]
    assert sorted(set(training)) == [32, 40, 48]
    assert training == sorted(training)
    assert {size for size, is_training in seen[4:] if not is_training} == {48}  # after the trials of all sizes


def test_accumulation_takes_fewer_steps_over_the_same_series(store: Store, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    train(store, one, small.config())
    train(store, two, small.config("accumulate=2"))
    singles, pairs = lines(one, "train_series"), lines(two, "train_series")
    assert len(pairs) == math.ceil(len(singles) / 2)
    assert sum(line["n_series"] for line in pairs) == sum(line["n_series"] for line in singles)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_learns(store: Store, tmp_path: Path, precision: str) -> None:
    summary = train(store, tmp_path / "run", small.config(f"precision={precision}", "epochs=2"), device="cpu")
    assert summary.compute == f"cpu, {precision}"
    losses = [line["loss"] for line in lines(tmp_path / "run", "train_series")]
    assert losses[-1] < losses[0]


def test_the_head_for_whole_series_has_a_loss_of_its_own(store: Store, tmp_path: Path) -> None:
    train(store, tmp_path / "run", small.config("model.study_loss_weight=0.5", "epochs=3"))
    losses = [line["study_loss"] for line in lines(tmp_path / "run", "train_series")]
    assert losses[-1] < losses[0]


def test_a_full_disk_stops_a_run_or_not_as_it_is_told(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save, fails = trainer_module.save_checkpoint, []

    def full(run: Path, state: object, **arguments: object) -> Path:
        if state.step in (2, 3):
            fails.append(state.step)
            raise OutOfResourcesError("the disk is full")
        return save(run, state, **arguments)

    monkeypatch.setattr(trainer_module, "save_checkpoint", full)
    every = ["checkpoint.every_steps=1", "epochs=2"]
    with pytest.raises(OutOfResourcesError):
        train(store, tmp_path / "stops", small.config(*every))
    assert next(valid_checkpoints(tmp_path / "stops")).state.step == 1
    config = small.config(*every, "checkpoint.on_disk_full=continue")
    summary = train(store, tmp_path / "goes_on", config)
    assert [f"no checkpoint at step {step}: the disk is full" for step in fails[1:]] == caplog.messages
    assert next(valid_checkpoints(tmp_path / "goes_on")).state.step == summary.steps
    assert fails[0] == 2
    assert fails[1:3] == [2, 2]  # at the step, and at the end of its epoch


def test_a_run_that_has_ended_is_not_run_again(store: Store, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = train(store, run, small.config())
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    again = train(store, run, small.config(), resume=True)
    assert isinstance(again, TrainSummary)
    assert again == first
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_a_run_is_not_resumed_on_other_data(store: Store, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(store, run, small.config())
    (run / "summary.json").unlink()
    other = small.make_store(tmp_path / "other", sides=(40,))
    with pytest.raises(BadInputError, match=r"run: was started with other data than .*store"):
        train(other, run, small.config(), resume=True)


def test_the_last_and_the_best_checkpoints_stay(store: Store, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(store, run, small.config("epochs=4", "checkpoint.every_steps=1", "checkpoint.keep_last=1"))
    kept = {path.name for path in (run / "checkpoints").iterdir()}
    assert kept == {find_checkpoint(run, "last").name, find_checkpoint(run, "best").name}
