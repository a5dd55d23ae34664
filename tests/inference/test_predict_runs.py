"""The mean of what several runs predict, in one command."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small

from rsna_e2e.cli import main
from rsna_e2e.inference.predictions import read_predictions, read_series
from rsna_e2e.store import Store
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small.make_store(tmp_path_factory.mktemp("ensemble"))


@pytest.fixture(scope="module")
def runs(store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two alike, one that holds out another fold, and one without a series head."""
    folder = tmp_path_factory.mktemp("runs")
    settings = {
        "first": ("seed=1", "model.study_loss_weight=0.5"),
        "second": ("seed=2", "model.study_loss_weight=0.5"),
        "other fold": ("validation_fold=1", "model.study_loss_weight=0.5"),
        "slices alone": ("model.study_loss_weight=0",),
    }
    for name, chosen in settings.items():
        train(store, folder / name, small.config(*chosen), device="cpu")
    return {name: folder / name for name in settings}


def words(runs: dict[str, Path], store: Store, out: Path, *names: str) -> list[str]:
    first, *others = (str(runs[name]) for name in names)
    more = ["--with", *others] if others else []
    return ["predict", first, str(store.path), "--out", str(out), "--device", "cpu", "--raw", *more]


def test_the_mean_is_that_of_each_run(runs: dict[str, Path], store: Store, tmp_path: Path) -> None:
    tables, series = [], []
    for name, members in {"a": ["first"], "b": ["second"], "both": ["first", "second"]}.items():
        assert main([*words(runs, store, tmp_path / f"{name}.csv", *members), "--views", "plain,hflip"]) == 0
        tables.append(read_predictions(tmp_path / f"{name}.csv.predictions.parquet", ICH))
        series.append(read_series(tmp_path / f"{name}.csv.series.parquet", ICH, tables[-1]))
    for one, other, both in (tables, series):
        np.testing.assert_allclose(both.probability, (one.probability + other.probability) / 2, rtol=0, atol=1e-12)
        assert np.abs(one.probability - other.probability).max() > 1e-4
    manifest = json.loads((tmp_path / "both.csv.runs.json").read_text())
    assert [member["run"] for member in manifest["members"]] == ["first", "second"]
    assert manifest["views"] == ["plain", "hflip"]
    assert len({member["sha256"] for member in manifest["members"]}) == 2
    assert main(words(runs, store, tmp_path / "both.csv", "first")) == 0
    assert not (tmp_path / "both.csv.runs.json").exists()  # it is no mean any more


def test_each_run_is_warned_of_once(
    runs: dict[str, Path], store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert main([*words(runs, store, tmp_path / "out.csv", "first", "second"), "--split", "train"]) == 0
    assert sum("split train is what" in message for message in caplog.messages) == 2


def test_runs_may_see_other_windows(runs: dict[str, Path], store: Store, tmp_path: Path) -> None:
    own = small.config("model.study_loss_weight=0.5", "inputs.windows_hu=[[0, 80], [-20, 180], [-150, 230]]")
    train(store, tmp_path / "windows", own, device="cpu")
    both = {**runs, "windows": tmp_path / "windows"}
    assert main(words(both, store, tmp_path / "out.csv", "first", "windows")) == 0


@pytest.mark.parametrize(
    ("names", "more", "message"),
    [
        (("first", "first"), (), "a run stands twice"),
        (("first", "slices alone"), (), "only one of them predicts series"),
        (("first", "other fold"), ("--split", "validation"), "hold out different folds"),
        (("first", "second"), ("--checkpoint", "epochs"), "leave out --embeddings and epochs"),
    ],
)
def test_what_has_no_mean_is_refused(
    runs: dict[str, Path],
    store: Store,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    names: tuple[str, ...],
    more: tuple[str, ...],
    message: str,
) -> None:
    assert main([*words(runs, store, tmp_path / "out.csv", *names), *more]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()


def test_each_run_is_calibrated_by_its_own_calibration(
    runs: dict[str, Path], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    class Halved:
        """Stands for a calibration that halves probabilities."""

        @staticmethod
        def of(trained, how, *, split, views):
            seen.append((trained.run.name, how, tuple(views)))
            return lambda prediction: replace(prediction, slices=prediction.slices / 2)

    assert main(words(runs, store, tmp_path / "plain.csv", "first", "second")) == 0
    monkeypatch.setattr("rsna_e2e.inference.predict_runs.Calibrator", Halved)
    assert main([*words(runs, store, tmp_path / "out.csv", "first", "second"), "--calibrated"]) == 0
    assert seen == [("first", "default", ("plain",)), ("second", "default", ("plain",))]
    plain, halved = (read_predictions(tmp_path / f"{name}.csv.predictions.parquet", ICH) for name in ("plain", "out"))
    np.testing.assert_allclose(halved.probability, plain.probability / 2, rtol=0, atol=1e-12)
