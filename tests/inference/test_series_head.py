"""The series head from training to its table: what it predicts, how validation scores it, and models without it."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rank_jobs
import sequences
import small
import torch
from sklearn import metrics as judge

from rsna_e2e.core.device import Compute
from rsna_e2e.inference.predict import predict
from rsna_e2e.inference.predict_epochs import predict_epochs
from rsna_e2e.inference.predictions import (
    SeriesTable,
    find_series,
    predictions_path,
    read_predictions,
    read_series,
    series_path,
)
from rsna_e2e.loader.embedding_loader import EmbeddingLoader
from rsna_e2e.model.forward import predict_series
from rsna_e2e.model.network import JointModel
from rsna_e2e.store import Store
from rsna_e2e.store.embeddings import Embeddings
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.training.checkpoint import find_checkpoint, load_model
from rsna_e2e.training.train import train
from rsna_e2e.training.validation import Validation, validate

CPU = torch.device("cpu")
CLOSE = {"rtol": 0, "atol": 1e-12}  # float64, sums in another order
MATES = 1e-6  # probabilities are float32, and matrix products of other batches round otherwise
SERIES_SCORES = {"series_weighted_log_loss", "series_any_auc"}


@dataclass(frozen=True)
class Data:
    store: Store
    embeddings: Embeddings
    run: Path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """A head for slices and for series that has learned on a made-up store."""
    folder = tmp_path_factory.mktemp("series_head")
    store = small.make_store(folder)
    embeddings = sequences.write_embeddings(folder / "embeddings", store)
    train(store, folder / "run", sequences.config("model.study_loss_weight=0.5"), embeddings=embeddings, device="cpu")
    return Data(store, embeddings, folder / "run")


def predicted(data: Data, out: Path, *, split: str, checkpoint: str = "last") -> SeriesTable:
    predict(data.run, data.store, split=split, out=out, checkpoint=checkpoint, embeddings=data.embeddings, device="cpu")
    return read_series(series_path(out), ICH, read_predictions(predictions_path(out), ICH))


def test_the_table_holds_what_the_head_says_of_each_series_by_itself(data: Data, tmp_path: Path) -> None:
    table = predicted(data, tmp_path / "a.csv", split="train")
    config = sequences.config("model.study_loss_weight=0.5")
    model = JointModel(config.model, n_channels=sequences.WIDTH, n_labels=6)
    load_model(model, find_checkpoint(data.run, "last"))
    model.eval()
    labelled = [span for span in data.store.series if span.split == "train"]
    assert table.series_keys == [span.series_key for span in labelled]
    assert table.n_slices.tolist() == [span.n_slices for span in labelled]
    for span, probability in zip(labelled, table.probability, strict=True):
        embeddings = torch.from_numpy(data.embeddings.read(np.arange(span.first_row, span.first_row + span.n_slices)))
        with torch.no_grad():
            logits = model(embeddings[:, :, None, None], torch.tensor([span.n_slices])).series
        np.testing.assert_allclose(probability, torch.sigmoid(logits[0].double()), rtol=0, atol=MATES)


def test_a_prediction_goes_back_to_the_order_of_the_store(data: Data) -> None:
    config = sequences.config("model.study_loss_weight=0.5")
    model = JointModel(config.model, n_channels=sequences.WIDTH, n_labels=6)
    loader = EmbeddingLoader(data.store, data.embeddings, config, device=CPU)
    positions = [3, 0, 6, 1]
    shuffled = predict_series(model, loader, positions, compute=Compute(CPU, None))
    assert shuffled.positions.tolist() == positions
    ordered = shuffled.in_store_order()
    assert ordered.positions.tolist() == [0, 1, 3, 6]
    assert shuffled.series is not None
    assert ordered.series is not None
    np.testing.assert_array_equal(ordered.series, shuffled.series[[1, 3, 0, 2]])
    nobody = predict_series(model, loader, [], compute=Compute(CPU, None))  # a rank without a share
    assert nobody.series is not None
    assert nobody.series.shape == (0, 6)


def test_validation_scores_the_head_over_series_with_known_labels(data: Data) -> None:
    store = Store.open(data.store.path)
    labels = store.labels.copy()
    spans = store.series[:6]  # all that have labels
    labels[spans[0].rows] = 0
    labels[spans[3].rows] = 0
    labels[spans[1].first_row] = np.nan  # the other slices decide, where they have a label at all
    labels[spans[4].rows] = 0
    labels[spans[4].first_row] = np.nan  # of this one nothing is known
    store.labels = labels
    config = sequences.config("model.study_loss_weight=0.5")
    model = JointModel(config.model, n_channels=sequences.WIDTH, n_labels=6)
    load_model(model, find_checkpoint(data.run, "last"))
    loader = EmbeddingLoader(store, data.embeddings, config, device=CPU)
    compute, held_out = Compute(CPU, None), [5, 4, 3, 2, 1, 0]  # in any order
    scores = validate(model, loader, held_out, store, ICH, compute)
    assert scores is not None
    prediction = predict_series(model, loader, list(range(6)), compute=compute)
    assert prediction.series is not None
    truths, found = [], []
    for span, probability in zip(spans, prediction.series, strict=True):
        known = [labels[row] for row in range(span.first_row, span.first_row + span.n_slices)]
        truth = [
            1.0
            if any(row[label] == 1 for row in known)
            else 0.0
            if not any(np.isnan(row[label]) for row in known)
            else None
            for label in range(6)
        ]
        if None not in truth:
            truths.append(truth)
            found.append(probability)
    assert 3 <= len(truths) < 6
    truth_SL, found_SL = np.array(truths), np.array(found)
    losses = [judge.log_loss(truth_SL[:, label], found_SL[:, label], labels=[0, 1]) for label in range(6)]
    assert scores.series_weighted_log_loss == pytest.approx(np.average(losses, weights=ICH.slices.weights), abs=MATES)
    area = judge.roc_auc_score(truth_SL[:, ICH.headline_index], found_SL[:, ICH.headline_index])
    assert scores.series_any_auc == pytest.approx(area, abs=MATES)


def test_the_summary_and_what_is_said_name_the_series_scores(data: Data) -> None:
    best = json.loads((data.run / "summary.json").read_text())["best"]
    lines = rank_jobs.log_lines(data.run, "validation")
    assert SERIES_SCORES < set(best)
    assert any({name: line[name] for name in best} == best for line in lines)
    validation = Validation.from_plain(best)
    assert validation.series_weighted_log_loss == best["series_weighted_log_loss"]
    assert (
        f"; series head: weighted log loss {best['series_weighted_log_loss']:.4f}, AUC of any "
        in validation.describe("any")
    )


def test_undefined_scores_of_the_head_are_said_to_be_so() -> None:
    validation = Validation(
        weighted_log_loss=0.5, any_auc=0.75, series_weighted_log_loss=float("nan"), series_any_auc=float("nan")
    )
    assert validation.describe("any").endswith(
        "AUC of any 0.7500; series head: weighted log loss undefined, AUC of any undefined"
    )
    content = {"weighted_log_loss": 0.5, "any_auc": 0.75, "series_weighted_log_loss": 0.25, "series_any_auc": None}
    assert Validation.from_plain(content).describe("any").endswith("weighted log loss 0.2500, AUC of any undefined")


def test_the_mean_over_epochs_is_that_of_series_too(data: Data, tmp_path: Path) -> None:
    single = [
        predicted(data, tmp_path / f"{epoch}.csv", split="test", checkpoint=f"epoch-{epoch}") for epoch in (1, 2, 3)
    ]
    out = tmp_path / "mean.csv"
    predict_epochs(data.run, data.store, split="test", out=out, embeddings=data.embeddings, device="cpu")
    mean = read_series(series_path(out), ICH, read_predictions(predictions_path(out), ICH))
    assert mean.series_keys == single[0].series_keys
    np.testing.assert_allclose(mean.probability, np.mean([table.probability for table in single], axis=0), **CLOSE)
    assert np.abs(single[0].probability - single[2].probability).max() > 1e-4


def test_a_model_without_the_head_has_no_series_table_and_no_series_scores(data: Data, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(data.store, run, sequences.config("epochs=1"), embeddings=data.embeddings, device="cpu")
    out = tmp_path / "a.csv"
    series_path(out).write_bytes(b"of an earlier submission")
    done = predict(run, data.store, split="test", out=out, embeddings=data.embeddings, device="cpu")
    assert done.series_table is None
    assert find_series(out) is None
    (line,) = rank_jobs.log_lines(run, "validation")
    assert set(line) == {"kind", "step", "epoch", "weighted_log_loss", "any_auc", "n_training_slices", "n_positive"}
    best = json.loads((run / "summary.json").read_text())["best"]
    assert list(best) == ["weighted_log_loss", "any_auc", "n_training_slices", "n_positive"]
    assert type(best["n_training_slices"]) is int
    assert "series head" not in Validation.from_plain(best).describe("any")
