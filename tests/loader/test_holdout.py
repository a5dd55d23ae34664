"""Training and validation sets: by the store's folds, by the published rule, and with nothing held out."""

import csv
import json
from pathlib import Path

import levels
import numpy as np
import phantoms
import pytest
import small

from rsna_e2e.cli import main
from rsna_e2e.config import RunConfig, save_config
from rsna_e2e.core.errors import UsageError
from rsna_e2e.inference.predict import predict
from rsna_e2e.inference.predictions import predictions_path, read_predictions
from rsna_e2e.loader.holdout import hold_out, training_slices
from rsna_e2e.store import Store
from rsna_e2e.store.prepare import prepare
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import read_labels, write_labels
from rsna_e2e.tasks.metrics import log_loss_cells, weighted_log_loss
from rsna_e2e.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")

GOLDEN = Path(__file__).parents[1] / "golden" / "folds.csv"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small.make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of the images in the published table, each in the series of its patient, and one without a label."""
    folder = tmp_path_factory.mktemp("published")
    with GOLDEN.open() as file:
        rows = list(csv.DictReader(file))
    of_patient: dict[str, int] = {}
    images = [(row["Image"], row["PatientID"]) for row in rows] + [("ID_000000000", rows[-1]["PatientID"])]
    for image_id, patient in images:
        index = of_patient[patient] = of_patient.get(patient, -1) + 1
        number = list(of_patient).index(patient)
        dataset = phantoms.slice_dataset(
            np.full((4, 4), 40, dtype="<i2"),
            SOPInstanceUID=f"1.2.3.{number}.{index}",
            PatientID=patient,
            StudyInstanceUID=f"1.2.4.{number}",
            SeriesInstanceUID=f"1.2.5.{number}",
            ImagePositionPatient=[-125.0, -125.0, 5.0 * index],
        )
        phantoms.write_dicom(folder / "raw" / f"{image_id}.dcm", dataset)
    write_labels(folder / "raw" / "stage_2_train.csv", ICH, [row["Image"] for row in rows], np.zeros((len(rows), 6)))
    prepare(folder / "raw", folder / "store", task=ICH, n_folds=3, n_jobs=1)
    return Store.open(folder / "store")


def run_config(*overrides: str) -> RunConfig:
    return small.config("validation_fold=null", "training_slices_scored=7", *overrides)


@pytest.mark.parametrize("fold", range(5))
def test_published_folds_are_those_of_the_published_table(published: Store, fold: int) -> None:
    with GOLDEN.open() as file:
        expected = {row["PatientID"] for row in csv.DictReader(file) if int(row["fold"]) == fold}
    training, held_out = hold_out(published, small.config("folds=published", f"validation_fold={fold}"))
    # the first image of all has no label, so it is not counted: with it, every row would be one later
    assert {published.series[position].patient_id for position in held_out} == expected
    assert sorted(training + held_out) == list(range(len(published.series)))


def test_the_stores_folds_are_the_default(published: Store) -> None:
    _, held_out = hold_out(published, small.config("validation_fold=2"))
    assert {published.series[position].fold for position in held_out} == {2}


def test_a_published_fold_that_is_not_there_is_named(store: Store) -> None:
    # six patients of 5, 3, 1, 6, 4 and 2 images, whose first rows are 0, 5, 8, 9, 15 and 19
    with pytest.raises(UsageError, match=r"no series in fold 1; it has folds \[0, 3, 4\]\. .* validation_fold=null"):
        hold_out(store, small.config("folds=published", "validation_fold=1"))


def test_the_first_training_slices_by_image_id_by_hand(store: Store) -> None:
    # without series 1, ids begin ID_0000 to ID_0004 (series 0), ID_0200 (series 2), ID_0300 (series 3)
    positions = [p for p, span in enumerate(store.series) if span.split == "train"]
    number = {p: int(str(store.index["image_id"][store.series[p].first_row])[3:5]) for p in positions}
    training = [p for p in positions if number[p] != 1]
    holding, rows = training_slices(store, training, n=7)
    assert sorted(store.index["image_id"][rows]) == [*(f"ID_000{i}" for i in range(5)), "ID_0200", "ID_0300"]
    assert sorted(number[p] for p in holding) == [0, 2, 3]
    holding, rows = training_slices(store, training, n=1000)
    assert (sorted(holding), len(rows)) == (sorted(training), 5 + 1 + 6 + 4 + 2)


def test_scores_of_training_slices_are_called_so_everywhere(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_config(run_config(), path=tmp_path / "recipe.yaml")
    run = tmp_path / "run"
    assert main(["train", str(store.path), str(run), "--recipe", str(tmp_path / "recipe.yaml")]) == 0
    said = capsys.readouterr()
    assert "scored on 7 of its own TRAINING slices" in said.err
    assert "best epoch 1: on 7 of its TRAINING slices, no validation: weighted log loss" in said.out
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["n_training_slices"] for line in logged if line["kind"] == "training_slices"] == [7]
    assert not [line for line in logged if line["kind"] == "validation"]
    assert json.loads((run / "summary.json").read_text())["best"]["n_training_slices"] == 7


def test_training_slices_are_scored_as_held_out_ones_are(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    summary = train(store, tmp_path / "run", run_config(), device="cpu")
    assert "TRAINING" in caplog.text
    predict(tmp_path / "run", store, split="train", out=tmp_path / "s.csv", device="cpu")
    table = read_predictions(predictions_path(tmp_path / "s.csv"), ICH)
    first = sorted(table.image_ids)[:7]
    rows = [list(store.index["image_id"]).index(image_id) for image_id in first]
    predicted = table.probability[[table.image_ids.index(image_id) for image_id in first]]
    expected = weighted_log_loss(store.labels[rows].astype(np.float64), predicted, np.array(ICH.slices.weights))
    assert summary.best is not None
    assert summary.best.weighted_log_loss == pytest.approx(expected, abs=1e-6)  # float32 sums of other batches
    resumed = train(store, tmp_path / "run", run_config(), device="cpu", resume=True)
    assert resumed.best is not None
    assert resumed.best.weighted_log_loss == summary.best.weighted_log_loss
    assert resumed.best.n_training_slices == 7


def test_where_slices_have_one_label_alone_that_is_learned_and_scored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small.write_raw(tmp_path / "raw")
    table = tmp_path / "raw" / "stage_2_train.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(line for line in lines if "Label" in line or "_any," in line))
    prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_folds=3, n_jobs=1)
    store = Store.open(tmp_path / "store")
    summary = train(store, tmp_path / "run", small.config(), device="cpu")
    predict(tmp_path / "run", store, split="train", out=tmp_path / "s.csv", device="cpu")
    predicted = read_labels(tmp_path / "s.csv", ICH)
    held_out = [span.rows for span in store.series if span.fold == small.config().validation_fold]
    rows = np.concatenate([np.arange(rows.start, rows.stop) for rows in held_out])
    truth = store.labels[rows, ICH.headline_index].astype(np.float64)
    places = [predicted.image_ids.index(image_id) for image_id in store.index["image_id"][rows]]
    losses = log_loss_cells(truth, predicted.values[places, ICH.headline_index])
    assert summary.best is not None
    assert summary.best.weighted_log_loss == pytest.approx(losses.mean(), abs=1e-6)
    assert "TRAINING" not in caplog.text
    summary = train(store, tmp_path / "all", run_config(), device="cpu")
    assert "TRAINING" in caplog.text
    assert summary.best is not None
    assert summary.best.n_training_slices == 7


def store_with_labels(folder: Path, text: str, *, n_folds: int = 3) -> Store:
    """The small series, with the labels of this table alone."""
    small.write_raw(folder / "raw")
    (folder / "raw/stage_2_train.csv").write_text(text)
    prepare(folder / "raw", folder / "store", task=ICH, n_folds=n_folds, n_jobs=1)
    return Store.open(folder / "store")


def test_without_any_label_another_fold_is_no_advice(tmp_path: Path) -> None:
    small.write_raw(tmp_path / "raw")
    prepare(tmp_path / "raw", tmp_path / "store", task=ICH, labels="none", n_jobs=1)
    store = Store.open(tmp_path / "store")
    for fold in ("0", "null"):
        with pytest.raises(
            UsageError, match=r"none of its series has a label, .*: rsna-e2e label \S+ LABELS --task ich \(docs"
        ):
            hold_out(store, small.config(f"validation_fold={fold}"))


def test_without_labels_of_slices_no_fold_can_be_scored(store: Store) -> None:
    of_studies = levels.with_series_labels(store)
    of_studies.labels = np.full_like(of_studies.labels, np.nan)
    with pytest.raises(UsageError, match=r"no fold can be scored; of fold 0: none of its \d+ slices has a label\. Add"):
        hold_out(of_studies, small.config())


def test_one_fold_alone_cannot_be_held_out(tmp_path: Path) -> None:
    rows = "".join(f"ID_000{index},1,1\nID_010{index % 3},0,0\n" for index in range(3))  # two patients
    store = store_with_labels(tmp_path, f"ID,epidural,any\n{rows}", n_folds=1)
    with pytest.raises(UsageError, match=r"all 2 labelled series are in fold 0, .*--set validation_fold=null"):
        hold_out(store, small.config())
    assert hold_out(store, small.config("validation_fold=null")) == ([0, 1], [])


def test_a_fold_that_cannot_be_scored_is_refused_before_training_and_others_are_named(tmp_path: Path) -> None:
    """Each slice has one of two labels in a series of five and one of three, and both in a series of six."""
    rows = [
        f"ID_{series:02d}{i:02d},{i % 2 or ''},{'' if i % 2 else 1}" for series, n in ((0, 5), (1, 3)) for i in range(n)
    ]
    rows += [f"ID_030{i},{i % 2},1" for i in range(6)]
    store = store_with_labels(tmp_path, "\n".join(["ID,epidural,any", *rows]))
    fold_of = {store.series[p].n_slices: store.series[p].fold for p, span in enumerate(store.series) if span.fold >= 0}
    assert len(set(fold_of.values())) == 3
    message = (
        f"fold {fold_of[5]} cannot be scored: none of its 5 slices has all the labels that are known of others "
        rf"\(epidural of 2, any of 3\)\. Add labels, or choose one of the folds \[{fold_of[6]}\] with"
    )
    with pytest.raises(UsageError, match=message):
        hold_out(store, small.config(f"validation_fold={fold_of[5]}"))
    training, held_out = hold_out(store, small.config(f"validation_fold={fold_of[6]}"))
    assert (len(training), [store.series[p].n_slices for p in held_out]) == (2, [6])
    with pytest.raises(UsageError, match=r"the training set cannot be scored: .*--set training_slices_scored=null"):
        training_slices(store, training, n=7)


def test_where_no_fold_can_be_scored_none_is_named(tmp_path: Path) -> None:
    rows = [f"ID_{series:02d}{i:02d},{i % 2 or ''},{'' if i % 2 else 1}" for series in (0, 1) for i in range(3)]
    store = store_with_labels(tmp_path, "\n".join(["ID,epidural,any", *rows]))
    fold = next(span.fold for span in store.series if span.fold >= 0)
    message = r"no fold can be scored; of fold .* \(epidural of 1, any of 2\)\. Add labels, or hold nothing out: "
    with pytest.raises(UsageError, match=message):
        hold_out(store, small.config(f"validation_fold={fold}"))


def test_what_cannot_be_learned_is_said_when_training_begins(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [f"ID_{series:02d}{i:02d},0,{i % 2}" for series, n in enumerate(small.LENGTHS) for i in range(n)]
    store = store_with_labels(tmp_path, "\n".join(["ID,subdural,any", *rows]))
    train(store, tmp_path / "run", small.config("validation_fold=null"), device="cpu")
    assert [record.message for record in caplog.records if "no slice" in record.message] == [
        "no slice of the training set has a label for epidural, intraparenchymal, intraventricular, subarachnoid: a "
        "model does not learn these, and its predictions of them mean nothing",
        "no slice of the training set is positive for subdural: a model only learns to predict 0 for these",
    ]


def test_a_held_out_fold_is_no_training_slices(store: Store, tmp_path: Path) -> None:
    summary = train(store, tmp_path / "run", small.config(), device="cpu")
    assert summary.best is not None
    assert summary.best.n_training_slices == 0
    with pytest.raises(UsageError, match="for runs without a held-out fold"):
        run_config("validation_fold=0")
