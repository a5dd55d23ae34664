"""What a plan will take: slices and bytes by hand; time by a probe."""

import math
from pathlib import Path

import archives
import numpy as np
import pytest
import small

from rsna_e2e.config import load_two_stage
from rsna_e2e.store import Store
from rsna_e2e.training.pipeline.forecast import BYTES_PER_SLICE, Forecast, forecast
from rsna_e2e.training.pipeline.plan import Folders, plan_two_stage
from rsna_e2e.training.pipeline.run import Pipeline

N_TRAIN, N_TEST = sum(small.LENGTHS), 4
TINY = (
    "images.model.backbone=test_resnet",
    "images.model.backbone_arguments={}",
    "images.image.size=32",
    "images.precision=fp32",
)
FEATURES = 96  # of test_resnet, by timm


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forecast")
    small.make_store(folder)
    archives.zip_folder(folder / "raw", folder / "raw.zip")
    return folder


def of_two_stages(folders: Folders, mode: str, *overrides: str, probe: bool = False) -> Forecast:
    config = load_two_stage("demo", [*TINY, *overrides])
    return forecast(Pipeline(plan_two_stage(mode, config, folders), folders), device="cpu", probe=probe)


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
    assert math.isnan(found.time_s)


@pytest.mark.parametrize("raw", ["raw", "raw.zip"])
def test_without_a_store_files_and_labels_are_counted(root: Path, raw: str) -> None:
    folders = Folders(raw=root / raw, labels=None, store=root / "none_yet", out=root / "out")
    found = of_two_stages(folders, "single", "images.slice_phase.epochs=1")
    n_slices = {line.standing.step.name: line.n_slices for line in found.lines}
    assert n_slices["prepare"] == N_TRAIN + N_TEST
    assert n_slices["images/series-all"] == N_TRAIN
    assert n_slices["submission"] == N_TEST
    assert found.lines[0].n_bytes == (N_TRAIN + N_TEST) * BYTES_PER_SLICE


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("raw", ["raw", "raw.zip"])
def test_a_probe_gives_every_step_a_time(root: Path, raw: str) -> None:
    folders = Folders(raw=root / raw, labels=None, store=root / "none_yet", out=root / "out")
    found = of_two_stages(folders, "single", probe=True)
    assert all(0 < line.time_s < 60 for line in found.lines)
    assert found.time_s == pytest.approx(sum(line.time_s for line in found.lines))
