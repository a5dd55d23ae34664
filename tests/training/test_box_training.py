"""Networks that find boxes: they learn them, are scored as their submissions are, and go on as if never stopped."""

import json
from pathlib import Path

import numpy as np
import pytest
import rectangles
import torch
from rank_jobs import Job, weights

from rsna_e2e.cli import main
from rsna_e2e.config import save_config
from rsna_e2e.core.device import choose_compute
from rsna_e2e.core.errors import PreemptedError, UsageError
from rsna_e2e.core.table_files import table_at
from rsna_e2e.evaluation.boxes import evaluate_boxes
from rsna_e2e.inference.embed import extract
from rsna_e2e.inference.predict import predict
from rsna_e2e.inference.predict_epochs import predict_epochs
from rsna_e2e.loader.batch import BatchBoxes
from rsna_e2e.loader.choice import choose_loader
from rsna_e2e.model.box_model import BoxModel, FoundBoxes
from rsna_e2e.model.find_boxes import find_boxes
from rsna_e2e.store import Store
from rsna_e2e.tasks.boxes import make_boxes
from rsna_e2e.tasks.labels import read_box_submission
from rsna_e2e.tasks.metrics.boxes import iou
from rsna_e2e.tasks.pneumonia import PNEUMONIA
from rsna_e2e.training.box_validation import score_boxes
from rsna_e2e.training.checkpoint import find_checkpoint
from rsna_e2e.training.objectives.boxes import only_known
from rsna_e2e.training.operating_points import read_operating_points
from rsna_e2e.training.train import train

RESUMED = ("ema_decay=0.75", "augment.hflip_probability=0.5")
FILES = ("model.safetensors", "optimizer.safetensors", "ema.safetensors")
RATE = "{learning_rate: 0.003, schedule: cosine, warmup_fraction: 0.1, clip_norm: 2.0}"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Of 24 images; of three of them nobody says what boxes they have."""
    return rectangles.make_store(tmp_path_factory.mktemp("boxes"), 24, n_unknown=3)


@pytest.mark.slow
@pytest.mark.parametrize("detector", ["retinanet", "faster_rcnn", "mask_rcnn"])
def test_a_detector_learns_eight_images_by_heart(detector: str, tmp_path: Path) -> None:
    store = rectangles.make_store(tmp_path, 8)
    settings = ("validation_fold=null", "slice_phase.epochs=280", f"slice_phase.optimizer={RATE}")
    train(store, tmp_path / "run", rectangles.config(*settings, detector=detector))
    done = predict(tmp_path / "run", store, split="train", out=tmp_path / "found.csv", device="cpu")
    found = read_box_submission(table_at(done.submission), PNEUMONIA)
    true_boxes = rectangles.draw(8)[1]
    for number, image_id in enumerate(found.image_ids):
        assert image_id == f"image{number:03d}"
        sure = found.boxes.at((found.boxes.images == number) & (found.boxes.scores > 0.5))
        edges = true_boxes.at(true_boxes.images == number).edges
        assert len(sure) == len(edges)
        assert (iou(edges, sure.edges).max(axis=1, initial=0) >= 0.9).all()


SETTINGS = {
    **{name: rectangles.config(*RESUMED, detector=name) for name in ("retinanet", "faster_rcnn", "mask_rcnn")},
    "segmenter": rectangles.segmenter_config(*RESUMED),
}


@pytest.mark.parametrize("network", SETTINGS)
def test_one_that_was_stopped_ends_as_one_that_was_not(network: str, store: Store, tmp_path: Path) -> None:
    config = SETTINGS[network]
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(store, whole, config)

    def is_stopping() -> bool:
        return (run / "metrics.jsonl").is_file() and (run / "metrics.jsonl").read_text().count("train_slices") == 2

    with pytest.raises(PreemptedError):
        train(store, run, config, is_stopping=is_stopping)
    train(store, run, config, resume=True)
    last = find_checkpoint(run, "last"), find_checkpoint(whole, "last")
    for name in FILES:
        assert (last[0] / name).read_bytes() == (last[1] / name).read_bytes()
    assert _scores(run) == _scores(whole)


def _scores(run: Path) -> list[dict[str, object]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == "validation"]


def test_validation_scores_what_the_submission_scores(store: Store, tmp_path: Path) -> None:
    run = tmp_path / "run"
    summary = train(store, run, rectangles.config("slice_phase.epochs=30", f"slice_phase.optimizer={RATE}"))
    points = read_operating_points(run)
    assert points is not None
    done = predict(run, store, split="validation", out=tmp_path / "boxes.csv", device="cpu")
    assert done.truth is not None
    found = read_box_submission(table_at(done.submission), PNEUMONIA)
    assert found.boxes.scores.min(initial=1.0) >= points.thresholds["opacity"]
    scored = evaluate_boxes(done.submission, done.truth.path, task=PNEUMONIA, store=store, allow_missing=True)
    # places in a submission are to a thousandth of a pixel
    assert summary.best is not None
    assert scored.box_precision.value == pytest.approx(1 - summary.best.loss, abs=1e-9)
    assert 0 < scored.box_precision.value < 1  # at its ends the comparison would say little
    every = predict(run, store, split="validation", out=tmp_path / "raw.csv", is_raw=True, device="cpu")
    boxes = read_box_submission(table_at(every.submission), PNEUMONIA).boxes
    assert len(boxes) > len(found.boxes)


def test_the_truth_beside_a_submission_is_that_of_the_images(store: Store, tmp_path: Path) -> None:
    train(store, tmp_path / "run", rectangles.config("slice_phase.epochs=1"))
    done = predict(tmp_path / "run", store, split="train", out=tmp_path / "boxes.csv", device="cpu")
    assert done.truth is not None
    assert (done.truth.n_slices, done.truth.n_predicted) == (21, 21)
    given = (store.path.parent / "boxes.csv").read_text()
    assert done.truth.path.read_text() == given


def test_images_whose_boxes_are_unknown_teach_nothing() -> None:
    boxes = BatchBoxes(
        edges=torch.tensor([[0.0, 0, 3, 3], [1, 1, 4, 4], [2, 2, 5, 5]]),
        classes=torch.zeros(3, dtype=torch.int64),
        images=torch.tensor([0, 3, 3]),
        known=torch.tensor([True, False, False, True, True]),
    )
    known = only_known(boxes)
    assert known.images.tolist() == [0, 1, 1]
    assert known.known.tolist() == [True] * 3


def test_the_least_score_is_the_one_that_scores_best() -> None:
    true_boxes = make_boxes([0, 1], [[0, 0, 10, 10], [0, 0, 10, 10]])
    found = make_boxes([0, 1, 2, 3], [[0, 0, 10, 10]] * 4, [0.9, 0.6, 0.5, 0.8])
    scores = score_boxes(true_boxes, found, 5)
    # from 0.5 on 2 of 4 images, from 0.6 on 2 of 3, from 0.8 on 1 of 3 images, from 0.9 on 1 of 2
    assert scores.box_precision == pytest.approx(2 / 3)
    assert scores.least_score == pytest.approx(0.6, abs=0.02)
    # of the pairs of an image with a box and one without, (0.9, 0.5), (0.9, 0.8), (0.9, 0), (0.6, 0.5), (0.6, 0)
    assert scores.image_auc == pytest.approx(5 / 6)
    assert scores.n_positive == 2


def test_a_fold_in_which_nothing_is_found_or_true_has_scores() -> None:
    nothing = make_boxes([], [])
    scores = score_boxes(nothing, nothing, 3)
    assert scores.n_positive == 0
    assert np.isnan([scores.box_precision, scores.image_auc]).all()
    assert "undefined" in scores.describe("opacity")


def test_ranks_learn_what_one_learns(store: Store, tmp_path: Path) -> None:
    # RetinaNet draws nothing at random, and frozen norms do not see how images are divided
    settings = ("model.batchnorm=frozen", "slice_phase.optimizer={name: sgd, learning_rate: 0.001}")
    config = rectangles.config(*settings)
    for n_ranks in (1, 2):
        with Job(store.path, tmp_path / f"run{n_ranks}", config, n_ranks=n_ranks) as job:
            assert job.process.wait(timeout=240) == 0, job.messages
    one, two = (_scores(tmp_path / f"run{n_ranks}") for n_ranks in (1, 2))
    assert [line["box_precision"] for line in one] == pytest.approx([line["box_precision"] for line in two], abs=1e-6)
    ours, theirs = weights(tmp_path / "run1"), weights(tmp_path / "run2")
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-4, atol=1e-5)


def test_what_is_of_labels_alone_refuses_a_run_that_finds_boxes(store: Store, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(store, run, rectangles.config("checkpoint.keep_epochs=true", "slice_phase.epochs=1"))
    with pytest.raises(UsageError, match="finds boxes"):
        extract(run, store, tmp_path / "embeddings", device="cpu")
    with pytest.raises(UsageError, match="finds boxes"):
        predict_epochs(run, store, split="train", out=tmp_path / "mean.csv", device="cpu")
    with pytest.raises(UsageError, match="--views"):
        predict(run, store, split="train", out=tmp_path / "s.csv", views=("plain", "hflip"), device="cpu")
    assert not list(tmp_path.glob("*.csv"))


@pytest.mark.parametrize(
    "words",
    [
        ["compare", "STORE", "OUT", "--recipe", "CONFIG", "--vary", "seed=1,2"],
        ["pipeline", "joint", "--dry-run", "--data", "RAW", "--out", "OUT", "--recipe", "CONFIG"],
        ["bench", "train", "STORE", "--recipe", "CONFIG"],
        ["bench", "chunked", "--recipe", "CONFIG"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
@pytest.mark.parametrize("network", ["retinanet", "segmenter"])
def test_verbs_for_labels_refuse_networks_that_find_boxes_at_once(
    words: list[str], network: str, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    save_config(SETTINGS[network], path=config)
    places = {"STORE": store.path, "OUT": tmp_path / "out", "CONFIG": config, "RAW": store.path.parent / "raw"}
    assert main([str(places.get(word, word)) for word in words]) == 2
    assert "is for networks that predict labels" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("compile=true", "compile is for networks that predict labels"),
        ("slice_phase.validation_sampling=balanced", "boxes are scored on all images"),
        ("model.slice_loss_weight=1", "slice_loss_weight: of networks that predict labels"),
        ("model.classifier=mlp", "classifier: of networks that predict labels"),
        ("model.head=lstm", "set model.head=none"),
        ("model.segmenter={}", "finds boxes: set the other to null"),
    ],
)
def test_settings_that_mean_nothing_to_boxes_are_refused(setting: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        rectangles.config(setting)


def test_images_without_a_single_box_are_no_lesson(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    few = rectangles.make_store(tmp_path, 9)
    rows = {image: row for row, image in enumerate(few.index["image_id"].tolist())}
    table = "patientId,x,y,width,height,Target\n"
    (tmp_path / "none.csv").write_text(table + "".join(f"{image},,,,,0\n" for image in rows))
    assert main(["label", str(few.path), str(tmp_path / "none.csv"), "--task", "pneumonia", "--replace"]) == 0
    with pytest.raises(UsageError, match="none of the images to train on has a box"):
        train(Store.open(few.path), tmp_path / "run", rectangles.config())
    assert not (tmp_path / "run").exists()


def test_norms_that_are_frozen_need_no_second_image(store: Store, tmp_path: Path) -> None:
    config = rectangles.config("model.batchnorm=frozen", "slice_phase.slices_per_batch=2", "slice_phase.epochs=1")
    with Job(store.path, tmp_path / "run", config, n_ranks=2) as job:
        assert job.process.wait(timeout=240) == 0, job.messages


class Finder(BoxModel):
    """Finds in every image what it is told."""

    loss_names = ()

    def __init__(self, edges: list[list[float]]) -> None:
        super().__init__()
        self.edges = torch.tensor(edges)

    def losses(self, images_nCSS: torch.Tensor, boxes: BatchBoxes) -> dict[str, torch.Tensor]:
        raise NotImplementedError

    def find(self, images_nCSS: torch.Tensor) -> list[FoundBoxes]:
        n = len(self.edges)
        one = FoundBoxes(edges=self.edges, scores=torch.ones(n), classes=torch.zeros(n, dtype=torch.int64))
        return [one] * len(images_nCSS)


def test_boxes_of_images_become_those_of_slices_and_end_at_their_edges(store: Store) -> None:
    # 64 rows of 56 columns, in the middle of a square of 64: columns begin at 4. An image of 32 has half the pixels
    config = rectangles.config("image.size=32")
    compute = choose_compute("fp32", "cpu")
    loader = choose_loader(store, config, task=PNEUMONIA, compute=compute)
    finder = Finder([[-0.5, 3.5, 1.5, 7.5], [-0.5, 3.5, 4.5, 7.5], [9.5, 9.5, 19.5, 15.5]])
    found = find_boxes(finder, loader, [5, 2], store, compute=compute).in_store_order()
    assert found.rows.tolist() == [2, 5]
    assert found.boxes.images.tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(found.boxes.edges[0], [-0.5, 7.5, 5.5, 15.5], atol=1e-4)
    np.testing.assert_allclose(found.boxes.edges[1], [15.5, 19.5, 35.5, 31.5], atol=1e-4)
