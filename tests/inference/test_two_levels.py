"""A task with labels of slices and of series, from training to submissions: what is scored, written and averaged."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import levels
import numpy as np
import pytest
import rank_jobs
import sequences
import small
import torch

from rsna_e2e.core.device import Compute
from rsna_e2e.loader.embedding_loader import EmbeddingLoader
from rsna_e2e.model.forward import predict_series
from rsna_e2e.model.network import JointModel
from rsna_e2e.store import Store
from rsna_e2e.store.embeddings import Embeddings
from rsna_e2e.tasks.metrics import auc
from rsna_e2e.tasks.pe import PE
from rsna_e2e.training.checkpoint import find_checkpoint, load_model
from rsna_e2e.training.train import train
from rsna_e2e.training.validation import Validation, validate

CPU = torch.device("cpu")
SCORES = ["weighted_log_loss", "any_auc", "n_training_slices", "n_positive", "series_weighted_log_loss"]
MATES = 1e-6  # probabilities are float32, and matrix products of other batches round otherwise


@dataclass(frozen=True)
class Data:
    store: Store
    embeddings: Embeddings
    run: Path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """A head that has learned both levels on a made-up store."""
    folder = tmp_path_factory.mktemp("levels")
    store = small.make_store(folder)
    embeddings = sequences.write_embeddings(folder / "embeddings", store)
    store = levels.with_series_labels(store)
    train(store, folder / "run", sequences.config("task=pe"), embeddings=embeddings, device="cpu")
    return Data(store, embeddings, folder / "run")


def new_model() -> JointModel:
    return JointModel.for_task(sequences.config("task=pe").model, PE, n_channels=sequences.WIDTH)


def cross_entropy(truth: float, probability: float) -> float:
    return -math.log(probability if truth == 1 else 1 - probability)


def test_validation_scores_slices_and_series_at_once(data: Data) -> None:
    store = levels.with_series_labels(Store.open(data.store.path))
    store.series_labels[1, 2] = np.nan
    store.labels[store.series[3].first_row] = np.nan
    model = new_model()
    load_model(model, find_checkpoint(data.run, "last"))
    loader = EmbeddingLoader(store, data.embeddings, sequences.config("task=pe"), device=CPU)
    held_out = [3, 1, 0, 4]
    scores = validate(model, loader, held_out, store, PE, Compute(CPU, None))
    assert scores is not None
    total = weight = 0.0
    for position in held_out:
        found = predict_series(model, loader, [position], compute=Compute(CPU, None))
        labels = store.labels[store.series[position].rows, 0]
        known = labels[~np.isnan(labels)]
        share = sum(known) / len(known)
        cells = [
            *zip(PE.series.weights, store.series_labels[position], found.series[0], strict=True),
            *((PE.slices.weights[0] * share, *pair) for pair in zip(labels, found.slices[:, 0], strict=True)),
        ]
        for w, truth, probability in cells:
            if not np.isnan(truth):
                total, weight = total + w * cross_entropy(truth, probability), weight + w
    assert scores.study_log_loss == scores.loss == pytest.approx(total / weight, abs=MATES)
    everything = predict_series(model, loader, sorted(held_out), compute=Compute(CPU, None))
    truth = store.labels[everything.rows, 0]
    assert scores.any_auc == pytest.approx(auc(truth[~np.isnan(truth)], everything.slices[~np.isnan(truth), 0]))
    of_series = [
        np.average(
            [cross_entropy(*cell) for cell in zip(store.series_labels[position], row, strict=True)],
            weights=PE.series.weights,
        )
        for position, row in zip(sorted(held_out), everything.series, strict=True)
        if position != 1  # one label of it is unknown
    ]
    assert scores.series_weighted_log_loss == pytest.approx(np.mean(of_series), abs=MATES)


def test_the_best_epoch_is_that_with_the_lowest_score_of_both(data: Data) -> None:
    lines = rank_jobs.log_lines(data.run, "validation")
    assert [list(line)[3:] for line in lines] == [[*SCORES, "study_log_loss"]] * 3
    losses = {line["epoch"]: line["study_log_loss"] for line in lines}
    summary = json.loads((data.run / "summary.json").read_text())
    assert losses[summary["best_epoch"]] == min(losses.values()) == summary["best"]["study_log_loss"]
    state = load_model(new_model(), find_checkpoint(data.run, "best"))
    assert state.best.validation_loss == min(losses.values())
    steps = rank_jobs.log_lines(data.run, "train_series")
    assert all(0 < line["study_loss"] < line["loss"] for line in steps)


def test_what_is_said_of_both() -> None:
    content = dict(zip(SCORES, (0.5, 0.75, 0, 3, 0.25), strict=True)) | {"study_log_loss": 0.375}
    validation = Validation.from_plain(content)
    assert validation.plain() == content
    said = "validation log loss of slices and series 0.3750, AUC of slices 0.7500, log loss of series alone 0.2500"
    assert str(validation) == said
