"""Heads on stored embeddings: trained, resumed and shared by the engine; and the mean of what their epochs predict."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rank_jobs
import sequences
import small
import torch

from rsna_e2e.cli import main
from rsna_e2e.config import save_config
from rsna_e2e.core.device import Compute
from rsna_e2e.core.errors import BadInputError, PreemptedError, UsageError
from rsna_e2e.inference.predict import predict
from rsna_e2e.inference.predict_epochs import predict_epochs
from rsna_e2e.inference.predictions import predictions_path, read_predictions
from rsna_e2e.inference.predictor import Predictor
from rsna_e2e.inference.trained_model import TrainedModel
from rsna_e2e.loader.embedding_loader import EmbeddingLoader
from rsna_e2e.model.forward import predict_series
from rsna_e2e.model.network import JointModel
from rsna_e2e.store import Store
from rsna_e2e.store.embeddings import Embeddings
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import read_labels
from rsna_e2e.tasks.metrics import weighted_log_loss
from rsna_e2e.training.checkpoint import drop_epochs, find_checkpoint, load_model
from rsna_e2e.training.prepared_run import RunData
from rsna_e2e.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")

RANKS = 1e-5  # of weights: ranks add in another order
EXACT = {"rtol": 0, "atol": 1e-12}  # the same float64 numbers, added in another order
MATES = 1e-6  # float32 sums, of series in batches with others


@dataclass(frozen=True, slots=True)
class Data:
    """A store, embeddings of it, and a run that learned from them."""

    store: Store
    folder: Path
    embeddings: Embeddings
    run: Path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("sequences")
    store = small.make_store(folder)
    embeddings = sequences.write_embeddings(folder / "e", store)
    train(store, folder / "run", sequences.config(), embeddings=embeddings, device="cpu")
    return Data(store, folder, embeddings, folder / "run")


def test_a_head_learns_from_embeddings(data: Data, tmp_path: Path) -> None:
    config = sequences.config(
        "epochs=12", "optimizer.head_learning_rate=0.05", "optimizer.weight_decay=0", "validation_fold=null"
    )
    train(data.store, tmp_path / "run", config, embeddings=data.embeddings, device="cpu")
    losses = [line["loss"] for line in rank_jobs.steps(tmp_path / "run")]
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) / 5


@pytest.mark.parametrize("setting", ["validation_fold=1", "folds=published"])
def test_a_head_is_not_validated_on_what_its_classifier_saw(data: Data, tmp_path: Path, setting: str) -> None:
    with pytest.raises(UsageError, match=r"would be too optimistic: .* held out fold 0 \(store\)"):
        train(data.store, tmp_path / "run", sequences.config(setting), embeddings=data.embeddings, device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_head_learns_from_one_fold_alone_which_its_classifier_held_out(data: Data, tmp_path: Path) -> None:
    config = sequences.config("training_fold=0", "validation_fold=null")
    run_data = RunData.of(data.store, config, embeddings=data.embeddings)
    assert {data.store.series[position].fold for position in run_data.training} == {0}
    assert run_data.held_out == []
    train(data.store, tmp_path / "run", config, embeddings=data.embeddings, device="cpu")
    with pytest.raises(UsageError, match=r"training_fold=1 learns from .* held out fold 0 \(store\)"):
        RunData.of(data.store, sequences.config("training_fold=1"), embeddings=data.embeddings)
    with pytest.raises(UsageError, match=r"no series in fold 7; training_fold is one of \[0, 1, 2\]"):
        RunData.of(data.store, sequences.config("training_fold=7"), embeddings=data.embeddings)
    with pytest.raises(UsageError, match="training_fold is the fold that is held out"):
        sequences.config("training_fold=0", "validation_fold=0")


def test_a_mean_is_not_made_of_a_run_that_has_not_ended(data: Data, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(data.run, run)
    save_config(sequences.config("epochs=4"), path=run / "config.yaml")
    (run / "manifest.json").unlink()  # which has the sha256 of the other
    with pytest.raises(BadInputError, match="has not come to its end, epoch 4"):
        predict_epochs(run, data.store, split="test", out=tmp_path / "a.csv", embeddings=data.embeddings, device="cpu")


def test_a_run_says_what_it_learned_from(data: Data) -> None:
    manifest = json.loads((data.run / "manifest.json").read_text())
    assert manifest["data_hash"] == data.embeddings.data_hash != data.store.data_hash
    assert manifest["classifiers"] == [["a"]]
    assert manifest["loader"] == "embeddings"
    epochs = [(line["epoch"], line["n_series"]) for line in rank_jobs.steps(data.run)]
    n_training = sum(span.split == "train" and span.fold != 0 for span in data.store.series)
    expected = [2] * (n_training // 2) + [1] * (n_training % 2)
    assert epochs == [(epoch, n) for epoch in (1, 2, 3) for n in expected]


def test_told_to_stop_a_run_goes_on_as_if_it_never_had(data: Data, tmp_path: Path) -> None:
    asked = iter(range(3))
    with pytest.raises(PreemptedError):
        train(
            *(data.store, tmp_path / "run", sequences.config()),
            embeddings=data.embeddings,
            device="cpu",
            is_stopping=lambda: next(asked, None) is None,
        )
    other = sequences.write_embeddings(tmp_path / "other", data.store, seed=1)
    with pytest.raises(BadInputError, match=r"was started with other data than .*, or with other embeddings"):
        train(data.store, tmp_path / "run", sequences.config(), embeddings=other, device="cpu", resume=True)
    train(data.store, tmp_path / "run", sequences.config(), embeddings=data.embeddings, device="cpu", resume=True)
    assert rank_jobs.difference(rank_jobs.weights(tmp_path / "run"), rank_jobs.weights(data.run)) == 0


def test_two_ranks_learn_what_one_does(data: Data, tmp_path: Path) -> None:
    config = sequences.config("optimizer.name=sgd", "optimizer.learning_rate=0.05")
    train(data.store, tmp_path / "one", config, embeddings=data.embeddings, device="cpu")
    save_config(config, path=tmp_path / "two.yaml")
    words = (data.store.path, tmp_path / "two", "--recipe", tmp_path / "two.yaml", "--embeddings", data.folder / "e")
    codes, messages = rank_jobs.run_ranks(2, "-m", "rsna_e2e.cli", "train", *words, "--device", "cpu")
    assert codes == [0, 0], messages
    one, two = (rank_jobs.weights(tmp_path / name) for name in ("one", "two"))
    assert rank_jobs.difference(one, two) <= RANKS
    assert json.loads((tmp_path / "two" / "manifest.json").read_text())["environment"]["n_ranks"] == 2


def test_embeddings_and_a_model_for_them_go_together(data: Data, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"learns from stored embeddings\. Give --embeddings FOLDER"):
        train(data.store, tmp_path / "run", sequences.config(), device="cpu")
    with pytest.raises(UsageError, match=r"learns from images\. Leave out --embeddings"):
        train(data.store, tmp_path / "run", small.config(), embeddings=data.embeddings, device="cpu")
    assert not (tmp_path / "run").exists()


def test_prediction_is_from_embeddings_by_the_same_classifier(data: Data, tmp_path: Path) -> None:
    other = sequences.write_embeddings(tmp_path / "other", data.store, weights="b")
    with pytest.raises(BadInputError, match="learned from embeddings by other classifiers"):
        predict(data.run, data.store, split="test", out=tmp_path / "a.csv", embeddings=other, device="cpu")


def test_the_mean_over_epochs_is_that_of_what_each_predicts(data: Data, tmp_path: Path) -> None:
    arguments = {"split": "test", "embeddings": data.embeddings, "device": "cpu"}
    mean = predict_epochs(data.run, data.store, out=tmp_path / "mean.csv.gz", **arguments)
    single = []
    for epoch in (1, 2, 3):
        out = tmp_path / f"{epoch}.csv"
        predict(data.run, data.store, out=out, checkpoint=f"epoch-{epoch}", **arguments)
        single.append(read_predictions(predictions_path(out), ICH))
    stored = read_predictions(predictions_path(tmp_path / "mean.csv.gz"), ICH)
    assert stored.image_ids == single[0].image_ids == mean.table.image_ids
    np.testing.assert_allclose(stored.probability, np.mean([s.probability for s in single], axis=0), **EXACT)
    assert np.abs(single[0].probability - single[2].probability).max() > 1e-4
    submitted = read_labels(tmp_path / "mean.csv.gz", ICH)
    assert sorted(submitted.image_ids) == sorted(stored.image_ids)
    two = predict_epochs(data.run, data.store, out=tmp_path / "two.csv", epochs=(1, 3), **arguments)
    expected = (single[0].probability + single[2].probability) / 2
    np.testing.assert_allclose(two.table.probability, expected, **EXACT)


def test_the_manifest_names_every_checkpoint_and_scores_it_and_the_mean(data: Data, tmp_path: Path) -> None:
    arguments = {"embeddings": data.embeddings, "device": "cpu"}
    mean = predict_epochs(data.run, data.store, split="train", out=tmp_path / "a.csv", **arguments)
    members = json.loads((tmp_path / "a.csv.epochs.json").read_text())["members"]
    for member, epoch in zip(members, (1, 2, 3), strict=True):
        checkpoint = find_checkpoint(data.run, f"epoch-{epoch}")
        recorded = json.loads((checkpoint / "checkpoint.json").read_text())["sha256"]["model.safetensors"]
        assert (member["epoch"], member["checkpoint"], member["sha256"]) == (epoch, checkpoint.name, recorded)
    logged = [line["weighted_log_loss"] for line in rank_jobs.log_lines(data.run, "validation")]
    assert [member["log_loss"] for member in members] == pytest.approx(logged, abs=MATES)
    held_out = [s for s in data.store.series if s.split == "train" and s.fold == 0]
    ids = [i for s in held_out for i in data.store.index["image_id"][s.first_row : s.first_row + s.n_slices]]
    table = {image_id: row for row, image_id in enumerate(mean.table.image_ids)}
    labels = {image_id: data.store.labels[row] for row, image_id in enumerate(data.store.index["image_id"])}
    of_mean = weighted_log_loss(
        np.array([labels[i] for i in ids], dtype=np.float64),
        mean.table.probability[[table[i] for i in ids]],
        np.array(ICH.slices.weights),
    )
    assert members[-1]["mean_log_loss"] == pytest.approx(of_mean, abs=MATES)
    assert members[0]["mean_log_loss"] == members[0]["log_loss"]


def test_a_mean_over_epochs_that_were_dropped_is_refused(data: Data, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(data.run, run)
    drop_epochs(run)
    find_checkpoint(run, "last")
    with pytest.raises(BadInputError, match="Remove the run and train it again"):
        predict_epochs(run, data.store, split="test", out=tmp_path / "a.csv", embeddings=data.embeddings, device="cpu")
    assert not (tmp_path / "a.csv").exists()


def test_padded_on_the_left_a_head_learns_and_predicts_otherwise(data: Data, tmp_path: Path) -> None:
    runs = {"packed": data.run, "left": tmp_path / "left"}
    config = sequences.config("model.padding=left", "loader.slice_order=published")
    train(data.store, runs["left"], config, embeddings=data.embeddings, device="cpu")
    tables = []
    for name, run in runs.items():
        out = tmp_path / f"{name}.csv"
        predict(run, data.store, split="train", out=out, embeddings=data.embeddings, device="cpu", checkpoint="last")
        tables.append(read_predictions(predictions_path(out), ICH))
    assert tables[0].image_ids == tables[1].image_ids  # as in the store
    assert tables[0].image_ids == [str(i) for i in data.store.index["image_id"][data.store.index["split"] == "train"]]
    assert np.abs(tables[0].probability - tables[1].probability).max() > 1e-4


def test_a_predictor_gives_back_the_rows_of_the_store_whatever_the_order_of_slices(data: Data, tmp_path: Path) -> None:
    store = Store.open(data.store.path)
    store.index = {name: column.copy() for name, column in store.index.items()}
    store.index["ipp_y_mm"] -= 1.3 * store.index["slice_index"]  # published: every series back to front
    run = tmp_path / "run"
    config = sequences.config("loader.slice_order=published", "epochs=1")
    train(store, run, config, embeddings=data.embeddings, device="cpu")
    model = JointModel(config.model, n_channels=sequences.WIDTH, n_labels=6)
    load_model(model, find_checkpoint(run, "last"))
    loader = EmbeddingLoader(store, data.embeddings, config, device=torch.device("cpu"))
    compute = Compute(torch.device("cpu"), None)
    positions = list(range(len(store.series)))
    unordered = predict_series(model, loader, positions, compute=compute)
    assert unordered.rows.tolist() != sorted(unordered.rows)
    expected = dict(zip(unordered.rows.tolist(), unordered.slices.tolist(), strict=True))
    trained = TrainedModel.open(run, "last", embeddings=data.embeddings, device="cpu")
    prediction = Predictor(trained, store)(positions)
    assert prediction.rows.tolist() == list(range(len(store)))
    assert prediction.slices.tolist() == [expected[row] for row in prediction.rows.tolist()]


def test_two_stages_on_the_command_line(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: object) -> str:
        assert main([str(word) for word in words]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    store = data.store.path
    folders = []
    for fold in (0, 1, 2):
        settings = tmp_path / f"images{fold}.yaml"
        save_config(small.image_config(f"validation_fold={fold}", epochs=1), path=settings)
        run("train", store, tmp_path / f"images{fold}", "--recipe", settings, "--device", "cpu")
        folders.append(tmp_path / f"e{fold}")
        views = ("--checkpoint", "epoch-1", "--views", "plain,hflip")
        said = run("embed", tmp_path / f"images{fold}", store, folders[-1], *views, "--device", "cpu")
        assert f"{len(data.store)} slices x " in said
    settings = tmp_path / "head.yaml"
    save_config(sequences.config("epochs=2"), path=settings)
    out_of_fold = [word for fold, path in enumerate(folders) for word in ("--out-of-fold", f"{fold}={path}")]
    given = ("--embeddings", folders[0], *out_of_fold)
    run("train", store, tmp_path / "head", *given, "--recipe", settings, "--device", "cpu")
    manifest = json.loads((tmp_path / "head" / "manifest.json").read_text())
    assert len(manifest["classifiers"][0]) == 4
    said = run(
        *("predict", tmp_path / "head", store, "--embeddings", folders[0], "--checkpoint", "epochs"),
        *("--out", tmp_path / "submission.csv.gz", "--device", "cpu"),
    )
    assert "mean of 2 epochs" in said
    assert "epoch 2: validation weighted log loss" in said


def test_options_that_make_no_sense_are_named(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", str(data.store.path), str(tmp_path / "run"), "--out-of-fold", "0=e"]
    assert main(words) == 2
    assert "--out-of-fold goes with --embeddings" in capsys.readouterr().err
    for wrong in (["--views", "plain,plain"], ["--views", "upside-down"]):
        with pytest.raises(SystemExit):
            main(["embed", str(data.run), str(data.store.path), str(tmp_path / "e"), *wrong])
        assert "each once, with commas" in capsys.readouterr().err
    assert main(["embed", str(data.run), str(data.store.path), str(tmp_path / "e")]) == 2
    assert "has no backbone, it learned from embeddings" in capsys.readouterr().err


def test_chunks_that_are_left_open_are_settled_without_measuring(data: Data, tmp_path: Path) -> None:
    config = sequences.config("epochs=1")
    assert config.chunk == "auto"
    train(data.store, tmp_path / "run", config, embeddings=data.embeddings, device="cpu")
    assert "chunk: 4096" in (tmp_path / "run" / "config.yaml").read_text()
    assert torch.get_num_threads() == 1
