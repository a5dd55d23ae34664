"""Predictions over several views of every image."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import small
import torch

from rsna_e2e.cli import main
from rsna_e2e.core.errors import UsageError
from rsna_e2e.inference.predictions import read_predictions
from rsna_e2e.inference.predictor import Predictor
from rsna_e2e.inference.trained_model import TrainedModel
from rsna_e2e.store import Store
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")

SAME = {"rtol": 0, "atol": 1e-6}  # float32, in batches of other sizes


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small.make_store(tmp_path_factory.mktemp("views"))


@pytest.fixture(scope="module")
def run(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(store, folder, small.config("model.study_loss_weight=0.5"), device="cpu")
    return folder


@torch.inference_mode()
def by_hand(run: Path, store: Store, position: int, axes: list[tuple[int, ...]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean probabilities of the slices and of one series, over images that are mirrored along these axes."""
    trained = TrainedModel.open(run, device="cpu")
    (batch,) = trained.loader(store).load([(position,)], epoch=None)
    images = batch.images[:].clone()
    seen = [trained.network(images.flip(flipped), batch.series_lengths) for flipped in axes]
    assert all(logits.series is not None for logits in seen)
    slices = sum(torch.sigmoid(logits.slices) for logits in seen) / len(seen)
    series = sum(torch.sigmoid(logits.series) for logits in seen) / len(seen)
    return slices.numpy(), series.numpy()


def test_the_mean_is_over_an_image_and_its_mirror(run: Path, store: Store) -> None:
    predicted = Predictor(TrainedModel.open(run, device="cpu"), store, views=("plain", "hflip"))([0])
    slices, series = by_hand(run, store, 0, [(), (3,)])
    np.testing.assert_allclose(predicted.slices, slices, **SAME)
    assert predicted.series is not None
    np.testing.assert_allclose(predicted.series, series, **SAME)
    plain, _ = by_hand(run, store, 0, [()])
    assert np.abs(plain - slices).max() > 1e-4


def test_the_verb_takes_views(run: Path, store: Store, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    words = ["predict", str(run), str(store.path), "--split", "train", "--out", str(out), "--device", "cpu"]
    assert main([*words, "--views", "hflip"]) == 0
    table = read_predictions(tmp_path / "out.csv.predictions.parquet", ICH)
    slices, _ = by_hand(run, store, 0, [(3,)])
    np.testing.assert_allclose(table.probability[: len(slices)], slices, **SAME)
    with pytest.raises(SystemExit):
        main([*words, "--views", "hflip,hflip"])


def test_stored_embeddings_have_no_views(store: Store) -> None:
    trained: Any = SimpleNamespace(embeddings=object())
    with pytest.raises(UsageError, match="--views are of images"):
        Predictor(trained, store, views=("hflip",))
