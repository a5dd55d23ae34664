"""What a slice classifier gets right of all held-out slices and of a balanced sample, beside counts of another kind."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import small

from rsna_e2e.config import RunConfig
from rsna_e2e.core.errors import UsageError
from rsna_e2e.inference.predict import predict
from rsna_e2e.inference.predictions import predictions_path, read_predictions
from rsna_e2e.loader.holdout import balanced_held_out
from rsna_e2e.store import Store
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.training.confusion import Confusion
from rsna_e2e.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")


def test_counts_losses_and_means_by_hand() -> None:
    truth = np.array([1, 1, 1, 0, 0, math.nan])
    probability = np.array([0.9, 0.5, 0.25, 0.75, 0.5, 0.9])  # 0.5 is not above 0.5; nothing is known of the last
    counts = Confusion.of(truth, probability)
    assert (counts.true_positives, counts.false_negatives) == (1, 2)
    assert (counts.false_positives, counts.true_negatives) == (1, 1)
    assert counts.positive_loss == pytest.approx(-math.log(0.9 * 0.5 * 0.25) / 3)
    assert counts.negative_loss == pytest.approx(-math.log(0.25 * 0.5) / 2)
    assert counts.positive_probability == pytest.approx(1.65 / 3)
    assert counts.negative_probability == pytest.approx(1.25 / 2)
    assert str(counts).startswith("TP 1, FP 1, FN 2, TN 1; loss of positives 0.7")


def test_without_positives_their_means_are_undefined() -> None:
    counts = Confusion.of(np.zeros(3), np.full(3, 0.2))
    assert math.isnan(counts.positive_loss)
    assert math.isnan(counts.positive_probability)
    assert counts.true_negatives == 3


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store whose slices are positive one time in six, so that every part has enough negatives."""
    opened = small.make_store(tmp_path_factory.mktemp("confusion"))
    labelled = ~np.isnan(opened.labels).all(axis=1)
    opened.labels[labelled, ICH.headline_index] = (np.arange(len(opened)) % 6 == 0)[labelled]
    return opened


def balanced_config() -> RunConfig:
    plain = small.image_config()
    assert plain.slice_phase is not None
    phase = plain.slice_phase.model_copy(update={"validation_sampling": "balanced"})
    return plain.model_copy(update={"slice_phase": phase})


def held_out_rows(store: Store) -> list[int]:
    return [row for span in store.series if span.fold == 0 for row in range(span.rows.start, span.rows.stop)]


def test_a_balanced_sample_takes_all_positives_and_parts_of_the_negatives_in_turn(store: Store) -> None:
    held_out = [position for position, span in enumerate(store.series) if span.fold == 0]
    is_positive = store.labels[:, ICH.headline_index] == 1
    positives = {row for row in held_out_rows(store) if is_positive[row]}
    negatives = [row for row in held_out_rows(store) if not is_positive[row]]
    assert positives
    half = math.ceil(len(negatives) / 2)
    for epoch in range(1, 5):
        rows = balanced_held_out(store, ICH, held_out, seed=3, epoch=epoch).tolist()
        part = negatives[half:] if epoch % 2 else negatives[:half]  # epoch 1: shard 6 + 1 of the source, the second
        assert set(rows[: len(positives)]) == positives
        assert set(rows[len(positives) :]) <= set(part)
        assert len(set(rows)) == len(rows) == 2 * len(positives)


def test_both_validations_are_logged_and_said(store: Store, tmp_path: Path) -> None:
    said: list[str] = []
    config = balanced_config()
    summary = train(store, tmp_path / "run", config, say=said.append)
    every = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    of_all, of_sample = ([e for e in every if e["kind"] == kind] for kind in ("confusion", "confusion_balanced"))
    assert [line["epoch"] for line in of_all] == [line["epoch"] for line in of_sample] == [1, 2]
    predict(tmp_path / "run", store, split="validation", out=tmp_path / "out.csv", checkpoint="epoch-2")
    table = read_predictions(predictions_path(tmp_path / "out.csv"), ICH)
    row_of = {str(image_id): row for row, image_id in enumerate(store.index["image_id"])}
    rows = np.array([row_of[image_id] for image_id in table.image_ids])
    is_positive, called = store.labels[rows, ICH.headline_index] == 1, table.probability[:, ICH.headline_index] > 0.5
    assert of_all[1]["true_positives"] == sum(called[is_positive])
    assert of_all[1]["false_positives"] == sum(called[~is_positive])
    counted = [f"{truth}_{kind}" for truth in ("true", "false") for kind in ("positives", "negatives")]
    assert sum(of_all[1][name] for name in counted) == len(rows)
    assert sum(of_sample[1][name] for name in counted) == 2 * is_positive.sum()
    assert of_all[1]["positive_loss"] == of_sample[1]["positive_loss"]  # both have all positives
    shown = Confusion(**{k: v for k, v in of_sample[1].items() if k not in ("kind", "step", "epoch")})
    assert said[-1] == f"epoch 2, confusion balanced: {shown}"
    assert summary.best is not None


def test_a_fold_that_cannot_be_balanced_is_refused_before_training(store: Store, tmp_path: Path) -> None:
    config = balanced_config()
    said: list[str] = []
    before = store.labels[:, ICH.headline_index].copy()
    store.labels[held_out_rows(store), ICH.headline_index] = 1
    try:
        with pytest.raises(UsageError, match=r"held-out slices are positive and only 0.*slice_phase\.validation_sampl"):
            train(store, tmp_path / "run", config, say=said.append)
    finally:
        store.labels[:, ICH.headline_index] = before
    assert not said


def test_a_balanced_validation_of_a_recurrent_head_is_refused() -> None:
    phase = "{epochs: 1, optimizer: {learning_rate: 0.01}, validation_sampling: balanced}"
    with pytest.raises(UsageError, match=r"for slice classifiers: set model\.head=none"):
        small.config(f"slice_phase={phase}")
