"""Files, archives, requests and clients made to do harm, against a service that runs: each is refused in words or ends
as a study, the service keeps its memory and its processes, and nothing is left behind."""

import logging
import random
import socket
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import archives
import hostile_files
import httpx
import mutants
import numpy as np
import pytest
from guarded import running
from services import Service, make_desk, results_in, wait_for, write_study

from rsna_e2e.cli import main
from rsna_e2e.service.app import make_app, wire_limits
from rsna_e2e.service.catalogue import count_states
from rsna_e2e.service.database import Database
from rsna_e2e.service.settings import read_settings
from rsna_e2e.service.worker import Worker
from rsna_e2e.serving.model import ServedModel
from rsna_e2e.store.prepare import prepare
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import read_labels

pytestmark = [pytest.mark.needs_serve, pytest.mark.filterwarnings("ignore:.*:UserWarning")]  # pydicom's, of such files

MIB = 1 << 20
QUICK = (
    "quiet_s: 0.2\nattempts: 2\nretry_s: [0.1]\njobs_of_worker: 100000\nlimits: {free_bytes: 0, undone_studies: 9999}\n"
)
SEED = 11


@pytest.fixture(scope="module")
def service(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    made = Service(tmp_path_factory.mktemp("service") / "data", bundle, settings=QUICK)
    made.start()
    try:
        made.wait_until_ready()
        first = tmp_path_factory.mktemp("first")
        made.send(write_study(first, 1, 1), wait=60)  # what is imported late
        made.send([archives.zip_files(first / "a.zip", {"x": b"x"})])  # and the process that archives are unpacked by
        yield made
    finally:
        code = made.stop()
    assert code == 0


def _memory(process: int, kind: str) -> float:
    """MiB: VmRSS now, VmHWM at most since `_begin_peak`."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(kind)).split()[1]) / 1024


def _begin_peak(process: int) -> float:
    Path(f"/proc/{process}/clear_refs").write_text("5")
    return _memory(process, "VmRSS")


def _all_end(service: Service) -> dict[str, int]:
    """Wait until no study is on its way, and return how many are in each state."""
    database = Database(read_settings(service.data))
    wait_for(lambda: not set(count_states(database)) & {"arriving", "queued", "running", "failed"})
    return count_states(database)


def _files(folder: Path, n_mutants: int) -> Iterator[bytes]:
    for make, _ in (*hostile_files.DIMENSION_LIES, *hostile_files.BOMBS):
        path = folder / "hostile.dcm"
        path.unlink(missing_ok=True)
        make(path)
        yield path.read_bytes()
    yield from mutants.mutants(mutants.corpus(folder), n_mutants, np.random.default_rng(SEED))


@pytest.mark.parametrize("n_mutants", [30, pytest.param(1000, marks=pytest.mark.slow)])
def test_hostile_files_are_taken_or_refused_and_all_studies_end(
    service: Service, tmp_path: Path, n_mutants: int
) -> None:
    before = service.processes()
    begun_mib = _begin_peak(before["api"])
    statuses = []
    for content in _files(tmp_path, n_mutants):
        answer = service.client.post("/api/v1/studies", content=content)
        statuses.append(answer.status_code)
        assert answer.status_code in (202, 422), answer.text
        if answer.status_code == 422:
            assert answer.json()["code"] == "nothing_taken"
            assert answer.json()["detail"].startswith("No image could be taken: 1 ")
    assert {202, 422} == set(statuses)
    states = _all_end(service)
    assert set(states) <= {"done", "refused"}
    assert service.processes() == before  # none died but those that decode
    assert _memory(before["api"], "VmHWM") - begun_mib <= 64
    assert not any((service.data / "tmp").iterdir())


def _slip(path: Path) -> None:
    archives.zip_files(path, {name: b"x" for name in ("../slip", "/slip", "..\\slip", "a/../../slip", "C:\\slip")})


def _link(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("slip")
        info.create_system, info.external_attr = 3, 0o120777 << 16
        archive.writestr(info, "/etc/passwd")


def _nested(path: Path) -> None:
    inner = path.with_name("inner.zip")
    archives.zip_files(inner, {"slip": bytes(MIB)})
    archives.zip_files(path, {"inner.zip": inner.read_bytes()})


def _bomb(path: Path) -> None:
    archives.zip_files(path, {str(number): bytes(64 * MIB) for number in range(2)})


def _overlapping(path: Path) -> None:
    archives.zip_files(path, {"one.dcm": bytes(999), "two.dcm": bytes(999)})
    archives.forge(path, "two.dcm", "offset", 0)


def _forged(value: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        archives.zip_files(path, {"one.dcm": b"1" * 999})
        archives.forge(path, "one.dcm", "n_bytes", value)

    return make


def _cut(path: Path) -> None:
    archives.zip_files(path, {"one.dcm": b"1" * 999})
    path.write_bytes(path.read_bytes()[:-30])


def _many(n_members: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        """Members of one byte that all begin at one place."""
        entries = b"".join(
            struct.pack("<4sHHHHHHLLLHHHHHLL", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 1, 1, 6, 0, 0, 0, 0, 0, 0)
            + b"%06d" % number
            for number in range(n_members)
        )
        local = struct.pack("<4sHHHHHLLLHH", b"PK\3\4", 20, 0, 0, 0, 0, 0, 1, 1, 6, 0) + b"000000x"
        n_16, n_32 = min(n_members, 0xFFFF), len(entries)
        end = b""
        if n_members > 0xFFFF:
            numbers = (n_members, n_members, n_32, len(local))
            end = struct.pack("<4sQHHLLQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, *numbers)
            end += struct.pack("<4sLQL", b"PK\6\7", 0, len(local) + n_32, 1)
        end += struct.pack("<4sHHHHLLH", b"PK\5\6", 0, 0, n_16, n_16, n_32, len(local), 0)
        path.write_bytes(local + entries + end)

    return make


ARCHIVES: dict[str, tuple[Callable[[Path], None], str]] = {
    "slip": (_slip, "nothing_taken"),
    "link": (_link, "nothing_taken"),
    "nested": (_nested, "nothing_taken"),
    "ratio": (_bomb, "nothing_taken"),
    "overlap": (_overlapping, "nothing_taken"),
    "too small": (_forged(5), "nothing_taken"),
    "too large": (_forged(1 << 31), "nothing_taken"),
    "cut": (_cut, "damaged_archive"),
    "many": (_many(20_000), "archive_too_large"),
    "100k": (_many(100_000), "archive_too_large"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "100k" else ()) for name in ARCHIVES]
)
def test_hostile_archives_are_refused_soon_and_leave_nothing(service: Service, tmp_path: Path, name: str) -> None:
    make, code = ARCHIVES[name]
    make(tmp_path / "a.zip")
    before, processes = _outside(service), service.processes()
    begun_mib = _begin_peak(processes["api"])
    started_s = time.monotonic()
    answer = service.client.post("/api/v1/studies", content=(tmp_path / "a.zip").read_bytes())
    taken_s = time.monotonic() - started_s
    assert (answer.json()["code"], answer.status_code // 100) == (code, 4)
    assert "slip" not in answer.text
    assert taken_s <= 2
    assert _outside(service) == before
    assert not any((service.data / "tmp").iterdir())
    assert service.processes() == processes
    assert _memory(processes["api"], "VmHWM") - begun_mib <= 64


def _outside(service: Service) -> set[Path]:
    return {path for path in service.data.parent.rglob("*") if "tmp" not in path.parts and ".sqlite" not in path.name}


def test_archives_together_inflate_to_no_more_than_one_may(tmp_path: Path) -> None:
    desk = make_desk(tmp_path / "data", limits={"free_bytes": 0, "study_bytes": 300_000, "study_files": 6})
    app = make_app(desk.settings)
    token = app.state.guard.accounts.add_token("test", "upload")
    noise = random.Random(SEED).randbytes(1000)
    with running(app, wire_limits(desk.settings)) as port:
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30, trust_env=False) as client:
            for files in ({"a": noise * 200}, {f"{number}": noise for number in range(4)}):
                one = archives.zip_files(tmp_path / "a.zip", files).read_bytes()
                codes = []
                for n in (1, 2):
                    form = [("file", (f"{number}.zip", one)) for number in range(n)]
                    codes.append(client.post("/api/v1/studies", files=form).json()["code"])
                assert codes == ["nothing_taken", "archive_too_large"], files.keys()
    assert not any(desk.settings.incoming.iterdir())


def test_slow_clients_keep_nobody_waiting(service: Service, tmp_path: Path) -> None:
    """Heads and bodies that drip, and connections on which nothing comes; the limits themselves have their tests."""
    host, port = str(service.client.base_url.host), service.client.base_url.port
    assert port is not None
    head = f"POST /api/v1/studies HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {service.token}\r\n".encode()
    begins = (b"", head[:20], head + b"Content-Length: 1000000\r\n\r\n")
    slow = [socket.create_connection((host, port)) for _ in range(45)]
    try:
        for number, one in enumerate(slow):
            one.sendall(begins[number % 3])
        times_s = []
        for _ in range(20):
            started_s = time.monotonic()
            assert service.client.get("/api/v1/studies").status_code == 200
            times_s.append(time.monotonic() - started_s)
        assert sorted(times_s)[-2] < 1
        assert service.send(write_study(tmp_path, 900, 1), wait=60).status_code == 200
        for one in slow[:2]:
            one.settimeout(15)
            assert one.recv(1) == b""  # closed for want of a head
    finally:
        for one in slow:
            one.close()
    wait_for(lambda: not any((service.data / "tmp").iterdir()))


def test_gzip_is_for_those_who_take_it(service: Service, tmp_path: Path) -> None:
    (study,) = service.send(write_study(tmp_path, 901, 1), wait=60).json()["studies"]
    result = service.client.get(f"{study['url']}/result")
    url = f"{study['url']}/series/{result.json()['series'][0]['key']}/slices/0"
    bodies = {}
    for accepted, is_packed in (
        ("gzip", True),
        ("br, *;q=0.5", True),
        ("GZIP;q=0.1", True),
        ("identity", False),
        ("gzip;q=0, *", False),
        ("gzip; q=0.000", False),
        ("", False),
    ):
        answer = service.client.get(url, headers={"Accept-Encoding": accepted})
        assert (answer.headers.get("content-encoding") == "gzip") == is_packed, accepted
        assert answer.headers["vary"] == "Accept-Encoding"
        bodies[answer.content] = accepted
    assert len(bodies) == 1
    assert len(next(iter(bodies))) == 2 * 32 * 32
    of_result = {"content": result.headers["x-content"], "model": result.headers["x-model"]}
    for names in ((), ("content",), ("model",), ("content", "model")):
        answer = service.client.get(url, params={name: of_result[name] for name in names})
        assert ("immutable" in answer.headers["cache-control"]) == (len(names) == 2), names


@pytest.mark.parametrize("seconds", [8, pytest.param(600, marks=pytest.mark.slow)])
def test_requests_by_the_interface_s_own_description_never_fail(
    tmp_path: Path, seconds: int, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("schemathesis")
    caplog.set_level(logging.ERROR)
    desk = make_desk(tmp_path / "data", limits={"free_bytes": 0})
    desk.send(*write_study(tmp_path, 1, 2))
    app = make_app(desk.settings)
    token = app.state.guard.accounts.add_token("test", "admin")
    with running(app, wire_limits(desk.settings)) as port:
        url = f"http://127.0.0.1:{port}"
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False) as client:
            n_requests = _ask_all(client, app.openapi(), until_s=time.monotonic() + seconds)
    assert n_requests > 5 * seconds
    assert not caplog.records, caplog.text


def _ask_all(client: httpx.Client, document: dict[str, Any], *, until_s: float) -> int:
    """Ask each route in turn what its description allows, and then what it does not; returns how many requests."""
    import hypothesis
    import schemathesis

    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=str(client.base_url))
    operations = [one.ok() for one in schema.get_all_operations()]
    settings = hypothesis.settings(
        max_examples=4,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    n_requests = 0

    def ask(case: Any) -> None:
        nonlocal n_requests
        try:
            answer = _request(client, case.as_transport_kwargs(base_url=str(client.base_url)))
        except (httpx.InvalidURL, httpx.LocalProtocolError, UnicodeError):
            return  # what no client can send
        n_requests += 1
        if case.path == "/readyz" and answer.status_code == 503:  # there are no workers
            return
        assert answer.status_code < 500, (case.method, case.path, answer.status_code)
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == "application/problem+json", (case.method, case.path)

    modes, number = list(schemathesis.GenerationMode), 0
    while time.monotonic() < until_s:
        operation = operations[number % len(operations)]
        strategy = operation.as_strategy(generation_mode=modes[number // len(operations) % len(modes)])
        with suppress(hypothesis.errors.Unsatisfiable):  # a route without anything that could be wrong
            hypothesis.seed(SEED + number)(settings(hypothesis.given(strategy)(ask)))()
        number += 1
    return n_requests


def _request(client: httpx.Client, given: dict[str, Any]) -> httpx.Response:
    headers = {name: value for name, value in (given.get("headers") or {}).items() if name.lower() != "authorization"}
    query = dict(given.get("params") or {})
    if "wait" in query:
        query["wait"] = 0.05 if query["wait"] else query["wait"]
    data, content = given.get("data"), given.get("json")
    body = {"content": data} if isinstance(data, bytes | str) else {} if content is None else {"json": content}
    return client.request(given["method"], given["url"], params=query, headers=headers, **body)


@pytest.mark.slow
def test_memory_stays_over_a_thousand_studies(bundle: Path, tmp_path: Path) -> None:
    made = Service(tmp_path / "data", bundle, settings=QUICK)
    made.start()
    made.wait_until_ready()
    at: dict[int, dict[str, float]] = {}
    for number in range(1, 1001):
        assert made.send(write_study(tmp_path / "raw", number, 2), wait=60).status_code == 200
        if number in (50, 1000):
            at[number] = {role: _memory(process, "VmRSS") for role, process in made.processes().items()}
    assert made.stop() == 0
    assert at[1000]["worker"] <= 1.05 * at[50]["worker"], at
    assert at[1000]["api"] <= 200, at


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_what_is_served_of_many_studies_is_what_predict_says(bundle: Path, tmp_path: Path) -> None:
    desk = make_desk(tmp_path / "data", bundle, limits={"free_bytes": 0})
    models = (ServedModel.open(bundle, device="cpu"),)
    worker = Worker(database=desk.database, pseudonyms=desk.inbox.pseudonyms, models=models, number=0)
    sent = {}
    for number in range(50):
        (study,) = {file.study for file in desk.send(*write_study(tmp_path / "raw", number, 3 + number % 9))}
        sent[number] = study
    desk.clock.now_s += 11
    for _ in range(50):
        assert worker.step()
    prepare(tmp_path / "raw", tmp_path / "store", task=ICH, labels="none", n_jobs=1)
    words = ["predict", str(bundle), str(tmp_path / "store"), "--out", str(tmp_path / "all.csv"), "--calibrated"]
    assert main([*words, "--device", "cpu"]) == 0
    wanted = read_labels(tmp_path / "all.csv", ICH)
    found = results_in(desk.settings.data)
    largest = 0.0
    for number, study in sent.items():
        ((probability,),) = found[study].values()
        is_own = np.array([name.startswith(f"study{number}-") for name in wanted.image_ids])
        by_place = np.argsort([int(name.split("-")[1]) for name in np.array(wanted.image_ids)[is_own]])
        largest = max(largest, float(np.abs(np.array(probability) - wanted.values[is_own][by_place]).max()))
    assert largest <= 1e-6
