"""What happens to a service: disks that are full or read-only, a database that is held, deletions and sweeps beside
arrivals, processes that end, clocks that are set. What was acknowledged is not lost, and then it works as before."""

import errno
import itertools
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from guarded import running
from services import Desk, Service, make_bundle, make_desk, wait_for, write_study

from rsna_e2e.core.errors import BadInputError, DiskFullError, OutOfResourcesError
from rsna_e2e.service import database as database_module
from rsna_e2e.service import inbox as inbox_module
from rsna_e2e.service import intake, retention
from rsna_e2e.service import worker as worker_module
from rsna_e2e.service.accounts import Accounts
from rsna_e2e.service.app import make_app, wire_limits
from rsna_e2e.service.arrivals import complete, retry
from rsna_e2e.service.catalogue import study as find_study
from rsna_e2e.service.database import Database
from rsna_e2e.service.folders import PICTURES, result_folder, work_folder
from rsna_e2e.service.jobs import Found, claim, claim_pictures, fail, finish, void_leases
from rsna_e2e.service.open_stores import OpenStores
from rsna_e2e.service.retention import remove_study, sweep
from rsna_e2e.service.sqlite import connect, transaction
from rsna_e2e.service.supervisor import Supervisor
from rsna_e2e.service.uploads import TooManyUploadsError, note_file, open_upload
from rsna_e2e.service.worker import BUG, BUGS_IN_A_ROW, DISK_FULL, Worker
from rsna_e2e.serving.model import ServedModel

pytestmark = [pytest.mark.needs_serve, pytest.mark.usefixtures("one_thread")]

DAY_S = 86400.0
MODEL = "00112233445566aa"
SUMMARY = {"model": {"name": "m", "version": "1", "identity": MODEL}, "scores": {}}
FOUND = Found(summaries={MODEL: SUMMARY}, refused={}, timing_s={}, score=0.5)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return make_desk(tmp_path / "data", limits={"free_bytes": 0}, retry_s=(5, 5, 50))


def _on_disk(desk: Desk) -> set[tuple[str, str]]:
    return {(path.parent.name, path.name) for path in desk.inbox.folder.glob("*/*")}


def _noted(desk: Desk) -> set[tuple[str, str]]:
    return {(row["study"], row["name"]) for row in desk.database.connection.execute("SELECT study, name FROM files")}


def _state(desk: Desk, study: str) -> tuple[str, str | None]:
    row = desk.database.row(study)
    assert row is not None
    return row["state"], row["reason"]


def _sent(desk: Desk, paths: list[Path]) -> str:
    files = desk.send(*paths)
    complete(desk.database, {file.study for file in files})
    return str(files[0].study)


# Arrivals beside deletions and sweeps


def _done(desk: Desk, paths: list[Path]) -> str:
    study = _sent(desk, paths)
    job = claim(desk.database, "a")
    assert job is not None
    assert finish(desk.database, job, "a", FOUND)
    return study


def test_a_file_that_arrives_while_its_study_is_swept_is_not_lost(desk: Desk, tmp_path: Path) -> None:
    """Both at once, over and over: what is acknowledged after it all lies in the inbox, and is noted."""
    first, *later = write_study(tmp_path, 1, 12)
    _done(desk, [first])
    is_over = threading.Event()

    def remove() -> None:
        while not is_over.is_set():
            sweep(desk.inbox, now_s=time.time() + 400 * DAY_S)

    thread = threading.Thread(target=remove)
    thread.start()
    for path in later:
        desk.send(path)
        assert _noted(desk), "what is on its way is never swept"
    is_over.set()
    thread.join()
    assert _noted(desk) == _on_disk(desk)
    assert not any(desk.settings.incoming.iterdir())


def test_a_delete_between_the_steps_of_an_arrival_waits(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = write_study(tmp_path, 1, 2)
    study = _done(desk, [first])
    deleted = []
    note = inbox_module.arrive
    with ThreadPoolExecutor(1) as pool:

        def slowly(*given: Any, **named: Any) -> None:
            deleted.append(pool.submit(remove_study, desk.inbox, study))
            time.sleep(0.3)
            assert not deleted[0].done()
            note(*given, **named)

        monkeypatch.setattr(inbox_module, "arrive", slowly)
        desk.send(second)
        assert deleted[0].result()
    assert _noted(desk) == _on_disk(desk) == set()


def test_a_study_that_is_tried_again_is_not_swept(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = _done(desk, write_study(tmp_path, 1, 2))

    def meanwhile(*_: Any) -> bool:
        retry(desk.database, study)
        return True

    monkeypatch.setattr(retention, "_is_swept", meanwhile)
    sweep(desk.inbox)
    assert len(_on_disk(desk)) == 2
    job = claim(desk.database, "a")
    assert job is not None
    assert len(job.names) == 2


def test_a_delete_that_cannot_be_noted_leaves_all_as_it_was(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = _done(desk, write_study(tmp_path, 1, 2))
    (desk.settings.studies / study / "x").mkdir(parents=True)
    before = _on_disk(desk)
    desk.database.connection.execute(
        "CREATE TEMP TRIGGER full AFTER UPDATE ON changes BEGIN SELECT raise(ABORT, 'full'); END"
    )
    with pytest.raises(sqlite3.Error):
        remove_study(desk.inbox, study)
    assert _noted(desk) == _on_disk(desk) == before
    assert (desk.settings.studies / study / "x").is_dir()


def test_who_a_deleted_study_was_of_is_in_no_file_any_more(desk: Desk, tmp_path: Path) -> None:
    study = _done(desk, write_study(tmp_path, 1, 1, PatientID="CANARY7"))
    said = [path.read_bytes() for path in desk.settings.data.glob("queue.sqlite*")]
    assert any(b"CANARY7" in content for content in said)
    remove_study(desk.inbox, study)
    sweep(desk.inbox)
    for path in desk.settings.data.rglob("*"):
        assert not path.is_file() or b"CANARY7" not in path.read_bytes(), path


def test_strange_things_in_the_inbox_keep_no_service_from_starting(desk: Desk, tmp_path: Path) -> None:
    study = _sent(desk, write_study(tmp_path, 1, 1))
    (desk.inbox.folder / "notes.txt").write_text("x")
    (desk.inbox.folder / study / "folder").mkdir()
    assert desk.inbox.recover() == 0
    assert len(_noted(desk)) == 1


# The queue


def test_a_file_that_comes_in_the_last_attempt_begins_anew(desk: Desk, tmp_path: Path) -> None:
    first, second = write_study(tmp_path, 1, 2)
    study = _sent(desk, [first])
    for attempt in range(3):
        job = claim(desk.database, "a")
        assert job is not None
        if attempt == 2:
            desk.send(second)
        fail(desk.database, job, "a", BUG)
        desk.clock.now_s += 6
    assert _state(desk, study)[0] == "arriving"
    desk.clock.now_s += 60
    job = claim(desk.database, "a")
    assert job is not None
    assert (len(job.names), job.attempt) == (2, 1)


@pytest.mark.parametrize("is_restarted", [False, True])
def test_pictures_whose_worker_dies_each_time_are_said_to_have_failed(
    desk: Desk, tmp_path: Path, is_restarted: bool
) -> None:
    study = _done(desk, write_study(tmp_path, 1, 1))
    for _ in range(3):
        assert claim_pictures(desk.database, "a") is not None
        desk.clock.now_s += 61
    if is_restarted:
        void_leases(desk.database)
    assert claim_pictures(desk.database, "a") is None
    found = find_study(desk.database, study)
    assert found is not None
    assert found["pictures"] == "failed"


def test_uploads_of_before_the_machine_started_are_forgotten_as_others(desk: Desk) -> None:
    desk.clock.now_s = 1e6
    for _ in range(4):
        open_upload(desk.database, "anna")
    desk.clock.now_s = 5.0
    void_leases(desk.database)
    with pytest.raises(TooManyUploadsError):
        open_upload(desk.database, "anna")
    desk.clock.now_s += 3601
    assert open_upload(desk.database, "anna")


def test_the_wall_clock_does_not_matter_for_leases(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time
    desk.database.clock = database_module.boot_clock
    for number, hours in enumerate((1, -1)):
        study = _sent(desk, write_study(tmp_path, number, 1))
        job = claim(desk.database, "a")
        assert job is not None
        monkeypatch.setattr(time, "time", lambda hours=hours: real() + 3600 * hours)
        assert claim(desk.database, "b") is None
        assert finish(desk.database, job, "a", FOUND)
        sweep(desk.inbox)
        assert len(desk.database.names(study)) == 1


# Workers


@pytest.fixture
def worker(desk: Desk, bundle: Path) -> Worker:
    models = (ServedModel.open(bundle, device="cpu"),)
    return Worker(database=desk.database, pseudonyms=desk.inbox.pseudonyms, models=models, number=0)


def _run(worker: Worker) -> None:
    while worker.step():
        pass


def test_what_a_killed_worker_of_the_same_number_left_is_no_part_of_anything(
    desk: Desk, worker: Worker, tmp_path: Path
) -> None:
    study = _sent(desk, write_study(tmp_path, 1, 2))
    left = work_folder(desk.settings, study, worker.owner) / "raw"
    left.mkdir(parents=True)
    for name in desk.database.names(study):
        (left / name).touch()
    assert worker.step()
    assert _state(desk, study) == ("done", None)
    left.mkdir(parents=True)
    (left / "of somebody").touch()
    assert worker.step()
    found = find_study(desk.database, study)
    assert found is not None
    assert found["pictures"] == "done"
    folder = result_folder(desk.settings, study, found["content"], worker.models[0].identity)
    assert (folder / PICTURES / "report.html").exists()
    assert not (folder / PICTURES / "raw").exists()


def test_half_of_a_deleted_result_stands_in_nobodys_way(desk: Desk, worker: Worker, tmp_path: Path) -> None:
    study = _sent(desk, write_study(tmp_path, 1, 1))
    row = desk.database.row(study)
    assert row is not None
    content = database_module.content_of(desk.database.names(study))
    (result_folder(desk.settings, study, content, worker.models[0].identity) / "store").mkdir(parents=True)
    _run(worker)
    assert _state(desk, study) == ("done", None)


@pytest.mark.parametrize("error", [DiskFullError("/a/path"), OSError(errno.ENOSPC, "full")])
def test_no_study_dies_of_a_full_disk(
    desk: Desk, worker: Worker, tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise error

    study = _sent(desk, write_study(tmp_path, 1, 1))
    with monkeypatch.context() as patch:
        patch.setattr(worker_module, "prepare", full)
        for _ in range(5):
            assert worker.step()
            assert _state(desk, study) == ("failed", DISK_FULL)
            desk.clock.now_s += 51
    _run(worker)
    assert _state(desk, study) == ("done", None)


def test_a_worker_that_is_broken_ends_before_it_takes_all_that_wait(
    desk: Desk, worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA error: unspecified launch failure")

    studies = [_sent(desk, write_study(tmp_path, number, 1)) for number in range(4)]
    with monkeypatch.context() as patch:
        patch.setattr(worker_module, "results", lost)
        with pytest.raises(OutOfResourcesError, match="no study explains"):
            _run(worker)
    states = [_state(desk, study)[0] for study in studies]
    assert sorted(states) == ["failed"] * BUGS_IN_A_ROW + ["queued"] * (4 - BUGS_IN_A_ROW)
    desk.clock.now_s += 6
    worker._n_bugs = 0  # of the process that takes over
    _run(worker)
    assert {_state(desk, study)[0] for study in studies} == {"done"}


def test_a_database_that_cannot_be_used_for_a_while_silences_no_worker(
    desk: Desk, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.database.settings = desk.settings.model_copy(update={"lease_s": 0.04})
    said: list[int] = []

    def busy(*_: Any) -> None:
        said.append(1)
        if len(said) < 3:
            raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(worker_module, "renew", busy)
    with worker._alive():
        wait_for(lambda: len(said) > 4)


# Stores that are looked at


@dataclass
class _Store:
    """As a store is, for who opens and closes it."""

    path: Path
    is_closed: bool = False

    def close(self) -> None:
        self.is_closed = True


def test_no_store_is_closed_while_it_is_read_and_none_is_kept_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[_Store] = []

    def open_store(path: Path) -> _Store:
        one = _Store(path)
        opened.append(one)
        time.sleep(0.001)
        return one

    monkeypatch.setattr("rsna_e2e.service.open_stores.Store.open", open_store)
    paths = [tmp_path / str(number) for number in range(6)]
    for path in paths:
        path.mkdir()
    stores = OpenStores(2)

    def read(number: int) -> None:
        with stores.read(paths[number % len(paths)]) as store:
            assert not store.is_closed  # type: ignore[attr-defined]
            time.sleep(0.0005)
            assert not store.is_closed  # type: ignore[attr-defined]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, range(300)))
    assert sum(not store.is_closed for store in opened) <= 2
    for path in paths:
        path.rmdir()
    with pytest.raises(FileNotFoundError), stores.read(paths[0]):
        raise FileNotFoundError
    assert all(store.is_closed for store in opened)


# Disks that are full or read-only, and a database that is held


@dataclass
class Asked:
    """An application that runs, and an administrator's client of it."""

    desk: Desk
    client: httpx.Client

    def send(self, *paths: Path) -> httpx.Response:
        return self.client.post("/api/v1/studies", files=[("file", (path.name, path.read_bytes())) for path in paths])

    def code(self, answer: httpx.Response) -> tuple[int, str]:
        assert answer.headers["content-type"] == "application/problem+json"
        assert not _on_disk(self.desk) - _noted(self.desk) or answer.status_code >= 500
        return answer.status_code, answer.json()["code"]


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[Asked]:
    desk = make_desk(tmp_path / "data", limits={"free_bytes": 0})
    app = make_app(desk.settings)
    token = app.state.guard.accounts.add_token("test", "admin")
    with running(app, wire_limits(desk.settings)) as port:
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30, trust_env=False) as client:
            yield Asked(desk, client)


def _raises(number: int) -> Callable[..., Any]:
    def fails(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number), "/a/path/of/Mrs Example")

    return fails


def _commit_fails(patch: pytest.MonkeyPatch, code: int) -> None:
    """Let SQLite say so at the end of what a file's arrival writes."""
    real = inbox_module.arrive

    def full(*given: Any, **named: Any) -> None:
        real(*given, **named)
        error = sqlite3.OperationalError("it cannot be written")
        error.sqlite_errorcode = code
        raise error

    patch.setattr(inbox_module, "arrive", full)


STEPS: dict[str, Callable[[pytest.MonkeyPatch, int], None]] = {
    "folder": lambda patch, number: patch.setattr(intake.tempfile, "mkdtemp", _raises(number)),
    "body": lambda patch, number: patch.setattr("rsna_e2e.service.bodies._Parts._write", _raises(number)),
    "unpack": lambda patch, number: patch.setattr(intake, "unpack", _raises(number)),
    "sync": lambda patch, number: patch.setattr(inbox_module, "sync", _raises(number)),
    "rename": lambda patch, number: patch.setattr(inbox_module.Path, "replace", _raises(number)),
    "note": lambda patch, number: _commit_fails(
        patch, sqlite3.SQLITE_READONLY if number == errno.EROFS else sqlite3.SQLITE_FULL
    ),
}


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, "disk_full"), (errno.EDQUOT, "disk_full"), (errno.EROFS, "disk_unusable")]
)
def test_a_disk_that_cannot_be_written_is_said_and_nothing_acknowledged_is_lost(
    asked: Asked, tmp_path: Path, number: int, code: str
) -> None:
    kept, paths = write_study(tmp_path, 1, 1), write_study(tmp_path, 2, 2)
    assert asked.send(*kept).status_code == 202
    shutil.make_archive(str(tmp_path / "all"), "zip", tmp_path, "study2-0.dcm")
    for step, break_it in STEPS.items():
        sent = [tmp_path / "all.zip"] if step == "unpack" else paths
        with pytest.MonkeyPatch.context() as patch:
            break_it(patch, number)
            answer = asked.send(*sent)
        assert asked.code(answer) == (507, code), step
        assert "Example" not in answer.text
        assert len(_noted(asked.desk)) == 1, step
        assert not any(asked.desk.settings.incoming.iterdir()), step
    assert asked.send(*paths).status_code == 202
    assert len(_noted(asked.desk)) == 3
    assert _noted(asked.desk) == _on_disk(asked.desk)


FULL_DISK = """
import sqlite3, sys
from pathlib import Path
from services import make_desk, write_study
from rsna_e2e.core.files import is_full
from rsna_e2e.service.problems import problem_of
disk, raw = Path(sys.argv[1]), Path(sys.argv[2])
desk = make_desk(disk / "data", limits={"free_bytes": 0})
paths = write_study(raw, 1, 250)
sent, codes = 0, set()
for path in paths:
    try:
        desk.send(path)
        sent += 1
    except (OSError, sqlite3.Error) as error:
        codes.add(problem_of(error).code)
noted = len(desk.database.names(desk.database.connection.execute("SELECT study FROM files").fetchone()[0]))
lie = {path.name for path in desk.inbox.folder.glob("*/*")}
assert noted == sent and noted <= len(lie), (noted, sent, len(lie))
for path in desk.settings.incoming.iterdir():
    path.unlink()
(disk / "ballast").unlink()
desk.send(*paths[:3], *paths[-3:])
desk.inbox.recover()
noted = {row[0] for row in desk.database.connection.execute("SELECT name FROM files")}
assert noted == {path.name for path in desk.inbox.folder.glob("*/*")}
print(sent, *codes)
"""


def test_on_a_disk_that_is_really_full_what_was_acknowledged_stays(tmp_path: Path) -> None:
    script = (
        'mount -t tmpfs -o size=2m none "$1" && head -c 1000000 /dev/zero > "$1/ballast" && exec "$2" -c "$3" "$1" "$4"'
    )
    command = ["unshare", "--mount", "sh", "-c"]
    if subprocess.run(
        [*command, 'mount -t tmpfs none "$0"', str(tmp_path)], check=False, capture_output=True
    ).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    disk = tmp_path / "disk"
    disk.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    words = [*command, script, "sh", str(disk), sys.executable, FULL_DISK, str(tmp_path / "raw")]
    done = subprocess.run(words, check=True, capture_output=True, text=True, env=environment)
    n_sent, *codes = done.stdout.split()
    assert 10 < int(n_sent) < 250
    assert codes == ["disk_full"]


def test_what_sqlite_has_no_room_for_is_said_to_be_that(tmp_path: Path) -> None:
    connection = connect(tmp_path / "a.sqlite", "CREATE TABLE a (b);")
    connection.execute("PRAGMA max_page_count=3")
    for _ in range(2):
        with pytest.raises(sqlite3.OperationalError, match="full"), transaction(connection):
            connection.execute("INSERT INTO a VALUES (?)", (bytes(100_000),))
    with transaction(connection):
        connection.execute("INSERT INTO a VALUES (1)")
    connection.close()


def test_a_held_database_is_read_all_the_same_and_not_ready(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    (study,) = asked.send(*write_study(asked.desk.settings.data.parent, 1, 1)).json()["studies"]
    with transaction(asked.desk.database.connection):
        started_s = time.monotonic()
        with ThreadPoolExecutor(8) as pool:  # of which each has a thread, and a connection, of its own at the service
            answers = list(pool.map(lambda _: asked.client.get(study["url"]), range(8)))
        assert {answer.status_code for answer in answers} == {200}
        ready = asked.client.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]["database"]) == (503, False)
        assert time.monotonic() - started_s < 10
        monkeypatch.setattr(database_module, "_SOON_MS", 10)
    assert asked.client.get("/readyz").json()["checks"] == {"database": True, "disk": True, "workers": False}


def test_uploads_that_take_long_keep_nobody_from_asking(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go = threading.Event()

    def slowly(*_: Any) -> Any:
        may_go.wait(30)
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("rsna_e2e.service.routes_uploads.take", slowly)
    (path,) = write_study(tmp_path, 1, 1)
    with ThreadPoolExecutor(40) as pool:
        sent = [pool.submit(asked.send, path) for _ in range(40)]
        wait_for(lambda: len(list(asked.desk.settings.incoming.iterdir())) == 40)
        started_s = time.monotonic()
        assert asked.client.get("/api/v1/studies", params={"after": 0, "wait": 0.1}).status_code == 200
        taken_s = time.monotonic() - started_s
        may_go.set()
        assert {answer.result().status_code for answer in sent} == {507}
    assert taken_s < 5


def test_a_page_that_went_away_is_waited_for_no_longer(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    version = Database.version

    def noted(database: Database) -> int:
        looks.append(time.monotonic())
        return version(database)

    monkeypatch.setattr(Database, "version", noted)
    with pytest.raises(httpx.ReadTimeout):
        asked.client.get("/api/v1/studies", params={"after": 10**6, "wait": 50}, timeout=0.5)
    assert looks
    wait_for(lambda: time.monotonic() - looks[-1] > 1)
    assert looks[-1] - looks[0] < 10


def test_an_upload_that_ends_while_a_file_comes_takes_no_more_of_it(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = write_study(tmp_path, 1, 1)
    url = f"/api/v1/uploads/{asked.client.post('/api/v1/uploads').json()['upload']}"

    def late(*given: Any) -> bool:
        assert asked.client.post(f"{url}/complete").status_code == 202
        return note_file(*given)

    monkeypatch.setattr("rsna_e2e.service.routes_uploads.note_file", late)
    answer = asked.client.put(f"{url}/files/0", content=path.read_bytes())
    assert asked.code(answer) == (404, "not_found")


# The processes


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def _noise(path: Path) -> None:
    path.write_bytes(b"no database" * 100)


def _newer(path: Path) -> None:
    connection = connect(path)
    connection.execute("PRAGMA user_version=99")
    connection.close()


@pytest.mark.parametrize("name", ["queue.sqlite", "access.sqlite"])
@pytest.mark.parametrize(("harm", "words"), [(_cut, "damaged"), (_noise, "damaged"), (_newer, "another version")])
def test_no_service_begins_with_a_database_that_it_cannot_use(
    tmp_path: Path, bundle: Path, name: str, harm: Callable[[Path], None], words: str
) -> None:
    desk = make_desk(tmp_path / "data", bundle, port=0)
    Accounts(desk.settings.data / "access.sqlite").close()
    desk.database.connection.close()
    for _ in range(2):
        with Supervisor(settings=desk.settings):
            pass
    harm(desk.settings.data / name)
    with pytest.raises(BadInputError, match=f"{name}: .*{words}"), Supervisor(settings=desk.settings):
        pass


def test_a_process_that_cannot_be_started_now_is_started_later(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = make_desk(tmp_path / "data", bundle, restart_s=(0.05,), port=0)
    starts = itertools.count()
    is_stopping = threading.Event()

    def start(*_: Any) -> Any:
        number = next(starts)
        if number < 4:
            raise OSError(errno.EAGAIN, "too many processes")
        if number > 6:
            is_stopping.set()
        return subprocess.Popen(["true"])

    monkeypatch.setattr(Supervisor, "_start", start)
    with Supervisor(settings=desk.settings) as supervisor:
        supervisor.run(is_stopping)
    assert next(starts) > 6


QUICK = "quiet_s: 0.3\nlease_s: 2.0\nretry_s: [0.1]\nrestart_s: [0.1]\nlimits: {free_bytes: 0}\n"


def test_an_api_that_is_killed_leaves_nothing_half_received_and_may_open_many_files(
    tmp_path: Path, bundle: Path
) -> None:
    service = Service(tmp_path / "data", bundle, settings=QUICK)
    service.start()
    try:
        wait_for(lambda: service.client.get("/healthz").status_code == 200)
        host, port = str(service.client.base_url.host), service.client.base_url.port
        with socket.create_connection((host, port)) as half:
            head = f"POST /api/v1/studies HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {service.token}\r\n"
            half.sendall(f"{head}Content-Length: 1000\r\n\r\nhalf".encode())
            wait_for(lambda: any((service.data / "tmp").iterdir()))
            os.kill(service.processes()["api"], signal.SIGKILL)
            wait_for(lambda: service.client.get("/healthz").status_code == 200)
        assert not any((service.data / "tmp").iterdir())
        limits = Path(f"/proc/{service.processes()['api']}/limits").read_text()
        soft, hard = next(line for line in limits.splitlines() if "open files" in line).split()[3:5]
        assert int(soft) == min(int(hard), 8192)
    finally:
        code = service.stop()
    assert code == 0


@pytest.mark.slow
def test_a_bundle_that_was_swapped_is_not_asked_and_its_studies_wait(tmp_path: Path, bundle: Path) -> None:
    served = Path(shutil.copy(bundle, tmp_path / "served.rsna"))
    service = Service(tmp_path / "data", served, settings=QUICK)
    service.start()
    service.wait_until_ready()
    served.unlink()
    shutil.copy(make_bundle(tmp_path, seed=1), served)
    os.kill(service.processes()["worker"], signal.SIGKILL)
    (study,) = service.send(write_study(tmp_path, 1, 1)).json()["studies"]
    wait_for(lambda: "another model than the service began with" in service.said.read_text())
    assert service.client.get(study["url"]).json()["state"] in ("queued", "arriving")
    shutil.copy(bundle, served)
    assert service.client.get(study["url"], params={"wait": 60}).json()["state"] == "done"
    assert service.stop() == 0
