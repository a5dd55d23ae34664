"""A worker: what it says of a study is what predict says, whole or not at all, and a failure costs that study alone."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import radiographs
from services import Desk, make_desk, results_in, write_study

from rsna_e2e.cli import main
from rsna_e2e.core.errors import BadInputError, OutOfResourcesError
from rsna_e2e.core.files import read_json
from rsna_e2e.core.gpus import VISIBLE
from rsna_e2e.service import __main__ as process
from rsna_e2e.service import worker as worker_module
from rsna_e2e.service.arrivals import complete, retry
from rsna_e2e.service.catalogue import study as find_study
from rsna_e2e.service.folders import HEATMAPS, PICTURES, SERIES, heatmap_name
from rsna_e2e.service.worker import BAD_DATA, BUG, GONE, NO_ROOM, Worker, work
from rsna_e2e.service.workers import living
from rsna_e2e.serving.model import ServedModel
from rsna_e2e.store.prepare import prepare
from rsna_e2e.store.pseudonyms import load_key
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import read_labels

pytestmark = pytest.mark.usefixtures("one_thread")

SAME = 1e-6


@pytest.fixture
def desk(tmp_path: Path, bundle: Path) -> Desk:
    return make_desk(tmp_path / "data", bundle, retry_s=(5, 5, 5))


@pytest.fixture
def worker(desk: Desk, bundle: Path) -> Worker:
    models = (ServedModel.open(bundle, device="cpu"),)
    return Worker(database=desk.database, pseudonyms=desk.inbox.pseudonyms, models=models, number=0)


def _send(desk: Desk, paths: list[Path]) -> str:
    files = desk.send(*paths)
    complete(desk.database, {file.study for file in files})
    return str(files[0].study)


def _of(desk: Desk, study: str) -> dict[str, Any]:
    found = find_study(desk.database, study)
    assert found is not None
    return found


def _folder(desk: Desk, study: str) -> Path:
    found = _of(desk, study)
    return desk.settings.studies / study / f"{found['content']}-{found['generations'][0]['model']['identity']}"


def test_it_says_what_predict_says(desk: Desk, worker: Worker, bundle: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    sent = {number: _send(desk, write_study(raw, number, n)) for number, n in ((1, 4), (2, 1), (3, 6))}
    while worker.step():
        pass
    prepare(raw, tmp_path / "store", task=ICH, labels="none", n_jobs=1)
    words = ["predict", str(bundle), str(tmp_path / "store"), "--out", str(tmp_path / "all.csv"), "--calibrated"]
    assert main([*words, "--device", "cpu"]) == 0
    wanted = read_labels(tmp_path / "all.csv", ICH)
    found = results_in(desk.settings.data)
    for number, study in sent.items():
        ((probability,),) = found[study].values()
        is_own = [name.startswith(f"study{number}-") for name in wanted.image_ids]
        by_place = np.argsort([int(name.split("-")[1]) for name in np.array(wanted.image_ids)[is_own]])
        np.testing.assert_allclose(probability, wanted.values[is_own][by_place], rtol=0, atol=SAME)
        assert (_of(desk, study)["state"], _of(desk, study)["pictures"]) == ("done", "done")
        assert _of(desk, study)["n_slices"] == len(probability)


def test_nothing_of_it_names_anybody(desk: Desk, worker: Worker, tmp_path: Path) -> None:
    study = _send(desk, write_study(tmp_path, 8, 2, PatientName="Canary^Mrs", PatientID="CANARY7"))
    while worker.step():
        pass
    for path in (desk.settings.studies / study).rglob("*"):
        assert not path.is_file() or not any(word in path.read_bytes() for word in (b"anary", b"ANARY", b"1.2.4.8"))


def test_pictures_and_maps_lie_beside_it(desk: Desk, worker: Worker, tmp_path: Path) -> None:
    study = _send(desk, write_study(tmp_path, 1, 3))
    assert worker.step()
    folder = _folder(desk, study)
    (series,) = read_json(folder / SERIES)
    assert (series["n_slices"], series["rows"], series["columns"], series["values"]) == (3, 32, 32, "hu")
    assert series["place_mm"] == [0.0, 5.0, 10.0]
    assert series["row_direction"] == [1.0, 0.0, 0.0]
    assert {"name": "bone", "center": 600.0, "width": 2800.0} in series["windows"]
    assert not (folder / PICTURES).exists()
    assert worker.step()
    maps = read_json(folder / PICTURES / HEATMAPS)[series["key"]]
    assert maps
    for label, said in maps.items():
        n_bytes = (folder / PICTURES / heatmap_name(series["key"], label)).stat().st_size
        assert n_bytes == 3 * said["height"] * said["width"]
        # the middle of the map is the middle of the slice, which this model sees whole
        a, b, c, d, e, f = said["affine"][0]
        x, y = (said["width"] - 1) / 2, (said["height"] - 1) / 2
        np.testing.assert_allclose([a * x + b * y + c, d * x + e * y + f], [15.5, 15.5], atol=0.6)
    assert (folder / PICTURES / "report.html").exists()
    assert not worker.step()


def test_what_was_predicted_is_found_again(desk: Desk, worker: Worker, tmp_path: Path) -> None:
    study = _send(desk, write_study(tmp_path, 1, 2))
    worker.step()
    before = (_folder(desk, study) / "result.json").stat().st_mtime_ns
    retry(desk.database, study)
    worker.step()
    assert (_folder(desk, study) / "result.json").stat().st_mtime_ns == before
    assert _of(desk, study)["state"] == "done"


def test_a_later_file_supersedes_the_result(desk: Desk, worker: Worker, tmp_path: Path) -> None:
    study = _send(desk, write_study(tmp_path, 1, 2))
    worker.step()
    _send(desk, write_study(tmp_path, 1, 1, first=2))
    worker.step()
    assert [(one["superseded"]) for one in _of(desk, study)["generations"]] == [False, True]
    assert _of(desk, study)["n_slices"] == 3
    assert len(results_in(desk.settings.data)[study]) == 2


def test_files_of_another_kind_are_refused(desk: Desk, worker: Worker, tmp_path: Path) -> None:
    picture = radiographs.write_image(tmp_path / "a.png", radiographs.chest().astype("uint8"))
    study = _send(desk, [picture])
    worker.step()
    assert (_of(desk, study)["state"], _of(desk, study)["refused"]) == ("refused", {"not_dicom": 1})
    assert not worker.step()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OutOfResourcesError("/a/path"), NO_ROOM),
        (BadInputError("Mrs Example"), BAD_DATA),
        (ValueError("Mrs Example"), BUG),
        (FileNotFoundError(2, "Mrs Example"), GONE),
    ],
)
def test_an_error_costs_its_study_alone_and_tells_no_names(
    desk: Desk,
    worker: Worker,
    tmp_path: Path,
    error: Exception,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    study = _send(desk, write_study(tmp_path, 1, 1))
    with monkeypatch.context() as patch:
        patch.setattr(worker_module, "results", fails)
        worker.step()
    assert (_of(desk, study)["state"], _of(desk, study)["reason"]) == ("failed", reason)
    assert "Example" not in caplog.text
    assert list((desk.settings.studies / study).iterdir()) == []
    other = _send(desk, write_study(tmp_path, 2, 1))
    worker.step()
    assert _of(desk, other)["state"] == "done"
    desk.clock.now_s += 6
    worker.step()
    assert (_of(desk, study)["state"], _of(desk, study)["reason"]) == ("done", None)


def test_pictures_that_fail_leave_the_result(
    desk: Desk, worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise ValueError("Mrs Example")

    monkeypatch.setattr(worker_module, "write_study", fails)
    study = _send(desk, write_study(tmp_path, 1, 1))
    assert [worker.step() for _ in range(5)] == [True, True, True, True, False]
    assert (_of(desk, study)["state"], _of(desk, study)["pictures"]) == ("done", "failed")


def test_pictures_are_put_off_while_a_study_waits(desk: Desk, worker: Worker, tmp_path: Path) -> None:
    first = _send(desk, write_study(tmp_path, 1, 1))
    worker.step()
    job = worker_module.claim_pictures(desk.database, worker.owner)
    second = _send(desk, write_study(tmp_path, 2, 1))
    assert job is not None
    for _ in range(5):  # as often as that happens, it is no failed attempt
        worker._draw(job)
        job = worker_module.claim_pictures(desk.database, worker.owner)
        assert job is not None
    worker_module.put_back_pictures(desk.database, job)
    while worker.step():
        pass
    assert [_of(desk, study)["pictures"] for study in (first, second)] == ["done", "done"]


def test_a_bundle_that_was_exchanged_is_not_asked(desk: Desk, bundle: Path, tmp_path: Path) -> None:
    path = shutil.copy(bundle, tmp_path / "served.rsna")
    settings = desk.settings.model_copy(update={"models": (path,), "identities": ("0" * 16,)})
    load_key(desk.settings.key)
    with pytest.raises(BadInputError, match="another model"):
        work(settings, 0, lambda: lambda: True)


def test_it_makes_room_for_a_fresh_one_and_says_that_it_lives(desk: Desk, worker: Worker, tmp_path: Path) -> None:
    settings = desk.settings.model_copy(update={"jobs_of_worker": 2})
    desk.database.settings = settings
    for number in (1, 2, 3):
        _send(desk, write_study(tmp_path, number, 1))
    worker.run(lambda: False)
    assert sorted(
        _of(desk, row["study"])["state"] for row in desk.database.connection.execute("SELECT study FROM studies")
    ) == [
        "done",
        "done",
        "queued",
    ]
    (models,) = worker_module_living(desk)
    assert [one["name"] for one in models] == ["small"]


def worker_module_living(desk: Desk) -> list[list[dict[str, Any]]]:

    return living(desk.database, within_s=1.0)


@pytest.mark.parametrize(
    ("given", "shown"), [("1,GPU-7,5", ["1", "GPU-7", "5", "1"]), ("3", ["3"] * 4), ("", [""] * 4), ("-1", ["-1"] * 4)]
)
def test_of_several_gpus_each_worker_has_one(
    given: str, shown: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_desk(tmp_path / "data", n_workers=4, device="auto").settings
    seen = []
    monkeypatch.setattr(worker_module, "work", lambda *_: seen.append(os.environ[VISIBLE]))
    for number in range(4):
        monkeypatch.setenv(VISIBLE, given)
        process._run("worker", settings, number)
    assert seen == shown


@pytest.mark.parametrize("alone", [{"n_workers": 1, "device": "cuda"}, {"n_workers": 4, "device": "cpu"}])
def test_who_shares_no_gpu_looks_for_none(
    alone: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[object] = []
    monkeypatch.setattr(worker_module, "work", lambda *_: None)
    monkeypatch.setattr(process, "visible_gpus", lambda environment: looked.append(environment) or [])
    process._run("worker", make_desk(tmp_path / "data", **alone).settings, 0)
    assert looked == []


def test_it_has_it_before_torch_looks_for_gpus() -> None:
    said = "import rsna_e2e.service.__main__, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", said], check=False).returncode == 0
