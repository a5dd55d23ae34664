"""The inbox: what was acknowledged is there once, under its study, also after an end at any moment."""

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import radiographs
from services import Desk, make_desk, write_study

from rsna_e2e.core.reasons import Reason
from rsna_e2e.service import inbox as inbox_module
from rsna_e2e.service.arrivals import Arrived, complete
from rsna_e2e.service.inbox import RASTER
from rsna_e2e.service.jobs import Found, claim, finish
from rsna_e2e.service.retention import remove_study, sweep

DAY_S = 86400.0
FOUND = Found(summaries={"m": {"model": {}}}, refused={}, timing_s={}, score=0.5)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return make_desk(tmp_path / "data", limits={"free_bytes": 0})


def _files(desk: Desk) -> dict[str, list[str]]:
    return {folder.name: sorted(path.name for path in folder.iterdir()) for folder in desk.inbox.folder.iterdir()}


def _done(desk: Desk, study: str) -> None:
    complete(desk.database, [study])
    job = claim(desk.database, "a")
    assert job is not None
    assert finish(desk.database, job, "a", FOUND)


def test_files_lie_with_their_study_and_are_kept_once(desk: Desk, tmp_path: Path) -> None:
    first, second = write_study(tmp_path, 1, 3), write_study(tmp_path, 2, 2)
    found = desk.send(*first, *second)
    assert all(isinstance(file, Arrived) for file in found)
    files = _files(desk)
    assert sorted(map(len, files.values())) == [2, 3]
    again = desk.send(*reversed(first))
    assert [file.name for file in again] == [file.name for file in found[2::-1]]
    assert _files(desk) == files
    assert not any(desk.settings.incoming.iterdir())
    names = {name for of_study in files.values() for name in (*of_study, *files)}
    assert not any("1.2." in name or "study" in name for name in names)


def test_other_bytes_of_an_instance_are_kept_beside_it(desk: Desk, tmp_path: Path) -> None:
    one = write_study(tmp_path / "a", 1, 1)
    other = write_study(tmp_path / "b", 1, 1, PatientID="another")
    (kept,), (beside,) = desk.send(*one), desk.send(*other)
    assert kept.study == beside.study
    assert kept.name[:16] == beside.name[:16]  # of the instance, whose conflict `prepare` finds
    assert len(_files(desk)[kept.study]) == 2


def test_what_is_no_image_is_refused_and_gone(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("Mrs Example")
    (nameless,) = write_study(tmp_path, 1, 1, StudyInstanceUID="")
    refused = desk.send(tmp_path / "notes.txt", nameless)
    assert [file.reason for file in refused] == [Reason.NOT_DICOM, Reason.MISSING_TAG]
    assert not _files(desk)
    assert not any(desk.settings.incoming.iterdir())


def test_a_radiograph_as_png_is_a_study_of_its_own(desk: Desk, tmp_path: Path) -> None:
    path = radiographs.write_image(tmp_path / "Mrs Example.png", radiographs.chest(seed=3).astype("uint8"))
    (file,) = desk.send(path)
    assert file.name.endswith(RASTER)
    assert file.identity is None
    assert _files(desk) == {file.study: [file.name]}


def test_who_it_is_of_is_kept_unless_told_not_to(tmp_path: Path) -> None:
    paths = write_study(tmp_path, 7, 1, AccessionNumber="A7", StudyDate="20260102")
    for has_identities in (True, False):
        desk = make_desk(tmp_path / f"data{has_identities}", has_identities=has_identities)
        desk.send(*paths)
        rows = [tuple(row)[1:] for row in desk.database.connection.execute("SELECT * FROM identities")]
        assert rows == ([("p7", "A7", "20260102")] if has_identities else [])


def test_no_key_gives_the_names_of_another(tmp_path: Path) -> None:
    paths = write_study(tmp_path, 1, 1)
    (one,), (other,) = (make_desk(tmp_path / name).send(*paths) for name in "ab")
    assert one.study != other.study


@pytest.mark.parametrize("moment", ["sync", "arrive"])
def test_an_end_while_files_are_taken_loses_none_that_was_acknowledged(
    desk: Desk, tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.send(*write_study(tmp_path, 1, 2))

    def end(*_: Any, **__: Any) -> None:
        raise sqlite3.OperationalError

    with monkeypatch.context() as patch:
        patch.setattr(inbox_module, moment, end)
        with pytest.raises(sqlite3.OperationalError):
            desk.send(*write_study(tmp_path, 2, 2))
    n_noted = desk.inbox.recover()
    assert n_noted == (2 if moment == "arrive" else 0)  # as they lay in the inbox, or not yet
    desk.send(*write_study(tmp_path, 2, 2))  # the sender, who had no answer, sends them again
    on_disk = {(study, name) for study, names in _files(desk).items() for name in names}
    noted = {tuple(row) for row in desk.database.connection.execute("SELECT study, name FROM files")}
    assert on_disk == noted
    assert len(noted) == 4
    assert not any(desk.settings.incoming.iterdir())


def test_what_is_gone_from_the_disk_is_forgotten_at_the_next_start(desk: Desk, tmp_path: Path) -> None:
    (file,) = desk.send(*write_study(tmp_path, 1, 1))
    shutil.rmtree(desk.inbox.folder / file.study)
    assert desk.inbox.recover() == 0
    assert desk.database.names(file.study) == ()


def test_files_go_after_a_day_and_results_after_a_month(desk: Desk, tmp_path: Path) -> None:
    (done,), (waits,) = desk.send(*write_study(tmp_path, 1, 1)), desk.send(*write_study(tmp_path, 2, 1))
    _done(desk, done.study)
    (desk.settings.studies / done.study / "x").mkdir(parents=True)
    row = desk.database.row(done.study)
    assert row is not None
    sweep(desk.inbox, now_s=row["finished"] + 0.9 * DAY_S)
    assert set(_files(desk)) == {done.study, waits.study}
    sweep(desk.inbox, now_s=row["finished"] + 1.1 * DAY_S)
    assert set(_files(desk)) == {waits.study}
    assert (desk.settings.studies / done.study).is_dir()
    assert desk.inbox.recover() == 0  # nothing comes back
    sweep(desk.inbox, now_s=row["finished"] + 30.1 * DAY_S)
    assert not (desk.settings.studies / done.study).exists()
    assert desk.database.row(done.study) is None
    assert desk.database.row(waits.study) is not None  # what was not predicted stays


def test_on_a_full_disk_files_of_what_is_done_go_first(tmp_path: Path) -> None:
    desk = make_desk(tmp_path / "data", limits={"free_bytes": 1 << 60})
    (done,), (waits,) = desk.send(*write_study(tmp_path, 1, 1)), desk.send(*write_study(tmp_path, 2, 1))
    _done(desk, done.study)
    sweep(desk.inbox)
    assert set(_files(desk)) == {waits.study}


@pytest.mark.parametrize(("room", "goes"), [(2.5, False), (1.5, True), (0.5, True)])
def test_files_go_before_others_are_refused(
    room: float, goes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 1 << 30
    desk = make_desk(tmp_path / "data", limits={"free_bytes": limit})
    (done,) = desk.send(*write_study(tmp_path, 1, 1))
    _done(desk, done.study)
    monkeypatch.setattr("rsna_e2e.service.retention.free_bytes", lambda inbox: room * limit)
    sweep(desk.inbox)
    assert (set(_files(desk)) == set()) == goes


def test_what_dead_workers_left_is_swept(desk: Desk, tmp_path: Path) -> None:
    (file,) = desk.send(*write_study(tmp_path, 1, 1))
    complete(desk.database, [file.study])
    claim(desk.database, "0-77")
    folder = desk.settings.studies / file.study
    for name in (".work-0-77", ".work-0-66"):
        (folder / name).mkdir(parents=True)
    stray = desk.settings.studies / ("0" * 16)
    stray.mkdir(parents=True)
    sweep(desk.inbox)
    assert [path.name for path in folder.iterdir()] == [".work-0-77"]
    assert not stray.exists()


def test_a_study_can_be_removed_whole(desk: Desk, tmp_path: Path) -> None:
    (file,) = desk.send(*write_study(tmp_path, 1, 1))
    assert remove_study(desk.inbox, file.study)
    assert not _files(desk)
    for table in ("studies", "files", "identities", "results"):
        assert desk.database.connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] == 0
    assert not remove_study(desk.inbox, file.study)
