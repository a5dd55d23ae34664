"""What a plan will take: slices, bytes and times by hand."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import small
import torch
from plans import DATA, make_data, of_two_stages, standing

from rsna_e2e.config import load_config, load_two_stage, resolve_task
from rsna_e2e.model.backbone_size import backbone_size, count_backbone, count_pass
from rsna_e2e.model.network import JointModel
from rsna_e2e.store import Store
from rsna_e2e.training.pipeline.data_size import DataSize
from rsna_e2e.training.pipeline.forecast import BYTES_PER_SLICE, Line, forecast, peak_bytes
from rsna_e2e.training.pipeline.model_sizes import ModelSizes
from rsna_e2e.training.pipeline.plan import plan_two_stage
from rsna_e2e.training.pipeline.planned_step import Folders
from rsna_e2e.training.pipeline.rates import bases_of

N_TRAIN, N_TEST = sum(small.LENGTHS), 4
FEATURES = 96  # of test_resnet, by timm


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("forecast"))


def test_slices_and_bytes_by_hand(root: Path) -> None:
    folders = Folders(raw=None, labels=None, store=root / "store", out=root / "out")
    found = of_two_stages(
        folders, "full", "two_stage.folds=[0]", "two_stage.crops=[none]", "images.slice_phase.epochs=1"
    )
    n_slices = {line.standing.step.name: line.n_slices for line in found.lines}
    index = Store.open(root / "store").index
    trained_on = np.count_nonzero((index["split"] == "train") & (index["fold"] != 0))
    assert n_slices == {
        "images/none-fold0": trained_on,  # one epoch
        "embeddings/none-fold0-epoch1": 3 * (N_TRAIN + N_TEST),  # three views
        "sequences/none-fold0-epoch1": 6 * trained_on,
        "predictions/none-fold0-epoch1": 6 * N_TEST,  # by the heads of six epochs
        "submission": N_TEST,
    }
    n_bytes = {line.standing.step.name: line.n_bytes for line in found.lines}
    assert n_bytes["embeddings/none-fold0-epoch1"] == 3 * (N_TRAIN + N_TEST) * FEATURES * 4
    width = 128
    head = 2 * 4 * width * (3 * width + width + 2) + 2 * 4 * width * (2 * width + width + 2)  # the LSTMs
    head += 2 * (2 * width * (2 * width + 1)) + 6 * (2 * width + 1)  # linear layers
    head += width * (FEATURES + 1)  # projection
    kept = 2 * 3 * 4  # two epochs, three numbers for each weight, of four bytes
    assert n_bytes["sequences/none-fold0-epoch1"] == kept * head
    assert found.n_bytes == sum(n_bytes.values())
    peaks = {line.standing.step.name: line.peak_bytes for line in found.lines}
    assert peaks["sequences/none-fold0-epoch1"] == 7 * 3 * 4 * head  # six epochs, and one that is being written


@pytest.mark.parametrize("raw", ["raw", "raw.zip"])
def test_without_a_store_files_and_labels_are_counted(root: Path, raw: str) -> None:
    folders = Folders(raw=root / raw, labels=None, store=root / "none_yet", out=root / "out")
    found = of_two_stages(folders, "single", "images.slice_phase.epochs=1")
    n_slices = {line.standing.step.name: line.n_slices for line in found.lines}
    assert n_slices["prepare"] == N_TRAIN + N_TEST
    assert n_slices["images/series-all"] == N_TRAIN
    assert n_slices["submission"] == N_TEST
    assert found.lines[0].n_bytes == (N_TRAIN + N_TEST) * BYTES_PER_SLICE


def test_the_peak_of_the_disk_is_that_of_the_step_that_needs_most_beside_what_stays() -> None:
    lines = [
        Line(standing=standing(str(n), "embed"), n_slices=1, n_bytes=left, peak_bytes=peak)
        for n, (left, peak) in enumerate([(100, 100), (10, 70), (20, 30)])
    ]
    assert peak_bytes(lines) == 170  # 100 + 70; in the end 130 stay


@pytest.mark.parametrize(
    ("overrides", "left", "peak"),
    [
        ((), 2, 3),  # the last two; a third is written before the first goes
        (("validation_fold=0",), 3, 4),  # and the best
        (("checkpoint.keep_epochs=true",), 11, 12),
        (("slice_phase=null", "epochs=1", "checkpoint.keep_last=3"), 1, 4),
    ],
)
def test_checkpoints_of_a_run(overrides: tuple[str, ...], left: int, peak: int) -> None:
    config = load_config("demo", ["validation_fold=null", *overrides])
    scale = config.epochs + (config.slice_phase.epochs if config.slice_phase else 0)
    steps = [standing("joint", "train", settings=config, scale=scale)]
    sizes = ModelSizes([steps[0].step])
    (line,) = forecast(steps, sizes, DATA).lines
    each = 3 * 4 * sizes.n_weights(config)  # Adam
    assert (line.n_bytes, line.peak_bytes) == (left * each, peak * each)


@pytest.mark.parametrize("recipe", ["demo", "reference", "pe"])
def test_known_sizes_are_those_of_the_models(recipe: str) -> None:
    config = load_config(recipe)
    known = backbone_size(config.model, config.image.size)
    arguments = json.dumps(config.model.backbone_arguments)
    assert known == count_backbone(config.model.backbone, arguments, config.image.size)
    with torch.device("meta"):
        model = JointModel.for_task(config.model.without_initial_weights(), resolve_task(config))
    sizes = ModelSizes([standing("joint", "train", settings=config).step])
    assert sizes.n_weights(config) == sum(weight.numel() for weight in model.parameters())
    assert sizes.n_features == model.n_features


def test_the_arithmetic_of_a_layer_by_hand() -> None:
    counted = count_backbone("test_resnet", "{}", 64)
    assert counted.at(32).flop == counted.flop / 4
    convolution = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)
    module = torch.nn.Sequential(convolution, torch.nn.ReLU())
    assert count_pass(module.half().to("meta"), n_channels=3, side=16) == (
        2 * 27 * 8 * 16 * 16,
        (3 + 8) * 16 * 16 * 2,
    )  # input, and ReLU's output


def test_modelled_times_by_hand() -> None:
    """The reference recipe on H200: 150.7 GFLOP a slice forward; recurrent weights 16 of 2048 x 2048."""
    config = load_config("reference")
    (train,) = [standing("joint", "train", settings=config).step]
    predict = standing("predictions", "predict", depends=("joint",)).step
    sizes = ModelSizes([train, predict])
    recurrent_bytes = 2 * 2 * 4 * 2048 * 2048 * 4  # layers, directions, gates
    n_series = 64 / (1000 / 25)
    backbone_s, head_s = 150.7221504e9 / (0.1 * 989e12), recurrent_bytes / 4.8e12 / n_series
    for n_gpus in (1, 4):
        (modelled,) = bases_of("h200", n_gpus, sizes, DATA)
        assert modelled.time_s(train, 1000) == pytest.approx(3000 * (backbone_s / n_gpus + head_s))
        assert modelled.time_s(predict, 1000) == pytest.approx(1000 * (backbone_s + head_s))


def test_published_times_are_given_for_what_was_published() -> None:
    """20 hours for three epochs, 15 for three times all embeddings, 2 for three heads: darraghdog/rsna, run_21."""
    folders = Folders(raw=Path("raw"), labels=None, store=Path("store"), out=Path("out"))
    config = load_two_stage("reference", ["images.slice_phase.epochs=3"])
    steps = plan_two_stage("single", config, folders)
    data = DataSize(n_slices=874_035, n_test=121_232, n_series=25_272)
    sizes = ModelSizes(steps)
    published, _ = bases_of("v100", 4, sizes, data)
    hours: dict[str, float] = {}
    for step in steps:
        time_s = published.time_s(step, data.of(step) * step.scale)
        hours[step.verb] = hours.get(step.verb, 0.0) + (0.0 if math.isnan(time_s) else time_s / 3600)
    assert hours["train"] == pytest.approx(20 + 2)
    assert hours["embed"] == pytest.approx(15)
    assert math.isnan(published.rate(steps[0]))
    assert [basis.name for basis in bases_of("v100", 2, sizes, data)] == ["modelled"]
    joint = ModelSizes([standing("joint", "train", settings=load_config("reference")).step])
    assert [basis.name for basis in bases_of("v100", 4, joint, data)] == ["modelled"]
