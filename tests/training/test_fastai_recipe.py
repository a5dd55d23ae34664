"""The recipe ich_fastai: its numbers, and all of it at tiny size, from training to a comparison of weight decays."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import small

from rsna_e2e.cli import main
from rsna_e2e.config import load_config
from rsna_e2e.store import Store
from rsna_e2e.store.prepare import label
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import write_labels
from rsna_e2e.training.optimizer import make_schedule

TINY = (
    "model.backbone=test_resnet",
    "model.pretrained=false",
    "image.size=32",
    "image.supersample=1",
    "image.size_from_epoch={1: 16, 3: 24, 5: 32}",
    "slice_phase.slices_per_batch=4",
    "loader.threads=1",
    "precision=fp32",
)


def test_its_numbers_are_those_of_fine_tune() -> None:
    config = load_config("ich_fastai")
    phase = config.slice_phase
    assert phase is not None
    assert phase.frozen_optimizer is not None
    assert (phase.n_frozen, phase.epochs - phase.n_frozen) == (1, 5)
    base = phase.frozen_optimizer.learning_rate
    assert base == 3e-2
    assert phase.optimizer.head_learning_rate == pytest.approx(base / 2)
    assert phase.optimizer.learning_rate == pytest.approx(base / 2 / 100)
    assert [config.image.size_at(epoch) for epoch in range(1, 7)] == [64, 64, 128, 128, 256, 256]
    for optimizer in (phase.frozen_optimizer, phase.optimizer):
        rate = make_schedule(optimizer, n_steps=1000)
        assert max(map(rate, range(1000))) == pytest.approx(1.0, abs=1e-4)
        assert rate(0) < 0.05 > rate(999)
        assert (optimizer.name, optimizer.weight_decay) == ("adamw", 0.01)


def store_of_few_positives(folder: Path) -> Store:
    """Of every third slice, so that there are negatives to balance them with."""
    ids = small.make_store(folder).index["image_id"].tolist()
    values = np.zeros((len(ids), len(ICH.slices.names)))
    values[::3, -2:] = 1
    write_labels(folder / "labels.csv", ICH, ids, values)
    label(folder / "store", folder / "labels.csv", task=ICH, n_folds=3, replaces=True)
    return Store.open(folder / "store")


def test_all_of_it_runs_at_tiny_size(tmp_path: Path, one_thread: None, capsys: pytest.CaptureFixture[str]) -> None:
    store = store_of_few_positives(tmp_path)
    settings = [word for text in TINY for word in ("--set", text)]
    on_cpu = ["--device", "cpu"]
    run, out = tmp_path / "run", tmp_path / "s.csv"
    assert main(["train", str(store.path), str(run), "--recipe", "ich_fastai", *settings, *on_cpu]) == 0
    points = json.loads((run / "operating_points.json").read_text())
    assert set(points["thresholds"]) == set(store.label_names)  # one for each label
    predict = ["predict", str(run), str(store.path), "--split", "validation", "--out", str(out), *on_cpu]
    assert main([*predict, "--views", "plain,hflip"]) == 0
    assert main(["evaluate", str(out), f"{out}.truth.csv", "--out", str(tmp_path / "report")]) == 0
    scores = json.loads((tmp_path / "report/metrics.json").read_text())
    assert scores["n_slices"] == sum(span.n_slices for span in store.series if span.fold == 0)

    vary = ["--vary", "slice_phase.optimizer.weight_decay=0,0.01,0.1"]
    words = ["compare", str(store.path), str(tmp_path / "decays"), "--recipe", "ich_fastai"]
    assert main([*words, *settings, *vary, *on_cpu]) == 0
    with (tmp_path / "decays/comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == [f"slice_phase.optimizer.weight_decay={one}" for one in ("0", "0.01", "0.1")]
