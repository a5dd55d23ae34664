import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import small
import torch

from rsna_e2e.config import ModelConfig, RunConfig
from rsna_e2e.core.errors import DivergedError, UsageError
from rsna_e2e.core.process import Memory
from rsna_e2e.inference.predict import predict
from rsna_e2e.inference.predictions import predictions_path, read_predictions
from rsna_e2e.model.network import JointModel
from rsna_e2e.store import Store, StoreError
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import read_labels
from rsna_e2e.training.checkpoint import find_checkpoint, load_model
from rsna_e2e.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small.make_store(tmp_path_factory.mktemp("train"))


@pytest.fixture(scope="module")
def run(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(store, folder, small.config("epochs=2"))
    return folder


def _log(run: Path, kind: str) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def test_a_tiny_model_overfits_a_few_series(store: Store, tmp_path: Path) -> None:
    still = ["augment.hflip_probability=0", "augment.affine_probability=0", "validation_fold=null"]
    config = small.config("epochs=40", "optimizer.learning_rate=5e-3", "optimizer.weight_decay=0", *still)
    train(store, tmp_path / "run", config)
    losses = {epoch: [] for epoch in (1, 40)}
    for line in _log(tmp_path / "run", "train_series"):
        losses.get(line["epoch"], []).append(line["loss"])
    assert np.mean(losses[40]) < np.mean(losses[1]) / 10


def test_the_slice_phase_comes_first_and_leaves_the_head_alone(store: Store, tmp_path: Path) -> None:
    phase = {"epochs": 2, "slices_per_batch": 4, "optimizer": {"learning_rate": 0.01}}
    frozen = ["optimizer.learning_rate=1e-12", "optimizer.head_learning_rate=1e-12", "optimizer.weight_decay=0"]
    config = RunConfig.model_validate(small.config(*frozen).model_dump() | {"slice_phase": phase})
    train(store, tmp_path / "run", config)
    assert {line["epoch"] for line in _log(tmp_path / "run", "train_slices")} == {1, 2}
    assert {line["epoch"] for line in _log(tmp_path / "run", "train_series")} == {3}
    torch.manual_seed(config.seed)
    initial, trained = _model(), _model()
    load_model(trained, find_checkpoint(tmp_path / "run", "last"))
    torch.testing.assert_close(trained.head.state_dict(), initial.head.state_dict(), rtol=0, atol=1e-9)
    assert not torch.equal(next(trained.backbone.parameters()), next(initial.backbone.parameters()))


def test_a_run_leaves_what_is_needed_to_use_and_repeat_it(run: Path, store: Store) -> None:
    assert json.loads((run / "manifest.json").read_text())["data_hash"] == store.data_hash
    summary = json.loads((run / "summary.json").read_text())
    assert summary["best_epoch"] in (1, 2)
    assert summary["elapsed_s"] > 0
    assert 100 < summary["peak_mib"] <= Memory.read().peak_mib
    assert [line["epoch"] for line in _log(run, "validation")] == [1, 2]
    assert list((run / "tensorboard").glob("events*"))
    for name in ("best", "last"):
        load_model(_model(), find_checkpoint(run, name))


def test_the_same_seed_gives_the_same_weights(run: Path, store: Store, tmp_path: Path) -> None:
    train(store, tmp_path / "again", small.config("epochs=2"))
    first, again = _model(), _model()
    load_model(first, find_checkpoint(run, "last"))
    load_model(again, find_checkpoint(tmp_path / "again", "last"))
    for (name, a), b in zip(first.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_predictions_name_every_slice_of_the_split(run: Path, store: Store, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "submission.csv.gz"
    predict(run, store, split="test", out=out)
    span = next(span for span in store.series if span.split == "test")
    rows = slice(span.first_row, span.first_row + span.n_slices)
    submission = read_labels(out, ICH)
    assert submission.image_ids == sorted(store.index["image_id"][rows])
    table = read_predictions(predictions_path(out), ICH)
    assert table.slice_index.tolist() == [0, 1, 2, 3]
    assert table.position_mm.tolist() == store.index["position_mm"][rows].tolist()
    order = [submission.image_ids.index(image_id) for image_id in table.image_ids]
    np.testing.assert_array_equal(submission.values[order], table.probability)


def test_a_run_can_start_from_another(run: Path, store: Store, tmp_path: Path) -> None:
    frozen = ["optimizer.learning_rate=1e-12", "optimizer.head_learning_rate=1e-12", "optimizer.weight_decay=0"]
    train(store, tmp_path / "next", small.config(*frozen), init_from=run)
    first, following = _model(), _model()
    load_model(first, find_checkpoint(run))
    load_model(following, find_checkpoint(tmp_path / "next", "last"))
    for a, b in zip(first.parameters(), following.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_a_run_folder_in_use_is_left_alone(run: Path, store: Store) -> None:
    before = sorted(run.rglob("*"))
    with pytest.raises(UsageError, match=r"run: already exists. Continue the run with --resume auto, choose another"):
        train(store, run, small.config())
    assert sorted(run.rglob("*")) == before


def test_an_unknown_fold_is_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no series in fold 7; it has folds \[0, 1, 2\]"):
        train(store, tmp_path / "run", small.config("validation_fold=7"))
    assert not (tmp_path / "run").exists()


def test_a_diverging_run_names_its_series(store: Store, tmp_path: Path) -> None:
    wild = small.config(
        "optimizer.learning_rate=1e30", "optimizer.warmup_fraction=0", "epochs=9", "max_skipped_steps=3"
    )
    with pytest.raises(DivergedError, match=r"loss nan.* on series [0-9a-f]{8}.* the last of 3 steps in a row"):
        train(store, tmp_path / "run", wild)
    (bundle,) = (tmp_path / "run" / "debug").iterdir()
    findings = json.loads((bundle / "rank-0.json").read_text())
    assert findings["series"]
    assert all(s["images_are_finite"] and not s["embeddings_are_finite"] for s in findings["series"])
    weights = safetensors.torch.load_file(bundle / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert [line["skipped"] for line in _log(tmp_path / "run", "train_series")][-3:] == [1, 2, 3]


def test_a_run_that_fails_before_its_first_checkpoint_leaves_no_folder(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise StoreError("damaged")

    monkeypatch.setattr(store, "read_slices", fail)
    with pytest.raises(StoreError):
        train(store, tmp_path / "run", small.config())
    assert not (tmp_path / "run").exists()


def test_weights_that_are_not_finite_are_not_saved(store: Store, tmp_path: Path) -> None:
    one_step = small.config(
        "optimizer.learning_rate=1e38", "optimizer.warmup_fraction=0", "loader.slices_per_batch=999"
    )
    with pytest.raises(DivergedError, match="is not finite after step 1"):
        train(store, tmp_path / "run", one_step)


def test_a_backbone_that_cannot_take_the_size_is_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"vit_tiny_patch16_224 does not take images of 32 px"):
        train(store, tmp_path / "run", small.config("model.backbone=vit_tiny_patch16_224"))
    with pytest.raises(UsageError, match=r"backbone_arguments do not suit test_resnet"):
        train(store, tmp_path / "run", small.config("model.backbone_arguments={depths: 1}"))
    assert not (tmp_path / "run").exists()


def _model() -> JointModel:
    config: ModelConfig = small.config().model
    return JointModel(config, n_channels=3, n_labels=6)
