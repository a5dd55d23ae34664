"""A trained run is opened in one way: which checkpoint it takes, what it says of damaged ones, what does not fit it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import sequences
import small
import torch

from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.inference.trained_model import TrainedModel
from rsna_e2e.store import Store
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.training.checkpoint import find_checkpoint
from rsna_e2e.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    opened = small.make_store(tmp_path_factory.mktemp("opened"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def run(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(store, folder, small.image_config("ema_decay=0.5"), device="cpu")
    return folder


def has_weights_of(trained: TrainedModel, checkpoint: Path) -> bool:
    """Whether the network holds what the file of averaged weights in a checkpoint holds, read without the package."""
    saved = safetensors.torch.load_file(checkpoint / "ema.safetensors")
    own = trained.network.state_dict()
    return all(torch.equal(own[name], saved[f"module.{name}"]) for name in own)


def test_it_holds_the_weights_of_the_checkpoint_that_is_asked_for(run: Path) -> None:
    first, second = (find_checkpoint(run, f"epoch-{epoch}") for epoch in (1, 2))
    trained = TrainedModel.open(run, "epoch-1", device="cpu")
    assert (trained.task, trained.checkpoint, trained.epoch, trained.damaged) == (ICH, first, 1, ())
    assert not trained.network.training
    assert has_weights_of(trained, first)
    assert not has_weights_of(trained, second)
    of_first = trained.weights_sha256
    trained.load("epoch-2")
    assert (trained.checkpoint, trained.epoch) == (second, 2)
    assert has_weights_of(trained, second)
    assert trained.weights_sha256 != of_first


def test_it_says_which_checkpoints_it_passed_over(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    best = find_checkpoint(copy)
    with (best / "ema.safetensors").open("ab") as file:
        file.write(b"x")
    trained = TrainedModel.open(copy, device="cpu")
    assert trained.checkpoint != best
    assert has_weights_of(trained, trained.checkpoint)
    (said,) = trained.damaged
    assert str(best) in said
    with pytest.raises(BadInputError, match="damaged"):
        trained.load("best")


def test_what_does_not_fit_the_run_is_refused(run: Path, store: Store, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="not a run folder"):
        TrainedModel.open(tmp_path)
    with pytest.raises(UsageError, match=r"learns from images\. Leave out --embeddings"):
        TrainedModel.open(run, device="cpu", embeddings=sequences.write_embeddings(tmp_path / "e", store))
