"""A folder of studies processed once: what is written is what predict writes for them, whole or not at all."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import canaries
import matplotlib.image
import numpy as np
import phantoms
import pydicom
import pytest
import radiographs
import small
from served import untrained as _untrained

from rsna_e2e.cli import main
from rsna_e2e.cli.signals import ends_at_signals
from rsna_e2e.core.errors import BadInputError, DiskFullError
from rsna_e2e.core.files import read_json
from rsna_e2e.inference.bundle import open_bundle
from rsna_e2e.inference.export import export
from rsna_e2e.serving.model import ServedModel
from rsna_e2e.serving.process import RESULT, SUMMARY, process
from rsna_e2e.serving.result import N_KEY_SLICES, RESEARCH_ONLY, Result
from rsna_e2e.serving.study_page import PAGE, write_study
from rsna_e2e.store import Store
from rsna_e2e.store.layout import StoreError
from rsna_e2e.store.prepare import prepare
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import read_labels
from rsna_e2e.tasks.metrics import DECISION_THRESHOLD
from rsna_e2e.tasks.pe import PE
from rsna_e2e.tools.synth.simulate import simulate
from rsna_e2e.training.calibration import LabelCalibration, RunCalibration, write_calibration
from rsna_e2e.training.operating_points import read_operating_points, write_operating_points
from rsna_e2e.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")

SAME = 1e-6
PATIENCE_S = 120.0
SIDE = 32
N_SLICES = (4, 2, 6)  # of three studies


@dataclass(frozen=True)
class Made:
    bundle: Path
    runs: list[Path]
    raw: Path


def _calibrate(run: Path, slope: float) -> None:
    """Give a run a calibration and thresholds that change every number."""
    label = LabelCalibration(
        applied="platt", temperature=1.0, slope=slope, intercept=-0.5, n_samples=9, n_positives=4, ece_before=0.1
    )
    calibration = RunCalibration(epoch=1, n_patients=4, slices=dict.fromkeys(ICH.slices.names, label), series={})
    write_calibration(run, calibration)
    at = {name: 0.3 + 0.05 * number for number, name in enumerate(ICH.slices.names)}
    write_operating_points(run, epoch=1, thresholds=at, at_sensitivity={"slices": {"0.90": at, "0.95": at}})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A bundle of two runs, and three studies that they have not seen, with a file that is no DICOM file."""
    folder = tmp_path_factory.mktemp("process")
    runs = [folder / "a", folder / "b"]
    for number, run in enumerate(runs):
        train(small.make_store(folder / f"seen{number}"), run, small.config(f"seed={number}"), device="cpu")
        _calibrate(run, 0.5 + number)
    raw = folder / "raw"
    for series, n_slices in enumerate(N_SLICES):
        for index in range(n_slices):
            dataset = phantoms.slice_dataset(
                phantoms.stored_image(SIDE, SIDE, seed=8 * series + index, form=phantoms.SIGNED_16),
                SOPInstanceUID=f"1.2.3.{series}.{index}",
                PatientID=f"p{series}",
                StudyInstanceUID=f"1.2.4.{series}",
                SeriesInstanceUID=f"1.2.5.{series}",
                ImagePositionPatient=[-125.0, -125.0, 5.0 * index],
            )
            phantoms.write_dicom(raw / f"{series}/IM{9 - index}.dcm", dataset)
    (raw / "notes.txt").write_text("no image")
    bundle = export(runs, folder / "model.rsna", name="small", version="1.0", licence="MIT").path
    return Made(bundle, runs, raw)


@pytest.fixture(scope="module")
def processed(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `process` makes of these studies."""
    out = tmp_path_factory.mktemp("processed") / "out"
    done = process(made.raw, out, ServedModel.open(made.bundle, device="cpu"), n_jobs=1)
    assert done.refused == {"not_dicom": 1}
    assert len(done.results) == len(N_SLICES)
    return out


def _results(out: Path) -> dict[str, Result]:
    found = [Result.model_validate(read_json(path)) for path in sorted(out.glob(f"*/{RESULT}"))]
    return {result.study: result for result in found}


def _probabilities(results: dict[str, Result]) -> dict[str, list[float]]:
    return {
        image_id: values
        for result in results.values()
        for series in result.series
        for image_id, values in zip(series.images, series.probability, strict=True)
    }


def test_it_says_what_predict_writes(made: Made, processed: Path, tmp_path: Path) -> None:
    prepare(made.raw, tmp_path / "store", task=ICH, labels="none", n_jobs=1)
    words = ["predict", str(made.bundle), str(tmp_path / "store"), "--out", str(tmp_path / "all.csv"), "--calibrated"]
    assert main([*words, "--device", "cpu"]) == 0
    wanted = read_labels(tmp_path / "all.csv", ICH)
    found = _probabilities(_results(processed))
    assert sorted(found) == sorted(wanted.image_ids)
    np.testing.assert_allclose([found[one] for one in wanted.image_ids], wanted.values, rtol=0, atol=SAME)


@pytest.mark.slow
def test_fifty_studies_each_alone_are_as_predicted_together(made: Made, tmp_path: Path) -> None:
    """Each in a store of its own, as a service has them."""
    simulate(tmp_path / "raw", n_studies=50, seed=7, prevalence="demo", test_fraction=0.0)
    prepare(tmp_path / "raw", tmp_path / "store", task=ICH, labels="none", n_jobs=2)
    words = ["predict", str(made.bundle), str(tmp_path / "store"), "--out", str(tmp_path / "all.csv"), "--calibrated"]
    assert main([*words, "--device", "cpu"]) == 0
    with closing(Store.open(tmp_path / "store")) as store:
        study_of = dict(zip(store.index["image_id"], store.index["study_uid"], strict=True))
    for path in [*(tmp_path / "raw").rglob("*.dcm")]:
        study = tmp_path / "alone" / study_of[path.stem]
        study.mkdir(parents=True, exist_ok=True)
        path.rename(study / path.name)
    model, found = ServedModel.open(made.bundle, device="cpu"), {}
    for study in sorted((tmp_path / "alone").iterdir()):
        done = process(study, tmp_path / "out", model, has_pictures=False, n_jobs=1)
        found |= {result.study: result for result in done.results}
    assert len(found) == 50
    wanted, alone = read_labels(tmp_path / "all.csv", ICH), _probabilities(found)
    assert sorted(alone) == sorted(wanted.image_ids)
    values = np.array([alone[one] for one in wanted.image_ids])
    assert len(np.unique(values[:, ICH.headline_index].round(5))) > 50
    np.testing.assert_allclose(values, wanted.values, rtol=0, atol=SAME)


def test_a_result_agrees_with_itself(made: Made, processed: Path) -> None:
    model = ServedModel.open(made.bundle, device="cpu")
    results = _results(processed)
    assert sorted(result.series[0].n_slices for result in results.values()) == sorted(N_SLICES)
    for result in results.values():
        (series,) = result.series
        for column, label in enumerate(result.labels):
            of_label = np.array(series.probability)[:, column]
            assert label.name == ICH.slices.names[column]
            assert label.probability == of_label.max()
            assert label.above == (label.probability >= label.threshold == model.thresholds["slices"][label.name])
            n_above = int((of_label >= label.threshold).sum())
            assert len(label.key_slices) == max(1, min(n_above, N_KEY_SLICES))
            assert [of_label[key.place] for key in label.key_slices] == sorted(of_label)[::-1][: len(label.key_slices)]
        assert result.sentence.endswith(RESEARCH_ONLY)
        assert series.place_mm == sorted(series.place_mm)
        assert result.model.identity == open_bundle(made.bundle).identity


def test_thresholds_are_those_of_calibrated_probabilities(made: Made) -> None:
    model = ServedModel.open(made.bundle, device="cpu")
    of_runs = []
    for number, run in enumerate(made.runs):
        points = read_operating_points(run)
        assert points is not None
        assert points.at_sensitivity is not None
        at = points.at_sensitivity["slices"]["0.90"]["any"]
        of_runs.append(1 / (1 + np.exp(-((0.5 + number) * np.log(at / (1 - at)) - 0.5))))
    assert model.thresholds["slices"]["any"] == pytest.approx(np.mean(of_runs), abs=1e-12)


def test_a_run_without_thresholds_has_the_default(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.runs[0], tmp_path / "run")
    for name in ("operating_points.json", "calibration.json"):
        (tmp_path / "run" / name).unlink()
    model = ServedModel.open(tmp_path / "run", device="cpu")
    assert {model.threshold("slices", name) for name in ICH.slices.names} == {(DECISION_THRESHOLD, False)}
    assert (model.name, model.version, len(model.identity)) == ("run", "", 16)
    assert model.calibrators == (None,)


@pytest.mark.parametrize("at", [{"foo": 0.5}, dict.fromkeys(ICH.slices.names, -5.0)])
def test_thresholds_of_other_labels_are_refused(at: dict[str, float], made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.runs[0], tmp_path / "run")
    write_operating_points(tmp_path / "run", epoch=1, thresholds=at, at_sensitivity={"slices": {"0.90": at}})
    with pytest.raises(BadInputError, match="its thresholds are not of its labels"):
        ServedModel.open(tmp_path / "run", device="cpu")


def test_pictures_and_page_are_of_what_is_above(processed: Path) -> None:
    for study, result in _results(processed).items():
        folder = processed / study
        shown = [label for label in result.labels if label.above] or [result.labels[ICH.headline_index]]
        stems = [f"{label.name}-{key.series}-{key.place:04d}" for label in shown for key in label.key_slices]
        names = sorted(f"{stem}{end}.png" for stem in stems for end in ("", "-map"))
        assert sorted(path.name for path in folder.glob("*.png")) == names
        plain, mapped = (matplotlib.image.imread(folder / f"{stems[0]}{end}.png") for end in ("", "-map"))
        assert plain.shape == mapped.shape
        page = (folder / PAGE).read_text()
        assert result.sentence in page
        assert page.count("<img") == len(names) + 1
        assert "://" not in page


def test_studies_may_have_labels_of_their_own(made: Made, tmp_path: Path) -> None:
    done = process(made.raw / "0", tmp_path / "out", _untrained(small.config("task=pe")), n_jobs=1)
    (result,) = done.results
    assert [label.name for label in result.labels] == [*PE.slices.names, *PE.series.names]
    of_series = [label for label in result.labels if label.level == "series"]
    assert len(of_series) == len(PE.series.names)
    assert not any(label.key_slices or label.is_learned for label in of_series)
    assert result.sentence in (tmp_path / "out" / result.study / PAGE).read_text()


def test_a_radiograph_is_a_study(tmp_path: Path) -> None:
    for number in range(2):
        radiographs.write_image(tmp_path / f"raw/x{number}.png", radiographs.chest(seed=number))
    done = process(tmp_path / "raw", tmp_path / "out", _untrained(small.image_config("task=pneumonia")), n_jobs=1)
    assert len(done.results) == 2
    for result in done.results:
        (series,) = result.series
        assert (series.n_slices, series.place_mm) == (1, [None])
        assert (tmp_path / "out" / result.study / PAGE).is_file()


def test_a_second_time_replaces_the_first(made: Made, tmp_path: Path) -> None:
    model, out = ServedModel.open(made.bundle, device="cpu"), tmp_path / "out"
    process(made.raw, out, model, n_jobs=1)
    before = {path: path.read_bytes() for path in out.rglob(RESULT)}
    process(made.raw, out, model, n_jobs=1, has_pictures=False)
    assert {path: path.read_bytes() for path in out.rglob(RESULT)} == before
    assert not [*out.rglob("*.png"), *out.glob(".*")]
    assert len(json.loads((out / SUMMARY).read_text())["studies"]) == len(N_SLICES)


def test_the_folders_of_other_studies_stay(made: Made, tmp_path: Path) -> None:
    model, out = ServedModel.open(made.bundle, device="cpu"), tmp_path / "out"
    process(made.raw, out, model, n_jobs=1, has_pictures=False)
    process(made.raw / "0", out, model, n_jobs=1, has_pictures=False)
    assert len(_results(out)) == len(N_SLICES)
    assert len(read_json(out / SUMMARY)["studies"]) == 1
    (only,) = (entry["study"] for entry in read_json(out / SUMMARY)["studies"])
    shutil.rmtree(out / only)
    (out / only).write_text("in the way")
    done = process(made.raw / "0", out, model, n_jobs=1, has_pictures=False)
    assert [result.study for result in done.results] == [only]
    assert (out / only / RESULT).is_file()


def test_results_name_images_alone(made: Made, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    raw, out = canaries.write_raw(tmp_path), tmp_path / "out"
    assert main(["process", str(raw), str(out), "--model", str(made.bundle), "--device", "cpu"]) == 0
    assert canaries.found_in([out], canaries.EVERY_CANARY) == {RESULT: {canaries.IMAGE}}
    said = str(capfd.readouterr()).lower()
    assert not [word for word in canaries.EVERY_CANARY if word.lower() in said]
    assert not [path for path in out.rglob("*") if "canary" in str(path.relative_to(out)).lower()]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow)]
)
def test_a_process_that_is_stopped_leaves_nothing(number: int, code: int, made: Made, tmp_path: Path) -> None:
    """SIGTERM, as schedulers and containers send it, and SIGHUP, of a terminal that is closed."""
    out, temporary = tmp_path / "out", Path(tempfile.mkdtemp())  # of a short name: sockets are made there
    words = ["process", str(made.raw), str(out), "--model", str(made.bundle), "--device", "cpu"]
    stopped = subprocess.Popen(
        [sys.executable, "-m", "rsna_e2e.cli", *words],
        env=os.environ | {"TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # as tests may run under nohup
    )
    deadline_s = time.monotonic() + PATIENCE_S
    while not [*out.glob(".*")] and stopped.poll() is None and time.monotonic() < deadline_s:
        time.sleep(0.001)
    for _ in range(2 if number == signal.SIGHUP else 1):  # by the terminal and by the shell
        stopped.send_signal(number)
    said = stopped.communicate(timeout=PATIENCE_S)[1]
    assert stopped.returncode == code, said
    assert [*temporary.glob("rsna_e2e*")] == []
    assert [*out.glob(".*")] == []
    assert not (out / SUMMARY).exists()
    shutil.rmtree(temporary)


def test_what_is_ignored_stays_ignored() -> None:
    """As SIGHUP is under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ends_at_signals() as is_stopping:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not is_stopping()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        with pytest.raises(SystemExit) as end, ends_at_signals() as is_stopping:
            os.kill(os.getpid(), signal.SIGTERM)
        assert (end.value.code, is_stopping()) == (143, True)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_nothing_half_written_stays(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rsna_e2e.serving.process.write_study", fail)
    with pytest.raises(KeyboardInterrupt):
        process(made.raw, tmp_path / "out", ServedModel.open(made.bundle, device="cpu"), n_jobs=1)
    assert [*(tmp_path / "out").iterdir()] == []


def test_a_result_stays_where_the_new_cannot_take_its_place(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out, rename = ServedModel.open(made.bundle, device="cpu"), tmp_path / "out", Path.rename
    process(made.raw / "0", out, model, n_jobs=1, has_pictures=False)
    before = {path: path.read_bytes() for path in out.rglob(RESULT)}

    def fail_at_the_last(path: Path, target: Path) -> Path:
        if ".unfinished-" in path.name:
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_at_the_last)
    done = process(made.raw / "0", out, model, n_jobs=1, has_pictures=False)
    assert list(done.failed.values()) == [
        f"{next(iter(before)).parent}: cannot be written: Input/output error. Choose another OUT"
    ]
    assert {path: path.read_bytes() for path in out.rglob(RESULT)} == before
    assert [*out.glob(".*")] == []


def _failing(error: Exception, study: str) -> Callable[..., None]:
    """Makes the pages of all studies but one."""

    def write(result: Result, *rest: Any) -> None:
        if result.study == study:
            raise error
        write_study(result, *rest)

    return write


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("of a name"), "ValueError, of its pictures. Try --no-pictures"),
        (StoreError("slice 3 is damaged"), "slice 3 is damaged"),
        (OSError(errno.EACCES, "Permission denied"), "cannot be written: Permission denied. Choose another OUT"),
    ],
)
def test_a_study_fails_alone(
    error: Exception,
    said: str,
    made: Made,
    processed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, *others = (entry["study"] for entry in read_json(processed / SUMMARY)["studies"])
    monkeypatch.setattr("rsna_e2e.serving.process.write_study", _failing(error, first))
    out = tmp_path / "out"
    assert main(["process", str(made.raw), str(out), "--model", str(made.bundle), "--device", "cpu"]) == 3
    told = capsys.readouterr()
    assert f"{first}: failed: " in told.err
    assert said in told.err
    assert "1 of 3 studies failed" in told.err
    assert "of a name" not in told.err
    assert (told.out.count(RESEARCH_ONLY), first in told.out) == (2, False)
    summary = read_json(out / SUMMARY)
    assert [entry["study"] for entry in summary["studies"]] == others
    assert {study: said in why for study, why in summary["failed"].items()} == {first: True}
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == sorted(others)


def test_a_program_that_is_ending_ends(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a library makes of the exception that is to end it."""

    def fail(*_: object) -> None:
        raise ValueError("instead of SystemExit")

    monkeypatch.setattr("rsna_e2e.serving.process.write_study", fail)
    model = ServedModel.open(made.bundle, device="cpu")
    with pytest.raises(ValueError, match="instead of SystemExit"):
        process(made.raw, tmp_path / "out", model, n_jobs=1, is_stopping=lambda: True)
    assert [*(tmp_path / "out").iterdir()] == []


@pytest.mark.parametrize("error", [DiskFullError("full"), OSError(errno.ENOSPC, "No space left on device")])
def test_a_full_disk_ends_it(error: Exception, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("rsna_e2e.serving.process.write_study", fail)
    with pytest.raises(DiskFullError, match="the disk is full"):
        process(made.raw, tmp_path / "out", ServedModel.open(made.bundle, device="cpu"), n_jobs=1)
    assert [*(tmp_path / "out").iterdir()] == []


def test_content_is_what_is_seen_whatever_it_is_called(made: Made, processed: Path, tmp_path: Path) -> None:
    """The first study under other names of files, patient and UIDs, and with another pixel; the second is as it was."""
    model = ServedModel.open(made.bundle, device="cpu")
    for name, change in (("renamed", {}), ("changed", {"pixel": 1})):
        for number, path in enumerate(sorted((made.raw / "0").iterdir())):
            dataset = pydicom.dcmread(path)
            dataset.PatientID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "other", "1.2.9", "1.2.8"
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.7.{number}"
            values = dataset.pixel_array.copy()
            values[0, 0] += change.get("pixel", 0)
            dataset.PixelData = values.tobytes()
            phantoms.write_dicom(tmp_path / name / f"x{number}.dcm", dataset)
    renamed, changed = (
        process(tmp_path / name, tmp_path / "out", model, n_jobs=1, has_pictures=False).results[0]
        for name in ("renamed", "changed")
    )
    digits = {result.series[0].n_slices: result.content for result in _results(processed).values()}
    assert len(set(digits.values())) == len(N_SLICES)
    assert renamed.content == digits[N_SLICES[0]]
    assert re.fullmatch("[0-9a-f]{16}", changed.content)
    assert changed.content not in digits.values()


def test_what_cannot_be_processed_is_refused(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/notes.txt").write_text("no image")
    words = ["process", str(tmp_path / "raw"), str(tmp_path / "out"), "--model", str(made.bundle), "--device", "cpu"]
    assert main(words) == BadInputError.exit_code
    assert "not_dicom" in capsys.readouterr().err
    assert main([*words[:4], str(tmp_path / "none"), "--device", "cpu"]) == BadInputError.exit_code


def test_the_verb_says_it_in_a_sentence(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["process", str(made.raw), str(tmp_path / "out"), "--model", str(made.bundle), "--no-pictures"]
    assert main([*words, "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert said.count(RESEARCH_ONLY) == len(N_SLICES)
    assert "not taken: 1 not_dicom" in said
    assert "3 studies with small 1.0" in said
