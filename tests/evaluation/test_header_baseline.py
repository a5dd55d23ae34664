"""`rsna-e2e baseline`: what headers alone predict, of radiographs whose labels hang on the view and of tiny series."""

import json
import math
from pathlib import Path

import numpy as np
import phantoms
import pytest
import real_tables
import small
from levels import with_series_labels
from radiographs import chest, dataset

from rsna_e2e.cli import main
from rsna_e2e.core.errors import UsageError
from rsna_e2e.core.table_files import table_at
from rsna_e2e.evaluation.baselines import by_forest
from rsna_e2e.evaluation.header_baseline import N_SHUFFLES, LabelBaseline, header_baseline
from rsna_e2e.store import Store
from rsna_e2e.store.prepare import Reading, prepare
from rsna_e2e.tasks import metrics
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import read_labels
from rsna_e2e.tasks.pe import PE
from rsna_e2e.tasks.pneumonia import PNEUMONIA

N_IMAGES, N_LABELLED = 120, 90


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the time."""
    monkeypatch.setattr("rsna_e2e.evaluation.baselines.N_TREES", 20)


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of radiographs: seven of ten AP have an opacity, one of ten PA; nothing else says anything.

    The last 30 have no labels, so that they are split test.
    """
    folder = tmp_path_factory.mktemp("radiographs")
    rng, lines = np.random.default_rng(0), ["patientId,x,y,width,height,Target"]
    (folder / "raw").mkdir()
    for number in range(N_IMAGES):
        view = "AP" if number % 2 else "PA"
        tags = {"ViewPosition": view, "PatientID": f"p{number}", "SOPInstanceUID": f"1.2.3.{number}"}
        tags |= {"StudyInstanceUID": f"1.2.4.{number}", "SeriesInstanceUID": f"1.2.5.{number}"}
        phantoms.write_dicom(folder / f"raw/i{number:03d}.dcm", dataset(chest((9, 8), seed=number), 12, **tags))
        has = rng.random() < (0.7 if view == "AP" else 0.1)
        if number < N_LABELLED:
            lines.append(f"i{number:03d},1,1,3,3,1" if has else f"i{number:03d},,,,,0")
    (folder / "labels.csv").write_text("\n".join(lines))
    reading = Reading(modality="xr")
    prepare(folder / "raw", folder / "store", task=PNEUMONIA, labels=folder / "labels.csv", reading=reading, n_jobs=1)
    return folder / "store"


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.make_store(tmp_path_factory.mktemp("series")).path


def test_what_hangs_on_the_view_is_found_and_says_nothing_within_a_view(radiographs: Path, tmp_path: Path) -> None:
    store = Store.open(radiographs)
    found = header_baseline(store, PNEUMONIA, split="train", out=tmp_path / "b.csv")
    (opacity,) = found.labels  # of the others nothing is known
    assert (opacity.label, opacity.n, found.n_slices) == ("opacity", N_LABELLED, N_LABELLED)
    assert opacity.auc > 0.7
    # AP before PA; the shares of a view differ a little between folds, so that some pairs are ranked otherwise
    is_ap, truth = store.index["view"] == "AP", store.labels[:, 0]
    known = ~np.isnan(truth)
    assert opacity.view_auc == pytest.approx(metrics.auc(truth[known], is_ap[known].astype(float)), abs=0.05)
    assert set(opacity.within) == {"AP", "PA"}
    assert all(abs(area - 0.5) < 0.25 for area in opacity.within.values())  # some 45 images each
    assert opacity.is_at_chance
    assert opacity.log_loss < opacity.constant_log_loss


def test_a_fold_teaches_nothing_about_itself(radiographs: Path, tmp_path: Path) -> None:
    store = Store.open(radiographs)
    header_baseline(store, PNEUMONIA, split="validation", fold=1, out=tmp_path / "first.csv")
    is_held_out = store.index["fold"] == 1
    store.labels[is_held_out] = 1 - store.labels[is_held_out]
    header_baseline(store, PNEUMONIA, split="validation", fold=1, out=tmp_path / "second.csv")
    assert (tmp_path / "first.csv").read_bytes() == (tmp_path / "second.csv").read_bytes()
    written = read_labels(table_at(tmp_path / "first.csv"), PNEUMONIA)
    assert set(written.image_ids) == set(store.index["image_id"][is_held_out])


def test_all_folds_at_once_are_each_fold_alone(radiographs: Path, tmp_path: Path) -> None:
    store = Store.open(radiographs)
    header_baseline(store, PNEUMONIA, split="train", out=tmp_path / "all.csv")
    every = set((tmp_path / "all.csv").read_text().splitlines())
    for fold in range(5):
        header_baseline(store, PNEUMONIA, split="validation", fold=fold, out=tmp_path / f"{fold}.csv")
        assert set((tmp_path / f"{fold}.csv").read_text().splitlines()) <= every


def test_the_command_says_what_it_found_and_evaluate_scores_it(
    radiographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "baseline.csv"
    assert main(["baseline", str(radiographs), str(out), "--split", "validation"]) == 0
    shown = capsys.readouterr().out
    assert "AUC of the view alone" in shown
    assert "AUC in AP" in shown
    command = shown.splitlines()[-1].removeprefix("to score it: rsna-e2e ").replace("report", str(tmp_path / "report"))
    assert main(command.split()) == 0
    scores = json.loads((tmp_path / "report/metrics.json").read_text())["labels"]
    line = next(line.split() for line in shown.splitlines() if line.startswith("opacity"))
    assert float(line[4]) == pytest.approx(scores[0]["auc"]["value"], abs=0.0006)


def test_test_is_predicted_from_all_of_train_and_not_scored_without_labels(
    radiographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "test.csv"
    assert main(["baseline", str(radiographs), str(out), "--task", "pneumonia"]) == 0
    assert "no scores: the store has no labels of what is predicted" in capsys.readouterr().out
    written = read_labels(table_at(out), PNEUMONIA)
    assert len(written.image_ids) == N_IMAGES - N_LABELLED
    is_ap = np.array([int(image[1:]) % 2 for image in written.image_ids]) == 1
    assert written.values[is_ap, 0].min() > written.values[~is_ap, 0].max()
    assert set(written.values[:, 1:].ravel().tolist()) == {0.5}  # of these labels nothing is known


def test_series_of_slices_are_predicted_too(series: Path, tmp_path: Path) -> None:
    found = header_baseline(Store.open(series), ICH, split="train", out=tmp_path / "b.csv")
    assert [one.label for one in found.labels] == list(ICH.slices.names)
    assert all(not one.within and math.isnan(one.view_auc) for one in found.labels)
    assert len(found.labels[0].shuffled) == N_SHUFFLES
    assert main(["evaluate", str(tmp_path / "b.csv"), f"{tmp_path / 'b.csv'}.truth.csv"]) == 0


def test_labels_of_studies_are_predicted_and_written(series: Path, tmp_path: Path) -> None:
    store = with_series_labels(Store.open(series))
    found = header_baseline(store, PE, split="train", out=tmp_path / "b.csv", is_raw=True)
    assert [one.label for one in found.labels] == [*PE.slices.names, *PE.series.names]
    written = read_labels(table_at(tmp_path / "b.csv"), PE)
    assert written.study_values.shape == (found.n_series, len(PE.series))
    assert main(["evaluate", str(tmp_path / "b.csv"), f"{tmp_path / 'b.csv'}.truth.csv", "--task", "pe"]) == 0


def scores(*shuffled: float) -> LabelBaseline:
    return LabelBaseline(label="a", n=9, n_positive=3, auc=0.5, shuffled=shuffled, log_loss=0.1, constant_log_loss=0.1)


def test_shuffled_labels_off_chance_are_told_from_few_that_vary() -> None:
    assert scores(0.5, 0.51, 0.49, 0.52, 0.48).is_at_chance
    assert scores(0.9, 0.3, 0.7, 0.4, 0.8).is_at_chance  # mean 0.62, standard error 0.12
    assert not scores(0.6, 0.61, 0.59, 0.6, 0.6).is_at_chance  # mean 0.6, standard error 0.003
    assert not scores(0.4, 0.41, 0.39, 0.4, 0.4).is_at_chance
    assert scores(*[math.nan] * 5).is_at_chance  # of one class alone


def test_labels_off_chance_are_warned_of(
    series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(LabelBaseline, "is_at_chance", property(lambda one: one.label != "subdural"))
    assert main(["baseline", str(series), str(tmp_path / "b.csv"), "--split", "train"]) == 0
    assert "warning: forests of shuffled labels are not at chance for subdural: " in capsys.readouterr().err


def test_there_must_be_others_to_learn_from(series: Path, tmp_path: Path) -> None:
    store = Store.open(series)
    with pytest.raises(UsageError, match=r"no series in fold 7; it has folds \[0, 1, 2\]\. Choose one with --fold"):
        header_baseline(store, ICH, split="validation", fold=7, out=tmp_path / "b.csv")
    store.labels[store.index["fold"] != 1] = np.nan
    with pytest.raises(UsageError, match="no slice to learn from has a label"):
        header_baseline(store, ICH, split="validation", fold=1, out=tmp_path / "b.csv")
    store.series = [span for span in store.series if span.fold == 1]
    with pytest.raises(UsageError, match="no labels of other patients than those that are predicted"):
        header_baseline(store, ICH, split="train", out=tmp_path / "b.csv")
    with pytest.raises(UsageError, match=r"no series in split 'test'\. Predict a fold"):
        header_baseline(store, ICH, split="test", out=tmp_path / "b.csv")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--fold", "1"], 2, "--fold: of --split validation alone"),
        (["--task", "pe"], 3, "has no labels of task pe"),
    ],
)
def test_wrong_options_are_one_line(
    series: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], code: int, message: str
) -> None:
    assert main(["baseline", str(series), str(tmp_path / "b.csv"), *options]) == code
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_store_without_labels_is_told_how_to_get_some(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small.write_raw(tmp_path / "raw")
    prepare(tmp_path / "raw", tmp_path / "bare", task=ICH, labels="none", n_jobs=1)
    assert main(["baseline", str(tmp_path / "bare"), str(tmp_path / "b.csv")]) == 2
    assert "none of its series has a label, so there is nothing to learn from. Add" in capsys.readouterr().err


@pytest.mark.needs_xrays
def test_real_headers_of_chest_radiographs_say_what_they_are_known_to() -> None:
    """Of RSNA Pneumonia 2018: view, sex, age and spacing reach an AUC of 0.7252 in folds of images.

    The view alone: 4,664 of 12,173 AP and 1,348 of 14,511 PA have an opacity, so it is right about (1 + 4,664 / 6,012 -
    7,509 / 20,672) / 2 of all pairs.
    """
    truth = {row["patientId"]: float(row["Target"]) for row in real_tables.read_rows()}
    headers = {row["PatientID"]: row for row in real_tables.read_headers()}
    ids = sorted(truth)
    said = [headers[one] for one in ids]
    features = np.stack(
        [
            [float(row["ViewPosition"] == "AP") for row in said],
            [float(row["PatientSex"] == "F") for row in said],
            [min(float(row["PatientAge"]), 90.0) for row in said],
            [float(row["PixelSpacing"]) for row in said],
        ],
        axis=1,
    )
    labels, fold = np.array([truth[one] for one in ids]), np.arange(len(ids)) % 5
    found = np.zeros(len(ids))
    for number in range(5):
        learned = features[fold != number], labels[fold != number, None], np.ones((fold != number).sum())
        found[fold == number] = by_forest(*learned, features[fold == number], seed=0)[:, 0]
    assert metrics.auc(labels, found) == pytest.approx(0.7252, abs=0.01)
    within = metrics.auc_by_group(labels, found, features[:, 0])
    assert metrics.auc(labels, features[:, 0]) == pytest.approx((1 + 4664 / 6012 - 7509 / 20672) / 2, abs=1e-9)
    assert max(within.values()) < 0.65
