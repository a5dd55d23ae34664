"""Calibrated predictions: what predict writes with the maps that a run keeps, and fitting them anew."""

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import levels
import numpy as np
import pytest
import sequences
import small
from scipy.special import expit, logit

from rsna_e2e.cli import main
from rsna_e2e.config.files import save_config
from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.files import write_json
from rsna_e2e.inference import recalibrate as by_hand
from rsna_e2e.inference.predict import predict
from rsna_e2e.inference.predict_epochs import predict_epochs
from rsna_e2e.inference.predict_runs import predict_runs
from rsna_e2e.inference.predictions import beside, predictions_path, read_predictions, read_series, series_path
from rsna_e2e.inference.recalibrate import recalibrate, recalibrate_by_tables
from rsna_e2e.store import Store
from rsna_e2e.store.prepare import prepare
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import read_labels
from rsna_e2e.tasks.pe import PE
from rsna_e2e.tasks.task import Labels
from rsna_e2e.training.calibration import LabelCalibration, RunCalibration, read_calibration, write_calibration
from rsna_e2e.training.run_folder import STORE_HASH
from rsna_e2e.training.run_layout import CALIBRATION, CONFIG, MANIFEST
from rsna_e2e.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")

MATES = 1e-4  # of what is fitted to predictions by batches of another composition, in float32
PLATT = LabelCalibration(
    applied="platt", temperature=4.0, slope=0.5, intercept=-1.0, n_samples=100, n_positives=50, ece_before=0.1
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Two folds, and patients with labels in split test."""
    folder = tmp_path_factory.mktemp("calibrated")
    small.write_raw(folder / "raw")
    prepare(folder / "raw", folder / "store", task=ICH, n_folds=2, holdout=0.3, n_jobs=1)
    with closing(Store.open(folder / "store")) as opened:
        yield opened


@pytest.fixture(scope="module")
def runs(store: Store, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One for each fold that it holds out."""
    folder = tmp_path_factory.mktemp("runs")
    for fold in (0, 1):
        train(store, folder / f"fold{fold}", small.image_config(f"validation_fold={fold}"), device="cpu")
    return [folder / f"fold{fold}" for fold in (0, 1)]


@pytest.fixture
def run(runs: list[Path]) -> Iterator[Path]:
    """The first, whose calibration is put back."""
    content = (runs[0] / CALIBRATION).read_bytes()
    yield runs[0]
    (runs[0] / CALIBRATION).write_bytes(content)


def known(run: Path, *, epoch: int | None = 1) -> RunCalibration:
    """Give a run a calibration that is known."""
    kept = read_calibration(run, ICH)
    assert kept is not None
    calibration = RunCalibration(
        epoch=epoch if epoch is None else kept.epoch,
        n_patients=9,
        slices=dict.fromkeys(ICH.slices.names, PLATT),
        series={},
    )
    write_calibration(run, calibration)
    return calibration


def test_predict_writes_calibrated_probabilities_if_asked_and_says_so_beside_them(
    store: Store, run: Path, tmp_path: Path
) -> None:
    calibration = known(run)
    words = ["predict", str(run), str(store.path), "--device", "cpu", "--out"]
    assert main([*words, str(tmp_path / "plain.csv")]) == 0
    plain = read_predictions(predictions_path(tmp_path / "plain.csv"), ICH).probability
    out = tmp_path / "out.csv"
    for option, expected in (
        ("--calibrated", expit(0.5 * logit(plain) - 1)),
        ("--calibrated=platt", expit(0.5 * logit(plain) - 1)),
        ("--calibrated=temperature", expit(logit(plain) / 4)),
    ):
        assert main([*words, str(out), option]) == 0
        assert np.allclose(read_predictions(predictions_path(out), ICH).probability, expected, rtol=1e-12)
        note = json.loads(beside(out, "calibrated.json").read_text())
        assert note == {"how": option.partition("=")[2] or "default", **calibration.model_dump()}
    assert np.allclose(read_labels(out, ICH).values.max(), expected.max(), atol=1e-4)  # the submission too
    assert main([*words, str(out)]) == 0
    assert not beside(out, "calibrated.json").exists()
    assert out.read_bytes() == (tmp_path / "plain.csv").read_bytes()
    assert predictions_path(out).read_bytes() == predictions_path(tmp_path / "plain.csv").read_bytes()


def test_labels_of_series_are_calibrated_by_their_own_maps(tmp_path: Path) -> None:
    store = small.make_store(tmp_path)
    embeddings = sequences.write_embeddings(tmp_path / "embeddings", store)
    store, run = levels.with_series_labels(store), tmp_path / "run"
    done = train(store, run, sequences.config("task=pe", "epochs=1"), embeddings=embeddings, device="cpu")
    kept = read_calibration(run, PE)
    assert kept is not None
    assert list(kept.series) == list(PE.series.names)
    other = PLATT.model_copy(update={"slope": 2.0})
    calibration = RunCalibration(
        epoch=done.best_epoch,
        n_patients=9,
        slices=dict.fromkeys(PE.slices.names, PLATT),
        series=dict.fromkeys(PE.series.names, other),
    )
    write_calibration(run, calibration)
    found = []
    for name, how in (("plain", None), ("calibrated", "default")):
        out = tmp_path / f"{name}.csv"
        predict(run, store, split="validation", out=out, embeddings=embeddings, calibrated=how, device="cpu")
        table = read_predictions(predictions_path(out), PE)
        found.append((table.probability, read_series(series_path(out), PE, table).probability))
    (slices, series), (slices_after, series_after) = found
    assert np.allclose(slices_after, expit(0.5 * logit(slices) - 1), rtol=1e-12)
    assert np.allclose(series_after, expit(2 * logit(series) - 1), rtol=1e-12)


def test_a_run_without_calibration_is_refused_with_the_way_out(
    store: Store, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted = read_calibration(run, ICH)
    (run / CALIBRATION).unlink()
    out = tmp_path / "out.csv"
    words = [str(run), str(store.path), "--device", "cpu", "--out", str(out), "--calibrated"]
    assert main(["predict", *words]) == 3
    assert f"rsna-e2e calibrate {run} --data STORE" in capsys.readouterr().err.splitlines()[-1]
    assert not out.exists()
    assert main(["calibrate", str(run)]) == 3
    assert "Fit one with --data STORE" in capsys.readouterr().err
    assert main(["calibrate", str(run), "--data", str(store.path), "--device", "cpu"]) == 0
    assert "labels of slices" in capsys.readouterr().out
    assert main(["predict", *words]) == 0
    again = read_calibration(run, ICH)
    assert fitted is not None
    assert again is not None
    assert again.epoch == fitted.epoch
    for label, other in zip(again.slices.values(), fitted.slices.values(), strict=True):
        assert label.model_dump() == pytest.approx(other.model_dump(), abs=MATES)


@pytest.mark.parametrize("other", [["--views", "hflip"], ["--checkpoint", "epochs"]])
def test_a_calibration_is_of_the_predictions_that_it_was_fitted_to(
    store: Store, run: Path, tmp_path: Path, other: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.csv"
    words = ["predict", str(run), str(store.path), "--device", "cpu", "--out", str(out), "--calibrated", *other]
    assert main(words) == 2
    assert "--predictions FILE" in capsys.readouterr().err
    known(run, epoch=None)  # fitted by hand, to whatever predictions
    assert main(words) == 0
    assert beside(out, "calibrated.json").exists()


def test_it_is_fitted_by_hand_to_what_the_run_held_out_and_to_nothing_else(
    store: Store, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / CALIBRATION).read_bytes()
    words = ["calibrate", str(run), "--data", str(store.path), "--predictions"]
    for split, why in (("test", "images are of split test"), ("train", f"images are what {run} was trained on")):
        predict(run, store, split=split, out=tmp_path / f"{split}.csv", device="cpu")
        assert main([*words, str(tmp_path / f"{split}.csv")]) == 3
        assert why in capsys.readouterr().err
        assert (run / CALIBRATION).read_bytes() == before
    fitted = read_calibration(run, ICH)
    predict(run, store, split="validation", out=tmp_path / "v.csv", device="cpu")
    assert main([*words, str(tmp_path / "v.csv")]) == 0
    by_hand = read_calibration(run, ICH)
    assert fitted is not None
    assert by_hand is not None
    assert by_hand.epoch is None
    assert by_hand.n_patients == fitted.n_patients
    for label, other in zip(by_hand.slices.values(), fitted.slices.values(), strict=True):
        assert label.model_dump() == pytest.approx(other.model_dump(), abs=MATES)
    assert main([*words, str(tmp_path / "v.csv"), str(tmp_path / "v.csv")]) == 2
    assert "predicted twice" in capsys.readouterr().err


def test_it_is_fitted_to_the_folds_of_runs_that_held_them_out(
    store: Store, run: Path, runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["calibrate", str(run), "--data", str(store.path), "--device", "cpu", "--out-of-fold"]
    assert main([*words, *map(str, runs)]) == 0
    n_patients = len({span.patient_id for span in store.series if span.split == "train"})
    assert f"fitted by hand: {n_patients} patients" in capsys.readouterr().out
    assert main([*words, str(runs[0]), str(runs[0])]) == 2
    assert main(["calibrate", str(run), "--out-of-fold", str(runs[0])]) == 2
    assert "--data: is needed" in capsys.readouterr().err


def test_what_is_calibrated_already_is_refused(store: Store, run: Path, tmp_path: Path) -> None:
    known(run)
    before, one, mean = (run / CALIBRATION).read_bytes(), tmp_path / "one.csv", tmp_path / "mean.csv"
    predict(run, store, split="validation", out=one, calibrated="default", device="cpu")
    predict_runs([run], store, split="validation", out=mean, calibrated="platt", device="cpu")
    for path in (one, mean):
        with pytest.raises(BadInputError, match=rf"{path.name}: is calibrated already.*without --calibrated"):
            recalibrate_by_tables(run, store, [path])
    assert (run / CALIBRATION).read_bytes() == before
    beside(mean, "runs.json").write_text("[]")
    with pytest.raises(BadInputError, match=r"runs\.json: damaged"):
        recalibrate_by_tables(run, store, [mean])
    predict_runs([run], store, split="validation", out=mean, device="cpu")
    assert recalibrate_by_tables(run, store, [mean]).epoch is None


def test_of_a_head_on_embeddings_all_but_its_validation_fold_is_refused(tmp_path: Path) -> None:
    """The second learned from fold 1 alone, and the classifier of its embeddings from the others."""
    store, run, other, out = small.make_store(tmp_path), tmp_path / "run", tmp_path / "other", tmp_path / "v.csv"
    embeddings = sequences.write_embeddings(tmp_path / "embeddings", store)
    train(store, run, sequences.config("validation_fold=0", "epochs=1"), embeddings=embeddings, device="cpu")
    predict(run, store, split="validation", out=out, embeddings=embeddings, device="cpu")
    assert recalibrate_by_tables(run, store, [out]).n_patients
    other.mkdir()
    write_json(other / MANIFEST, {STORE_HASH: store.data_hash})
    save_config(sequences.config("validation_fold=null", "training_fold=1"), path=other / CONFIG)
    with pytest.raises(BadInputError, match=r"other was trained on, head or backbone"):
        recalibrate_by_tables(other, store, [out])
    assert not (other / CALIBRATION).exists()


def test_runs_of_other_labels_of_series_are_not_calibrated_together(
    store: Store, runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(ICH, series=Labels(names=("any_bleed",), weights=(1.0,)), series_truth="own")
    monkeypatch.setattr(by_hand, "read_task", lambda path, _: ICH if path == runs[0] else other)
    with pytest.raises(UsageError, match=rf"{runs[1]}: predicts other labels than {runs[0]}"):
        recalibrate(runs[0], store, out_of_fold=runs, device="cpu")


@pytest.mark.parametrize("option", [["--embeddings", "there"], ["--device", "cpu"]])
def test_options_that_would_change_nothing_are_refused(
    store: Store, run: Path, tmp_path: Path, option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", str(run), *option]) == 2
    assert "--data: is needed" in capsys.readouterr().err
    predict(run, store, split="validation", out=tmp_path / "v.csv", device="cpu")
    words = ["calibrate", str(run), "--data", str(store.path), "--predictions", str(tmp_path / "v.csv")]
    assert main([*words, *option]) == 2
    assert "Leave out --embeddings and --device" in capsys.readouterr().err


def test_the_fold_that_the_maps_were_fitted_to_is_warned_of(
    store: Store, run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known(run, epoch=None)
    for split, how, is_warned in (
        ("validation", "default", True),
        ("validation", None, False),
        ("test", "platt", False),
    ):
        for made in (predict, predict_epochs, lambda one, *rest, **named: predict_runs([one], *rest, **named)):
            caplog.clear()
            made(run, store, split=split, out=tmp_path / "out.csv", calibrated=how, device="cpu")
            assert (f"what the calibration of {run} was fitted to" in caplog.text) is is_warned


def test_a_label_that_no_temperature_suits_is_named_where_temperature_is_asked_for(
    store: Store, run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    label = PLATT.model_copy(update={"temperature": 1.0, "reason": "no temperature"})
    slices = dict.fromkeys(ICH.slices.names, label)
    write_calibration(run, RunCalibration(epoch=None, n_patients=9, slices=slices, series={}))
    for how, is_warned in (("temperature", True), ("platt", False), ("default", False)):
        caplog.clear()
        predict(run, store, split="test", out=tmp_path / "out.csv", calibrated=how, device="cpu")
        assert ("any (no temperature)" in caplog.text) is is_warned
