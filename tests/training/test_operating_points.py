"""Thresholds that a run keeps: chosen on the fold that it held out, in its best epoch."""

import json
from pathlib import Path

import numpy as np
import pytest
import small
from sklearn.metrics import roc_curve

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.table_files import table_at
from rsna_e2e.inference.predict import predict
from rsna_e2e.inference.predictions import read_predictions
from rsna_e2e.store import Store
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import read_labels
from rsna_e2e.training.operating_points import read_operating_points
from rsna_e2e.training.run_layout import OPERATING_POINTS
from rsna_e2e.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small.make_store(tmp_path_factory.mktemp("points"))


def test_they_are_the_best_of_the_held_out_fold(store: Store, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = train(store, run, small.image_config(epochs=2))
    points = read_operating_points(run)
    assert points is not None
    assert points.epoch == done.best_epoch
    predicted = predict(run, store, split="validation", out=tmp_path / "held_out.csv", device="cpu")
    assert predicted.truth is not None
    table = read_predictions(predicted.table, ICH)
    truth = read_labels(table_at(predicted.truth.path), ICH)
    row_of = {image_id: row for row, image_id in enumerate(truth.image_ids)}
    labels = truth.values[[row_of[image_id] for image_id in table.image_ids]]
    assert list(points.thresholds) == list(ICH.slices.names)
    for label, chosen in enumerate(points.thresholds.values()):
        if len(np.unique(labels[:, label])) == 1:
            assert chosen == 0.5
            continue
        false_rate, true_rate, thresholds = roc_curve(
            labels[:, label], table.probability[:, label], drop_intermediate=False
        )
        assert chosen == thresholds[1:][np.argmax((true_rate - false_rate)[1:])]


def test_a_run_that_holds_nothing_out_has_none(store: Store, tmp_path: Path) -> None:
    settings = ("validation_fold=null", "training_slices_scored=5")
    train(store, tmp_path / "run", small.image_config(*settings, epochs=1))
    assert read_operating_points(tmp_path / "run") is None


def test_damaged_ones_are_refused(tmp_path: Path) -> None:
    (tmp_path / OPERATING_POINTS).write_text(json.dumps({"epoch": 1, "thresholds": {"any": 0.1}}))
    with pytest.raises(BadInputError, match=r"operating_points\.json: damaged"):
        read_operating_points(tmp_path)
