"""Networks that find boxes where something is missing, frozen, or not finite."""

from dataclasses import replace
from pathlib import Path

import pytest
import rectangles
import torch
from rank_jobs import weights

from rsna_e2e.cli import main
from rsna_e2e.config import load_config
from rsna_e2e.core.device import Compute, choose_compute
from rsna_e2e.inference.predict import predict
from rsna_e2e.loader.batch import SeriesBatch
from rsna_e2e.loader.choice import choose_loader
from rsna_e2e.loader.image_loader import ImageLoader
from rsna_e2e.model.box_model import BoxModel
from rsna_e2e.model.make import make_network
from rsna_e2e.store import Store
from rsna_e2e.tasks.pneumonia import PNEUMONIA
from rsna_e2e.training.box_validation import BoxValidation, validate_boxes
from rsna_e2e.training.distributed import ALONE
from rsna_e2e.training.divergence import write_bundle
from rsna_e2e.training.objectives import BoxObjective
from rsna_e2e.training.prepared_run import RunData
from rsna_e2e.training.step import StepResult
from rsna_e2e.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORKS = {"detector": rectangles.config, "segmenter": rectangles.segmenter_config}
N_UNKNOWN = 2


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Of the images 0, 3, 6 ... nothing is to be found; of the last two nobody says what they have."""
    return rectangles.make_store(tmp_path_factory.mktemp("boxes"), 14, n_unknown=N_UNKNOWN)


@pytest.fixture
def compute() -> Compute:
    return choose_compute("fp32", "cpu")


def make(name: str, store: Store, compute: Compute) -> tuple[BoxModel, ImageLoader]:
    torch.manual_seed(0)
    config = NETWORKS[name]()
    model = make_network(config.model, PNEUMONIA)
    loader = choose_loader(store, config, task=PNEUMONIA, compute=compute)
    assert isinstance(model, BoxModel)
    assert isinstance(loader, ImageLoader)
    return model, loader


def first_batch(loader: ImageLoader) -> SeriesBatch:
    """The images 1 and 2, of which both have boxes."""
    return next(loader.load_slices([(1, 2)], epoch=1))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_batch_of_which_no_box_is_known_teaches_nothing(name: str, store: Store, compute: Compute) -> None:
    model, loader = make(name, store, compute)
    batch = first_batch(loader)
    assert batch.boxes is not None
    nothing = torch.zeros(0, dtype=torch.int64)
    unknown = replace(
        batch.boxes,
        edges=torch.zeros(0, 4),
        classes=nothing,
        images=nothing,
        known=torch.zeros_like(batch.boxes.known),
    )
    objective = BoxObjective(model, NETWORKS[name](), compute, ranks=ALONE)
    objective.set_modes(frozen=[])
    batches = [replace(batch, boxes=unknown), batch]
    losses = []
    for one in batches:
        reported, _ = objective.backward(
            *(one, objective.totals(batches)),
            step=0,
            scaler=torch.amp.GradScaler("cpu", enabled=False),
            before_last=lambda: None,
        )
        losses.append(reported)
        if one is batches[0]:
            assert all(weight.grad is None for weight in model.parameters())
    assert objective.totals(batches) == 2
    assert not losses[0].any()
    assert losses[1][0] == pytest.approx(float(losses[1][1:].sum()), rel=1e-6)
    assert losses[1][0] > 0


@pytest.mark.parametrize("name", NETWORKS)
def test_a_frozen_backbone_stays_and_the_rest_learns(name: str, store: Store, tmp_path: Path) -> None:
    for rate in ("0.001", "0.1"):
        settings = ("slice_phase.freeze_backbone_epochs=all", f"slice_phase.optimizer.learning_rate={rate}")
        train(store, tmp_path / rate, NETWORKS[name](*settings, "slice_phase.epochs=1"))
    slow, fast = (weights(tmp_path / rate) for rate in ("0.001", "0.1"))
    same = {key for key, tensor in slow.items() if torch.equal(tensor, fast[key])}
    backbone = {key for key in slow if key.startswith("backbone.")}
    assert backbone <= same
    assert len(same) < len(slow)


def test_without_a_held_out_fold_training_images_are_scored_and_no_score_is_chosen(
    store: Store, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    settings = ("validation_fold=null", "training_slices_scored=5", "slice_phase.epochs=1")
    best = train(store, run, rectangles.config(*settings)).best
    if best is not None:  # untrained, it may find nothing that counts
        assert isinstance(best, BoxValidation)
        assert "TRAINING images, no validation" in best.describe("opacity")
    text = (run / "metrics.jsonl").read_text()
    assert '"n_training_slices": 5' in text
    assert not (run / "operating_points.json").exists()


def test_images_without_labels_have_no_truth_beside_them(store: Store, tmp_path: Path) -> None:
    train(store, tmp_path / "run", rectangles.config("slice_phase.epochs=1"))
    done = predict(tmp_path / "run", store, split="test", out=tmp_path / "s.csv", device="cpu")
    assert (done.truth, done.n_slices) == (None, N_UNKNOWN)
    assert not (tmp_path / "s.csv.truth.csv").exists()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_stop_during_validation_leaves_it_undone(name: str, store: Store, compute: Compute) -> None:
    model, loader = make(name, store, compute)
    arguments = (model, loader, [0, 1, 2], store, PNEUMONIA, compute)
    assert validate_boxes(*arguments, is_stopping=lambda: True) is None
    assert validate_boxes(*arguments) is not None


def test_a_fold_without_a_box_is_told(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rsna_e2e.training.prepared_run.hold_out", lambda store, config: ([1, 2], [0, 3]))
    RunData.of(store, rectangles.config())
    assert "no image of the fold that is held out has a box" in caplog.text


@pytest.mark.parametrize("name", NETWORKS)
def test_the_image_that_is_not_finite_is_the_suspect(name: str, store: Store, compute: Compute, tmp_path: Path) -> None:
    model, loader = make(name, store, compute)
    batch = first_batch(loader)
    images = batch.images[0:2].clone()
    images[1] = torch.inf
    result = StepResult(
        loss=torch.nan,
        series_loss=torch.nan,
        gradient_norm=torch.nan,
        learning_rate=1e-3,
        is_skipped=True,
        is_overflow=False,
        recompute_error=0.0,
        heads_agree=True,
        busy_share=1.0,
    )
    suspects = write_bundle(
        tmp_path,
        step=3,
        rank=0,
        result=result,
        model=model,
        batches=[replace(batch, images=images)],
        compute=compute,
    )
    assert suspects == [batch.series_keys[1][:8]]


@pytest.mark.parametrize("recipe", ["xray_boxes_demo", "xray_segment_demo"])
def test_its_layers_are_listed(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", "--recipe", recipe]) == 0
    model = make_network(load_config(recipe).model, PNEUMONIA)
    n_weights = sum(weight.numel() for weight in model.parameters())
    assert f"{n_weights:,} weights: {n_weights:,} learned, 0 frozen" in capsys.readouterr().out
