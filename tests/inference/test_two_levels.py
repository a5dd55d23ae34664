"""A task with labels of slices and of series, from training to submissions: what is scored, written and averaged."""

import csv
import json
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import levels
import numpy as np
import pytest
import rank_jobs
import sequences
import small
import torch

from rsna_e2e.cli import main
from rsna_e2e.core.device import Compute
from rsna_e2e.core.errors import BadInputError
from rsna_e2e.inference.average import bag, smooth
from rsna_e2e.inference.predict import predict
from rsna_e2e.inference.predict_epochs import predict_epochs
from rsna_e2e.inference.predictions import (
    PredictionTable,
    SeriesTable,
    beside,
    predictions_path,
    read_predictions,
    read_series,
    series_path,
)
from rsna_e2e.inference.submission import write_submission
from rsna_e2e.loader.embedding_loader import EmbeddingLoader
from rsna_e2e.model.forward import predict_series
from rsna_e2e.model.network import JointModel
from rsna_e2e.store import Store
from rsna_e2e.store.embeddings import Embeddings
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import read_labels
from rsna_e2e.tasks.metrics import auc
from rsna_e2e.tasks.pe import PE
from rsna_e2e.tasks.rules import project, violations
from rsna_e2e.training.checkpoint import find_checkpoint, load_model
from rsna_e2e.training.distributed import ALONE, Ranks
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


def test_what_cannot_be_learned_of_series_is_said_when_training_begins(
    data: Data, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = sequences.config("task=pe", "epochs=1")
    train(data.store, tmp_path / "run", config, embeddings=data.embeddings, device="cpu")
    assert [record.message for record in caplog.records if "no series" in record.message] == [
        "no series of the training set is positive for negative_exam_for_pe, indeterminate: a model only learns to "
        "predict 0 for these"  # each series has a slice with a bleed
    ]


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


def test_ranks_that_share_the_fold_score_it_alike(data: Data) -> None:
    model, settings = new_model(), sequences.config("task=pe", "loader.series_per_batch=1")
    load_model(model, find_checkpoint(data.run, "last"))
    barrier, said = threading.Barrier(2), [torch.empty(0)] * 2

    class Thread(Ranks):
        def _reduce_(self, tensor: torch.Tensor, operation: object) -> torch.Tensor:
            said[self.rank] = tensor.clone()
            barrier.wait(60)
            together = torch.stack(said)
            tensor.copy_(together.sum(0) if operation == torch.distributed.ReduceOp.SUM else together.amax(0))
            barrier.wait(60)
            return tensor

    def scores(ranks: Ranks) -> Validation | None:
        loader = EmbeddingLoader(data.store, data.embeddings, settings, device=CPU)
        return validate(model, loader, [3, 1, 0, 4, 2], data.store, PE, Compute(CPU, None), ranks=ranks)

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(scores, [Thread(rank=rank, n_ranks=2) for rank in range(2)])
    assert one == other
    assert one.plain() == pytest.approx(scores(ALONE).plain(), abs=MATES)


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
    said = "validation log loss of slices and series 0.3750, AUC of clot 0.7500, log loss of series 0.2500"
    assert validation.describe("clot") == said


def several_series(data: Data) -> Store:
    """The same store, where the first two series are of one study."""
    store = levels.with_series_labels(Store.open(data.store.path))
    store.series = tuple(replace(span, study_uid="1.2.4.0") if n < 2 else span for n, span in enumerate(store.series))
    store.series_labels[1] = store.series_labels[0]
    return store


def rows_of_csv(path: Path) -> list[tuple[str, float]]:
    header, *rows = csv.reader(path.read_text().splitlines())
    assert header == ["id", "label"]
    return [(row_id, float(value)) for row_id, value in rows]


def test_a_submission_has_rows_of_studies_and_then_of_slices(
    data: Data, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, out = several_series(data), tmp_path / "a.csv"
    done = predict(*(data.run, store), split="train", out=out, embeddings=data.embeddings, is_raw=True, device="cpu")
    predictions = read_predictions(done.table, PE)
    series = read_series(done.series_table, PE, predictions)
    assert series.study_uids == ["1.2.4.0", "1.2.4.0", "1.2.4.2", "1.2.4.3", "1.2.4.4", "1.2.4.5"]
    studies = [series.probability[:2].mean(axis=0), *series.probability[2:]]
    expected = [
        (f"{study}_{name}", value)
        for study, values in zip(dict.fromkeys(series.study_uids), studies, strict=True)
        for name, value in zip(PE.series.names, values, strict=True)
    ]
    expected += zip(predictions.image_ids, predictions.probability[:, 0], strict=True)
    assert rows_of_csv(out) == expected  # to the last bit
    assert "1 of 5 studies have several series" in caplog.text


def test_the_truth_beside_it_has_the_same_rows(data: Data, tmp_path: Path) -> None:
    store, out = several_series(data), tmp_path / "a.csv"
    store.series_labels[3, 1] = np.nan  # this study is left out
    store.labels[store.series[5].first_row] = np.nan  # and this slice
    done = predict(data.run, store, split="train", out=out, embeddings=data.embeddings, device="cpu")
    assert done.truth.n_slices == sum(small.LENGTHS) - 1
    known = [(n, span) for n, span in enumerate(store.series[:6]) if n not in (1, 3)]
    expected = [
        (f"{span.study_uid}_{name}", float(value))
        for n, span in known
        for name, value in zip(PE.series.names, store.series_labels[n], strict=True)
    ]
    rows = [
        row for span in store.series[:6] for row in range(len(store))[span.rows] if row != store.series[5].first_row
    ]
    expected += [(str(store.index["image_id"][row]), float(store.labels[row, 0])) for row in rows]
    assert rows_of_csv(done.truth.path) == expected
    read = read_labels(done.truth.path, PE)
    assert (len(read.study_ids), len(read.image_ids)) == (4, len(rows))


def written(folder: Path, name: str, shift: float) -> Path:
    """A submission of two studies, one of them of two series, whose values obey no rule."""
    table = PredictionTable(
        image_ids=["x", "y", "z", "w"],
        series_keys=["a", "a", "b", "c"],
        slice_index=np.array([0, 1, 0, 0]),
        position_mm=np.array([0.0, 5.0, 0.0, 0.0]),
        probability=np.array([[0.625], [0.25], [0.75], [0.125]]) + shift,
    )
    series = SeriesTable(
        series_keys=["a", "b", "c"],
        n_slices=np.array([2, 1, 1]),
        probability=np.array([[0.75] * 9, [0.5] * 9, [0.25] * 9]) + shift,
        study_uids=["one", "one", "two"],
    )
    write_submission(folder / name, PE, table, series=series)
    return folder / name


def test_what_is_written_obeys_the_rules_and_tables_keep_what_was_predicted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = written(tmp_path, "a.csv", 0.0)
    table = read_predictions(predictions_path(out), PE)
    assert table.probability[:, 0].tolist() == [0.625, 0.25, 0.75, 0.125]
    assert read_series(series_path(out), PE, table).probability[:, 0].tolist() == [0.75, 0.5, 0.25]
    read = read_labels(out, PE)
    slices = read.values[[read.image_ids.index(name) for name in "xyzw"]]
    of_slice = np.array([0, 0, 0, 1])
    assert not violations(slices, of_slice, read.study_values, PE).any()
    means = np.array([[0.625] * 9, [0.25] * 9])
    moved = project(table.probability, of_slice, means, PE)
    assert all(map(np.array_equal, (slices, read.study_values), moved))
    assert not np.array_equal(read.study_values, means)
    assert "2 of 2 studies: the submission has other values than the tables" in caplog.text


def test_means_are_taken_level_by_level(tmp_path: Path) -> None:
    members = [written(tmp_path, "a.csv", 0.0), written(tmp_path, "b.csv", 0.125)]
    bag(members, task=PE, out=tmp_path / "mean.csv", is_raw=True)
    rows = dict(rows_of_csv(tmp_path / "mean.csv"))
    assert (rows["one_indeterminate"], rows["two_indeterminate"]) == (0.6875, 0.3125)
    assert [rows[name] for name in "xyzw"] == [0.6875, 0.3125, 0.8125, 0.1875]
    smooth(members[0], task=PE, out=tmp_path / "smooth.csv", is_raw=True)
    rows = dict(rows_of_csv(tmp_path / "smooth.csv"))
    assert rows["x"] == pytest.approx((1.8 * 0.625 + 0.6 * 0.25) / 2.4)
    assert rows["one_indeterminate"] == 0.625
    series_path(members[1]).unlink()
    with pytest.raises(BadInputError, match=r"b\.csv: has no series table"):
        bag(members, task=PE, out=tmp_path / "mean.csv")


def test_truth_of_both_levels_is_carried_where_members_agree(tmp_path: Path) -> None:
    members = [written(tmp_path, "a.csv", 0.0), written(tmp_path, "b.csv", 0.125)]
    for member, content in zip(members, ("one_chronic_pe,1\nx,1\ny,0\n", "x,1\ny,0\none_chronic_pe,1\n"), strict=True):
        beside(member, "truth.csv").write_text(f"id,label\n{content}")
    assert bag(members, task=PE, out=tmp_path / "mean.csv").truth.n_slices == 2
    beside(members[1], "truth.csv").write_text("id,label\nx,1\ny,0\none_chronic_pe,0\n")
    assert bag(members, task=PE, out=tmp_path / "mean.csv").truth is None


def test_tables_of_another_task_are_refused_by_name(tmp_path: Path) -> None:
    out = written(tmp_path, "a.csv", 0.0)
    with pytest.raises(BadInputError) as caught:
        bag([out], task=ICH, out=tmp_path / "mean.csv")
    assert f"holds predictions of the task {PE.title!r}, and {ICH.title!r} is asked for" in str(caught.value)
    assert "Name its task with --task pe, or" in str(caught.value)
    narrower = replace(PE, inputs=replace(PE.inputs, mean=(0.5, 0.5, 0.5)))  # what a model sees is its own affair
    assert len(read_predictions(predictions_path(out), narrower).image_ids) == 4
    reweighted = replace(PE, slices=replace(PE.slices, weights=(1.0,)))
    with pytest.raises(BadInputError, match="another version of the task 'Pulmonary embolism on CT angiography'"):
        read_series(series_path(out), reweighted, read_predictions(predictions_path(out), PE))


def test_the_mean_of_epochs_is_scored_by_slices_and_series_at_once(data: Data, tmp_path: Path) -> None:
    mean = predict_epochs(
        data.run, data.store, split="test", out=tmp_path / "a.csv", embeddings=data.embeddings, device="cpu"
    )
    logged = {line["epoch"]: line["study_log_loss"] for line in rank_jobs.log_lines(data.run, "validation")}
    found = {member.epoch: member.log_loss for member in mean.members}
    assert found == pytest.approx(logged, abs=MATES)
    assert mean.members[0].mean_log_loss == mean.members[0].log_loss != mean.members[2].mean_log_loss


@pytest.mark.parametrize("flag", ["--consistent", "--raw"])
def test_the_command_line_passes_the_choice_on(data: Data, tmp_path: Path, flag: str) -> None:
    out = tmp_path / "b.csv"
    assert main(["smooth", str(written(tmp_path, "a.csv", 0.0)), "--out", str(out), "--task", "pe", flag]) == 0
    rows = dict(rows_of_csv(out))
    assert (rows["two_negative_exam_for_pe"] > 0.5) == (flag == "--consistent")
