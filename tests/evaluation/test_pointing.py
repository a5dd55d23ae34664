"""The pointing game: scores worked out by hand of maps that are known by construction, and what is refused."""

import json
from argparse import Namespace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import small
import torch
from PIL import Image as PilImage
from torch import nn

from rsna_e2e.cli import main
from rsna_e2e.cli.explanations import _score
from rsna_e2e.config import ModelConfig, load_config
from rsna_e2e.core.device import choose_compute
from rsna_e2e.core.errors import BadInputError
from rsna_e2e.evaluation import pointing as module
from rsna_e2e.evaluation.pointing import PointingGame, play
from rsna_e2e.inference import trained_model
from rsna_e2e.inference.activation_maps import ActivationMaps
from rsna_e2e.inference.trained_model import TrainedModel
from rsna_e2e.model.network import JointModel
from rsna_e2e.store import Store
from rsna_e2e.store.prepare import prepare
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.metrics import Estimate
from rsna_e2e.tools.synth.simulate import simulate
from rsna_e2e.training.operating_points import OperatingPoints
from rsna_e2e.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE, SPACING_MM = 64, 0.5  # of slices; phantoms have this spacing
ANY = ICH.headline
BLOBS = ((8, 40), (30, 12), (44, 44))  # row and column of a bright square of 8 px in each slice


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two equal series of slices with a bright square; image ids are ID_0000 and so on."""
    slices = []
    for row, column in BLOBS:
        hu = np.full((SIDE, SIDE), 5, dtype=np.int16)
        hu[row : row + 8, column : column + 8] = 75
        slices.append(hu)
    return small.make_store_of(tmp_path_factory.mktemp("pointing"), [slices, slices])


class _Bright(nn.Module):
    """One feature: the brightest of cells of 2 x 2 pixels."""

    num_features = 1
    feature_info: ClassVar = [{"module": "cells"}]

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.Sequential(nn.AvgPool2d(2), nn.ReLU())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.cells(images[:, :1]).amax(dim=(2, 3))


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Play with a network whose map is the bright square, and with these thresholds."""
    config = small.image_config(f"image.size={SIDE}", "image.crop=none", "loader.backend=torch")
    network = JointModel(
        ModelConfig(backbone="none", head="none", slice_loss_weight=1.0), n_channels=1, n_labels=len(ICH.slices)
    )
    network.backbone = _Bright()
    nn.init.ones_(network.slice_classifier.weight)
    trained = TrainedModel(
        run=Path("run"), config=config, task=ICH, compute=choose_compute("fp32", "cpu", cpu_threads=None),
        network=network.eval(), embeddings=None, checkpoint=Path("run"), epoch=0, damaged=(),
    )  # fmt: skip
    thresholds: dict[str, float] = {}
    monkeypatch.setattr(module, "open_run", lambda *_: trained)
    monkeypatch.setattr(TrainedModel, "weights_sha256", "0")
    monkeypatch.setattr(
        trained_model, "read_operating_points", lambda _: OperatingPoints(epoch=0, thresholds=thresholds)
    )
    return thresholds


def _mask(folder: Path, image_id: str, *corner: int, label: str = ANY, side: int = 8) -> None:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[corner[0] : corner[0] + side, corner[1] : corner[1] + side] = True
    (folder / label).mkdir(parents=True, exist_ok=True)
    PilImage.fromarray(mask).save(folder / label / f"{image_id}.png")


def test_maps_of_a_network_that_sees_bright_squares_point_into_their_masks(
    store: Store, points: dict[str, float], tmp_path: Path
) -> None:
    for series in range(2):
        for place, corner in enumerate(BLOBS):
            _mask(tmp_path / "masks", f"ID_{series:02d}{place:02d}", *corner)
    game = play(Path("run"), store, tmp_path / "masks", tmp_path / "out", split="train")
    assert (game.n_series, game.n_pairs, game.n_called) == (2, 6, 6)
    assert game.in_mask.value == game.near.value == 1
    assert game.energy.value > 0.99  # all but what is interpolated at the edge
    area_mm2 = (8 * SPACING_MM) ** 2
    assert game.area.value > 4 * area_mm2 / (SIDE * SPACING_MM) ** 2
    content = json.loads((tmp_path / "out/pointing.json").read_text())
    assert content["near"] == {"value": 1, "low": 1, "high": 1}
    assert content["target"] == "sum"


def test_distances_are_in_millimetres(store: Store, points: dict[str, float], tmp_path: Path) -> None:
    """Masks that end 3 and 21 px above one square, and 18 below and 34 beside another: wherever on its square a map is
    highest, that is up to 5 mm, 10.5 to 14.5 mm, and more than 15 mm from the mask."""
    for series, corner in enumerate(((34, 44), (16, 44))):
        _mask(tmp_path / "masks", f"ID_{series:02d}02", *corner)
    _mask(tmp_path / "masks", "ID_0001", 54, 54)
    game = play(Path("run"), store, tmp_path / "masks", tmp_path / "out", split="train")
    assert game.n_called == 3
    assert game.in_mask.value == 0
    assert game.near.value == pytest.approx(1 / 3)
    assert game.around.value == pytest.approx(2 / 3)


def test_only_what_is_called_counts(store: Store, points: dict[str, float], tmp_path: Path) -> None:
    _mask(tmp_path / "masks", "ID_0000", *BLOBS[0])
    _mask(tmp_path / "masks", "ID_0000", *BLOBS[0], label="subdural")
    points["subdural"] = 1.0
    game = play(Path("run"), store, tmp_path / "masks", tmp_path / "out", split="train")
    assert (game.n_series, game.n_pairs, game.n_called) == (1, 2, 1)
    points[ANY] = 1.0
    game = play(Path("run"), store, tmp_path / "masks", tmp_path / "again", split="train")
    assert game.n_called == 0
    assert json.loads((tmp_path / "again/pointing.json").read_text())["near"]["value"] is None


def test_thresholds_of_another_epoch_do_not_count(
    store: Store, points: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _mask(tmp_path / "masks", "ID_0000", *BLOBS[0])
    points[ANY] = 1.0
    own = play(Path("run"), store, tmp_path / "masks", tmp_path / "own", split="train")
    assert (own.n_called, own.has_thresholds) == (0, True)
    monkeypatch.setattr(trained_model, "read_operating_points", lambda _: OperatingPoints(epoch=1, thresholds=points))
    other = play(Path("run"), store, tmp_path / "masks", tmp_path / "other", split="train")
    assert (other.n_called, other.has_thresholds) == (1, False)
    assert json.loads((tmp_path / "other/pointing.json").read_text())["has_thresholds"] is False


def test_what_speaks_against_a_label_has_no_share_and_only_what_the_network_sees_counts(
    store: Store, tmp_path: Path
) -> None:
    """The network sees the left half of a slice, whose left half speaks for the label and right half against it; near
    the mask are columns 6 to 41."""
    affine = np.array([[[0.5, 0, -0.25], [0, 1, 0]]], dtype=np.float32)
    for_and_against = np.repeat(np.array([[[2.0, -1.0]]], dtype=np.float32), SIDE, axis=1).repeat(SIDE // 2, axis=2)
    maps = ActivationMaps(logits=np.zeros(1), maps=for_and_against, affine=affine, size=SIDE)
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[:, 16:32] = True
    PilImage.fromarray(mask).save(tmp_path / "mask.png")
    *_, energy, area = module._score(maps, 0, tmp_path / "mask.png", store, 0)
    assert energy == pytest.approx(10 / 16, abs=0.02)  # some is interpolated where signs change
    assert area == 26 / 32


def test_a_map_is_highest_where_the_network_sees_though_all_of_it_speaks_against_the_label(
    store: Store, tmp_path: Path
) -> None:
    affine = np.array([[[0.5, 0, 31.75], [0, 1, 0]]], dtype=np.float32)  # the right half
    maps = ActivationMaps(
        logits=np.zeros(1), maps=np.full((1, SIDE, SIDE), -1, dtype=np.float32), affine=affine, size=SIDE
    )
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[:, 32:] = True
    PilImage.fromarray(mask).save(tmp_path / "mask.png")
    in_mask, *_, energy, area = module._score(maps, 0, tmp_path / "mask.png", store, 0)
    assert (in_mask, energy, area) == (True, 0, 1)


def test_bad_masks_are_said(store: Store, points: dict[str, float], tmp_path: Path) -> None:
    masks = tmp_path / "masks"

    def said(message: str) -> None:
        with pytest.raises(BadInputError, match=message):
            play(Path("run"), store, masks, tmp_path / "out", split="train")
        assert not (tmp_path / "out").exists()

    said("has no mask LABEL/IMAGE.png of an image of split train")
    _mask(masks, "ID_0000", 0, 0, side=0)
    said("ID_0000.png: is empty")
    PilImage.new("1", (8, 9), 1).save(masks / ANY / "ID_0000.png")
    said(r"ID_0000.png: \(9, 8\) is not the size of its slice, \(64, 64\)")
    (masks / ANY / "ID_0000.png").write_bytes(b"mine")
    said("ID_0000.png: is no PNG file")


def test_a_run_is_scored_on_the_command_line(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(store, tmp_path / "run", small.config("loader.backend=torch"))
    _mask(tmp_path / "masks", "ID_0000", *BLOBS[0])
    command = ["explain", str(tmp_path / "run"), str(store.path), "--score", str(tmp_path / "masks")]
    assert main([*command, "--split", "train", "--out", str(tmp_path / "score")]) == 0
    said = capsys.readouterr().out
    assert "of 1 slices and labels with masks are called, of 1 series" in said
    assert "nan" not in said
    assert json.loads((tmp_path / "score/pointing.json").read_text())["n_pairs"] == 1
    assert main([*command, "--label", "any", "--out", str(tmp_path / "label")]) == 2
    assert "--label: --score is of all labels" in capsys.readouterr().err


def test_estimates_without_an_interval_are_printed_without_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of nothing that is called, and of one series."""
    nothing, one = Estimate(float("nan")), Estimate(1.0)
    game = PointingGame(
        n_series=1, n_pairs=1, n_called=1, has_thresholds=False, in_mask=nothing, near=one, around=one, energy=one,
        area=one,
    )  # fmt: skip
    monkeypatch.setattr(module, "play", lambda *_, **__: game)
    _score(Namespace(**dict.fromkeys(("label", "split", "checkpoint", "device", "target", "score")), model_run=tmp_path,
                     out=tmp_path), store)  # fmt: skip
    said = capsys.readouterr().out
    assert "highest in the mask undefined\n" in said
    assert "within 5 mm of it 1.000   within 15 mm 1.000\n" in said
    assert "called from 0.5 on: the run has no thresholds of the epoch" in said


def _shuffled(trained: TrainedModel) -> TrainedModel:
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in trained.joint.head.parameters():
            weight.copy_(weight.flatten()[torch.randperm(weight.numel())].view_as(weight))
    return trained


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo's run on some 100 simulated studies, and the store and masks of these and some 40 more."""
    folder = tmp_path_factory.mktemp("demo")
    simulate(folder / "raw", n_studies=140, seed=7, prevalence="demo", test_fraction=0.286, masks=folder / "masks")
    prepare(folder / "raw", folder / "store", task=ICH)
    train(Store.open(folder / "store"), folder / "run", load_config("demo", []))
    return folder


def _play_demo(demo: Path, out: Path) -> PointingGame:
    return play(demo / "run", Store.open(demo / "store"), demo / "masks", out)


@pytest.mark.slow
def test_maps_of_the_demo_point_at_bleeds(demo: Path, tmp_path: Path) -> None:
    made = _play_demo(demo, tmp_path / "score")
    assert made.n_called >= 100
    assert made.near.value >= 0.70
    assert made.energy.value >= 6 * made.area.value


@pytest.fixture
def every_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take each pair as called: what a shuffled head calls is chance."""
    monkeypatch.setattr(trained_model, "read_operating_points", lambda _: None)
    monkeypatch.setattr(module, "DECISION_THRESHOLD", 0.0)


@pytest.mark.slow
@pytest.mark.usefixtures("every_pair")
def test_maps_of_all_pairs_of_the_demo_point_at_bleeds(demo: Path, tmp_path: Path) -> None:
    made = _play_demo(demo, tmp_path / "score")
    assert made.n_called == made.n_pairs
    assert made.near.value >= 0.55


@pytest.mark.slow
@pytest.mark.usefixtures("every_pair")
@pytest.mark.xfail(strict=True, reason="0.52 was measured, where the trained head has 0.67 of the same pairs")
def test_maps_of_a_shuffled_head_do_not_point_at_bleeds(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = module.open_run
    monkeypatch.setattr(module, "open_run", lambda *given: _shuffled(opened(*given)))
    assert _play_demo(demo, tmp_path / "score").near.value < 0.30
