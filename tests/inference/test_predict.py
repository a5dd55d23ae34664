"""Refusals of prediction, each with the way out: empty splits, weights that are no numbers, damaged manifests."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import sequences
import small
import torch

from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.inference.embed import extract
from rsna_e2e.inference.predict import predict
from rsna_e2e.inference.predict_epochs import predict_epochs
from rsna_e2e.inference.predictor import Predictor
from rsna_e2e.inference.trained_model import TrainedModel
from rsna_e2e.store import Store
from rsna_e2e.store.prepare import prepare
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.training.run_layout import MANIFEST
from rsna_e2e.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Every series of it has labels."""
    folder = tmp_path_factory.mktemp("labelled")
    small.write_raw(folder / "raw", n_unlabelled=0)
    prepare(folder / "raw", folder / "store", task=ICH, n_folds=3, n_jobs=1)
    opened = Store.open(folder / "store")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def run(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(store, folder, small.image_config(), device="cpu")
    return folder


@pytest.mark.parametrize("verb", [predict, extract, predict_epochs])
def test_a_split_without_series_is_refused(verb: object, run: Path, store: Store, tmp_path: Path) -> None:
    assert callable(verb)
    with pytest.raises(UsageError, match=r"no series in split 'test'") as caught:
        verb(run, store, split="test", out=tmp_path / "out.csv", device="cpu")
    assert not list(tmp_path.iterdir())
    way_out = "--split all" if verb is extract else "prepare RAW STORE --holdout 0.2"
    assert str(caught.value).endswith(way_out)


def test_predictions_that_are_not_finite_are_refused(run: Path, store: Store) -> None:
    trained = TrainedModel.open(run, device="cpu")
    with torch.no_grad():
        next(trained.network.parameters()).fill_(torch.nan)
    with pytest.raises(BadInputError, match=r"epoch-\d+: predicts numbers that are not finite\. Use"):
        Predictor(trained, store)([0])


def test_a_manifest_that_does_not_say_what_was_learned_from_is_refused(store: Store, tmp_path: Path) -> None:
    embeddings = sequences.write_embeddings(tmp_path / "embeddings", store)
    train(store, tmp_path / "run", sequences.config(), embeddings=embeddings, device="cpu")
    TrainedModel.open(tmp_path / "run", device="cpu", embeddings=embeddings)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    (tmp_path / "copy" / MANIFEST).write_text("{}")
    with pytest.raises(BadInputError, match=r"manifest\.json: missing or damaged\. Put it back from a copy"):
        TrainedModel.open(tmp_path / "copy", device="cpu", embeddings=embeddings)
