"""Prediction of the held-out fold, and the truth that is written beside a submission."""

import json
import shlex
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import sequences
import small

from rsna_e2e.cli import main
from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.evaluation.evaluate import evaluate
from rsna_e2e.inference.predict import predict
from rsna_e2e.inference.predict_epochs import predict_epochs
from rsna_e2e.inference.predictions import beside, predictions_path, read_predictions
from rsna_e2e.loader.holdout import hold_out
from rsna_e2e.store import Store, rows_of
from rsna_e2e.store.embeddings import Embeddings
from rsna_e2e.store.prepare import prepare
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import read_labels
from rsna_e2e.training.run_layout import MANIFEST
from rsna_e2e.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")

MATES = 1e-6  # float32 sums in batches of another composition


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Six series with labels in three folds, one without."""
    opened = small.make_store(tmp_path_factory.mktemp("validation"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def run(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(store, folder, small.image_config("validation_fold=1"), device="cpu")
    return folder


def ids_of_fold(store: Store, fold: int) -> list[str]:
    return [str(i) for i, found in zip(store.index["image_id"], store.index["fold"], strict=True) if found == fold]


def test_the_held_out_fold_is_predicted_and_scored_as_training_scored_it(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "v.csv"
    summary = train(store, tmp_path / "run", small.config("validation_fold=2"), device="cpu")
    done = predict(tmp_path / "run", store, split="validation", out=out, device="cpu")
    assert read_predictions(predictions_path(out), ICH).image_ids == ids_of_fold(store, 2)
    assert done.truth is not None
    assert (done.truth.path, done.truth.n_slices, done.truth.n_predicted) == (
        tmp_path / "v.csv.truth.csv", done.n_slices, done.n_slices
    )  # fmt: skip
    truth = read_labels(done.truth.path, ICH)
    label_of = dict(zip(store.index["image_id"], store.labels.tolist(), strict=True))
    assert dict(zip(truth.image_ids, truth.values.tolist(), strict=True)) == {i: label_of[i] for i in truth.image_ids}
    assert summary.best is not None
    scored = evaluate(out, done.truth.path, task=ICH)
    assert scored.weighted_log_loss.value == pytest.approx(summary.best.weighted_log_loss, abs=MATES)
    assert scored.layout is not None  # the series are known by the predictions table


def test_the_mean_over_epochs_is_scored_as_its_manifest_says(store: Store, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "v.csv"
    mean = predict_epochs(run, store, split="validation", out=out, device="cpu")
    assert mean.table.image_ids == ids_of_fold(store, 1)
    assert mean.truth is not None
    found = evaluate(out, mean.truth.path, task=ICH).weighted_log_loss.value
    assert found == pytest.approx(mean.members[-1].mean_log_loss, abs=MATES)


def test_the_fold_is_that_of_the_runs_rule(store: Store, tmp_path: Path) -> None:
    config = small.image_config("folds=published", "validation_fold=0", epochs=1)
    _, held_out = hold_out(store, config)
    train(store, tmp_path / "run", config, device="cpu")
    predict(tmp_path / "run", store, split="validation", out=tmp_path / "v.csv", device="cpu")
    expected = store.index["image_id"][rows_of(store.series[p] for p in held_out)].tolist()
    assert read_predictions(predictions_path(tmp_path / "v.csv"), ICH).image_ids == expected != ids_of_fold(store, 0)


def test_a_run_on_embeddings_predicts_its_fold(store: Store, tmp_path: Path) -> None:
    embeddings = sequences.write_embeddings(tmp_path / "embeddings", store)
    train(store, tmp_path / "run", sequences.config("validation_fold=0"), embeddings=embeddings, device="cpu")
    out = tmp_path / "v.csv"
    predict(tmp_path / "run", store, split="validation", out=out, embeddings=embeddings, device="cpu")
    assert read_predictions(predictions_path(out), ICH).image_ids == ids_of_fold(store, 0)


def test_a_run_on_embeddings_knows_its_store(store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The same classifier embeds another store, whose fold 0 the head has learned from."""
    embeddings = sequences.write_embeddings(tmp_path / "embeddings", store)
    run, out = tmp_path / "run", tmp_path / "v.csv"
    train(store, run, sequences.config("validation_fold=0"), embeddings=embeddings, device="cpu")
    prepare(store.path.parent / "raw", tmp_path / "other", task=ICH, n_folds=2, holdout=0.3, n_jobs=1)
    with closing(Store.open(tmp_path / "other")) as other:
        there = sequences.write_embeddings(tmp_path / "there", other)
        with pytest.raises(BadInputError, match=r"other: is not the store that \S+run was trained on"):
            predict(run, other, split="validation", out=out, embeddings=there, device="cpu")
        assert not caplog.text
        predict(run, other, split="test", out=out, embeddings=there, device="cpu")
        assert "is not the store that" in caplog.text
        manifest = json.loads((run / MANIFEST).read_text())
        assert manifest.pop("store_data_hash") == store.data_hash != manifest["data_hash"]
        (run / MANIFEST).write_text(json.dumps(manifest))  # as an earlier version wrote it
        predict(run, other, split="validation", out=out, embeddings=there, device="cpu")


def test_the_fold_is_not_predicted_from_a_classifier_that_saw_it(store: Store, tmp_path: Path) -> None:
    """Out of fold, a head learns from the embeddings of two classifiers; only one of them held its fold out."""
    for fold in (0, 1, 2):
        sequences.write_embeddings(tmp_path / f"e{fold}", store, weights=f"w{fold}", fold=fold)
    folders = {fold: [tmp_path / f"e{fold}"] for fold in (0, 1, 2)}
    both = Embeddings.open(folders[0], store, out_of_fold=folders, fold_of_series=[s.fold for s in store.series])
    run, out = tmp_path / "run", tmp_path / "v.csv"
    train(store, run, sequences.config("validation_fold=0"), embeddings=both, device="cpu")
    unseen, seen = (Embeddings.open(folders[fold], store) for fold in (0, 1))
    predict(run, store, split="validation", out=out, embeddings=unseen, device="cpu")
    with pytest.raises(UsageError, match=r"classifier that held out fold 1 \(store\)\. Give those of one that"):
        predict(run, store, split="validation", out=out, embeddings=seen, device="cpu")


@pytest.mark.parametrize("scored", [[], ["training_slices_scored=7"]])
def test_a_run_that_held_nothing_out_says_what_to_do(store: Store, tmp_path: Path, scored: list[str]) -> None:
    train(store, tmp_path / "run", small.image_config("validation_fold=null", *scored, epochs=1), device="cpu")
    message = r"run: was trained on all labelled series \(validation_fold=null\).* validation_fold=0, .* --holdout 0\.2"
    for verb in (predict, predict_epochs):
        with pytest.raises(UsageError, match=message):
            verb(tmp_path / "run", store, split="validation", out=tmp_path / "v.csv", device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_folds_of_another_store_are_not_those_of_the_run(run: Path, store: Store, tmp_path: Path) -> None:
    prepare(store.path.parent / "raw", tmp_path / "other", task=ICH, n_folds=2, n_jobs=1)
    other = Store.open(tmp_path / "other")
    with pytest.raises(BadInputError, match=r"other: is not the store that \S+run was trained on"):
        predict(run, other, split="validation", out=tmp_path / "v.csv", device="cpu")


def test_patients_that_another_store_holds_out_may_have_been_learned_from(
    run: Path, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A run of before `--holdout` may have learned from them; one of this store has not."""
    prepare(store.path.parent / "raw", tmp_path / "held", task=ICH, n_folds=2, holdout=0.3, n_jobs=1)
    with closing(Store.open(tmp_path / "held")) as held:
        predict(run, held, split="test", out=tmp_path / "a.csv", device="cpu")
        assert "is not the store that" in caplog.text
        caplog.clear()
        train(held, tmp_path / "run", small.image_config("validation_fold=1"), device="cpu")
        predict(tmp_path / "run", held, split="test", out=tmp_path / "a.csv", device="cpu")
    predict(run, store, split="test", out=tmp_path / "a.csv", device="cpu")  # has no labels there
    assert "is not the store" not in caplog.text


def test_without_labels_there_is_no_truth_and_none_stays(run: Path, store: Store, tmp_path: Path) -> None:
    out = tmp_path / "s.csv"
    assert predict(run, store, split="train", out=out, device="cpu").truth is not None
    assert predict(run, store, split="test", out=out, device="cpu").truth is None
    assert not beside(out, "truth.csv").exists()


def test_the_command_that_is_printed_scores_what_has_labels(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the test split of a store with a hold-out: labelled patients, and one without labels."""
    prepare(store.path.parent / "raw", tmp_path / "store", task=ICH, n_folds=2, n_jobs=1, holdout=0.4)
    held = Store.open(tmp_path / "store")
    train(held, tmp_path / "run", small.image_config(epochs=1), device="cpu")
    out = tmp_path / "a b.csv"
    words = ["predict", str(tmp_path / "run"), str(held.path), "--out", str(out), "--device", "cpu"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    is_test = held.index["split"] == "test"
    has_label = ~np.isnan(held.labels).any(axis=1)
    n_left, n = int((is_test & ~has_label).sum()), int(is_test.sum())
    assert n_left == 4
    assert lines[-2] == (f"without truth: {n_left} of {n} slices, whose labels the store does not have, or not all")
    prefix = "to score it: rsna-e2e "
    assert lines[-1].startswith(prefix)
    command = shlex.split(lines[-1].removeprefix(prefix))
    assert command == ["evaluate", str(out), f"{out}.truth.csv", "--out", "report", "--allow-missing"]
    assert main([*command[:-2], str(tmp_path / "report"), "--allow-missing"]) == 0
    assert f"left out: predicted images that the truth does not have ({n_left})" in capsys.readouterr().out
    expected = sorted(held.index["image_id"][is_test & has_label])
    assert read_labels(beside(out, "truth.csv"), ICH).image_ids == expected


def test_split_train_is_said_to_be_what_was_learned(
    run: Path, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the store of the run alone; a fold to look at is named only where one was held out."""
    out, note = str(tmp_path / "s.csv"), "learned from: scores of other patients are lower"

    def printed(run: Path, store: Path, split: str) -> str:
        assert main(["predict", str(run), str(store), "--split", split, "--out", out, "--device", "cpu"]) == 0
        shown = capsys.readouterr()
        assert shown.out.splitlines()[-1] == f"to score it: rsna-e2e evaluate {out} {out}.truth.csv --out report"
        return shown.err

    assert f"split train is what {run} {note}, see --split validation" in printed(run, store.path, "train")
    assert note not in printed(run, store.path, "validation")
    train(store, tmp_path / "all", small.image_config("validation_fold=null", epochs=1), device="cpu")
    assert f"{note}\n" in printed(tmp_path / "all", store.path, "train")
    prepare(store.path.parent / "raw", tmp_path / "other", task=ICH, n_folds=2, n_jobs=1)
    assert note not in printed(run, tmp_path / "other", "train")


def test_truth_of_one_label_holds_that_label(run: Path, store: Store, tmp_path: Path) -> None:
    labels = store.labels.copy()
    labels[:, :5] = np.nan
    labels[3, 5] = np.nan
    known = Store.open(store.path)
    known.labels = labels
    done = predict(run, known, split="train", out=tmp_path / "s.csv", device="cpu")
    assert done.truth is not None
    assert done.truth.n_predicted - done.truth.n_slices == 1
    lines = done.truth.path.read_text().splitlines()[1:]
    assert len(lines) == done.truth.n_slices
    assert all(line.split(",")[0].endswith("_any") for line in lines)
    result = evaluate(tmp_path / "s.csv", done.truth.path, task=ICH, allow_missing=True)
    assert [scores.label for scores in result.slices.scores] == ["any"]
