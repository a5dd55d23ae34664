"""Classifiers of single images: runs without a head, and what uses them."""

import json
from pathlib import Path

import numpy as np
import pytest
import small
import torch
from pydantic import ValidationError

from rsna_e2e.cli import main
from rsna_e2e.config import save_config
from rsna_e2e.core.errors import UsageError
from rsna_e2e.inference.predict import predict
from rsna_e2e.inference.predictions import predictions_path, read_predictions
from rsna_e2e.model.network import JointModel
from rsna_e2e.store import Store
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.metrics import weighted_log_loss
from rsna_e2e.tools.bench.train import bench_train
from rsna_e2e.training.checkpoint import find_checkpoint, kept_epochs, load_model
from rsna_e2e.training.lr_range import find_learning_rate
from rsna_e2e.training.train import TrainSummary, train

pytestmark = pytest.mark.usefixtures("one_thread")

FP32 = {"rtol": 0, "atol": 1e-5}  # float32 sums in another order


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small.make_store(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def trained(store: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainSummary]:
    run = tmp_path_factory.mktemp("runs") / "run"
    return run, train(store, run, small.image_config(epochs=3))


def lines(run: Path, kind: str) -> list[dict[str, float]]:
    every = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in every if line["kind"] == kind]


def model_of(run: Path, name: str) -> JointModel:
    model = JointModel(small.image_config().model, n_channels=3, n_labels=6)
    load_model(model, find_checkpoint(run, name))
    return model.eval()


def test_a_classifier_of_images_has_no_head_and_its_logits_are_those_of_slices() -> None:
    model = JointModel(small.image_config().model, n_channels=3, n_labels=6).eval()
    assert model.head is None
    images, lengths = torch.randn(5, 3, 32, 32), torch.tensor([2, 3])
    logits = model(images, lengths)
    alone = torch.cat([model(image[None], torch.tensor([1])).slices for image in images])
    torch.testing.assert_close(logits.slices, alone, **FP32)
    torch.testing.assert_close(logits.slices, model.classify_slices(model.embed(images)), **FP32)
    assert logits.series is None


def test_epochs_of_slices_are_scored_and_the_best_is_kept(trained: tuple[Path, TrainSummary]) -> None:
    run, summary = trained
    scores = {line["epoch"]: line["weighted_log_loss"] for line in lines(run, "validation")}
    assert list(scores) == [1, 2, 3]
    assert {line["kind"] for line in lines(run, "train_slices")} == {"train_slices"}
    assert not lines(run, "train_series")
    assert summary.best is not None
    assert scores[summary.best_epoch] == min(scores.values()) == summary.best.weighted_log_loss


def test_slices_before_joint_epochs_are_not_scored(store: Store, tmp_path: Path) -> None:
    phase = "slice_phase={epochs: 1, slices_per_batch: 4, optimizer: {learning_rate: 0.01}}"
    train(store, tmp_path / "run", small.config(phase))
    assert [line["epoch"] for line in lines(tmp_path / "run", "validation")] == [2]


def test_every_epoch_can_be_predicted_with(
    trained: tuple[Path, TrainSummary], store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = trained
    assert list(kept_epochs(run)) == [1, 2, 3]
    out = tmp_path / "submission.csv"
    words = ["predict", str(run), str(store.path), "--out", str(out), "--split", "train", "--device", "cpu"]
    assert main([*words, "--checkpoint", "epoch-2"]) == 0
    assert "epoch-002" in capsys.readouterr().out
    table = read_predictions(predictions_path(out), ICH)
    held_out = [span for span in store.series if span.fold == 0]
    rows = [row for span in held_out for row in range(span.first_row, span.first_row + span.n_slices)]
    ids = [str(image_id) for image_id in store.index["image_id"][rows]]
    predicted = table.probability[[table.image_ids.index(image_id) for image_id in ids]]
    loss = weighted_log_loss(store.labels[rows].astype(np.float64), predicted, np.array(ICH.slices.weights))
    (logged,) = (line for line in lines(run, "validation") if line["epoch"] == 2)
    assert loss == pytest.approx(logged["weighted_log_loss"], abs=1e-6)  # float32 sums of other batches


def test_a_wrong_checkpoint_is_refused_by_the_command_line(tmp_path: Path) -> None:
    for name in ("epoch-0", "epoch-", "first", "epoch-1x"):
        with pytest.raises(SystemExit) as error:
            main(["predict", str(tmp_path), str(tmp_path), "--checkpoint", name])
        assert error.value.code == 2


def test_a_classifier_that_gets_no_better_stops_early(store: Store, tmp_path: Path) -> None:
    still = "slice_phase.optimizer.learning_rate=1e-30"
    summary = train(store, tmp_path / "run", small.image_config(still, "early_stopping_epochs=2", epochs=9))
    assert [line["epoch"] for line in lines(tmp_path / "run", "validation")][:1] == [1]
    assert len(lines(tmp_path / "run", "validation")) < 9
    assert summary.best is not None


def test_a_resumed_classifier_ends_with_the_same_weights(store: Store, tmp_path: Path) -> None:
    stop_after = iter([False] * 7 + [True])
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    train(store, whole, small.image_config())
    with pytest.raises(Exception, match="stopped by a signal"):
        train(store, halved, small.image_config(), is_stopping=lambda: next(stop_after, False))
    train(store, halved, small.image_config(), resume=True)
    for epoch in ("epoch-1", "epoch-2"):
        first, second = model_of(whole, epoch), model_of(halved, epoch)
        assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_learning_rates_are_tested_on_slices_alone(store: Store) -> None:
    options = {"lowest": 1e-4, "highest": 1e-2, "n_steps": 10}
    assert find_learning_rate(store, small.image_config(), phase="slices", device="cpu", **options) is not None
    with pytest.raises(UsageError, match=r"no phase on whole series \(epochs=0\)\. Use --phase slices"):
        find_learning_rate(store, small.image_config(), phase="series", device="cpu", **options)


def test_the_benchmark_times_the_phase_there_is(store: Store, tmp_path: Path) -> None:
    save_config(small.image_config("chunk=8", "graph_slices=8"), path=tmp_path / "images.yaml")
    result = bench_train(store.path, recipe=tmp_path / "images.yaml", steps=1, rounds=1, device="cpu")
    assert [phase.phase for phase in result.phases] == ["single slices"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs=1", "set epochs=0 and give a slice_phase"),
        ("slice_phase=null", "set epochs=0 and give a slice_phase"),
        ("model.study_loss_weight=0.5", "needs a recurrent head"),
        ("model.head=lstm", "leaves the head untrained"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(override: str, message: str) -> None:
    with pytest.raises((ValidationError, UsageError), match=message):
        small.image_config(override)


def test_predictions_of_a_split_without_labels(
    trained: tuple[Path, TrainSummary], store: Store, tmp_path: Path
) -> None:
    predicted = predict(trained[0], store, split="test", out=tmp_path / "s.csv", device="cpu")
    assert predicted.n_slices == 4


@pytest.mark.parametrize("values", ["uint8", "jpeg"])
def test_a_classifier_learns_from_the_published_images(store: Store, tmp_path: Path, values: str) -> None:
    published = (f"image.values={values}", "image.square=upper_left", "image.crop=slice")
    train(store, tmp_path / "run", small.image_config(*published, epochs=4), device="cpu")
    losses = [line["loss"] for line in lines(tmp_path / "run", "train_slices")]
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    predicted = predict(tmp_path / "run", store, split="test", out=tmp_path / "s.csv", device="cpu")
    assert predicted.n_slices == 4
