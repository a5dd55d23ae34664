"""Routes of the service, without its other processes: who may ask what, what there is no room for, and what is never
said."""

import logging
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import canaries
import httpx
import pytest
from fastapi import FastAPI
from guarded import running
from services import Desk, make_desk, write_study

from rsna_e2e.service import intake, routes_system
from rsna_e2e.service.app import make_app, wire_limits
from rsna_e2e.service.callers import ROLES
from rsna_e2e.service.roles import declared_roles
from rsna_e2e.service.sqlite import transaction

pytestmark = pytest.mark.needs_serve

SMALL = {"free_bytes": 0, "study_files": 5, "file_bytes": 20_000, "study_bytes": 60_000, "undone_studies": 3}
SAMPLES = {"study": "0" * 16, "series": "0" * 16, "upload": "u_" + "0" * 16, "place": "0", "label": "any", "model": "x"}


@dataclass
class Asked:
    """An application that runs, and clients of each role."""

    app: FastAPI
    desk: Desk
    url: str
    tokens: dict[str, str]

    def client(self, role: str = "admin") -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.tokens[role]}"} if role else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, trust_env=False)


def _asked(data: Path, **settings: Any) -> Iterator[Asked]:
    desk = make_desk(data, limits=SMALL, **settings)
    app = make_app(desk.settings)
    tokens = {role: app.state.guard.accounts.add_token(f"a-{role}", role) for role in ROLES}
    with running(app, wire_limits(desk.settings)) as port:
        yield Asked(app, desk, f"http://127.0.0.1:{port}", tokens)


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[Asked]:
    yield from _asked(tmp_path / "data")


@pytest.fixture
def client(asked: Asked) -> Iterator[httpx.Client]:
    with asked.client() as made:
        yield made


def _post(client: httpx.Client, *paths: Path, **parameters: Any) -> httpx.Response:
    files = [("file", (path.name, path.read_bytes())) for path in paths]
    return client.post("/api/v1/studies", files=files, params=parameters)


def _code(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


def test_every_route_asks_for_a_role_of_who_calls(asked: Asked) -> None:
    declared = declared_roles(asked.app)
    public = {path for (_, path), role in declared.items() if role is None}
    assert public == {"/healthz", "/readyz", "/metrics", "/", "/login", "/static/{name}", "/api/v1/login"}
    assert declared["DELETE", "/api/v1/studies/{study}"] == "admin"
    assert declared["POST", "/api/v1/studies"] == "upload"
    documented = {
        (method.upper(), path) for path, methods in asked.app.openapi()["paths"].items() for method in methods
    }
    assert documented <= declared.keys()
    for (method, path), role in declared.items():
        if role is None:
            continue
        url = re.sub(r"\{(\w+)\}", lambda match: SAMPLES[match[1]], path)
        for other in ("", *ROLES):
            with asked.client(other) as client:
                answer = client.request(method, url)
            if not other:
                assert _code(answer) == (401, "unauthenticated"), path
            elif ROLES.index(other) < ROLES.index(role):
                assert _code(answer) == (403, "forbidden"), path
            else:
                assert answer.status_code not in (401, 403, 500), path


def test_numbers_are_for_this_machine_and_administrators(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    with asked.client("") as nobody, asked.client("read") as reader, asked.client("admin") as administrator:
        assert nobody.get("/metrics").status_code == 200
        monkeypatch.setattr(routes_system, "LOOPBACK", ())
        assert nobody.get("/metrics").status_code == 401
        assert reader.get("/metrics").status_code == 401
        assert administrator.get("/metrics").status_code == 200


def test_it_is_not_ready_without_workers_or_room(asked: Asked, client: httpx.Client, monkeypatch: Any) -> None:
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["checks"]) == (503, {"database": True, "disk": True, "workers": False})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, -1))  # type: ignore[attr-defined]
    assert not client.get("/readyz").json()["checks"]["disk"]


def test_what_there_is_no_room_for(asked: Asked, client: httpx.Client, tmp_path: Path, monkeypatch: Any) -> None:
    paths = [path for number in range(3) for path in write_study(tmp_path, number, 1)]
    assert _post(client, *paths).status_code == 202
    answer = _post(client, *write_study(tmp_path, 3, 1))
    assert _code(answer) == (429, "queue_full")
    assert int(answer.headers["retry-after"]) > 0
    monkeypatch.setattr(intake, "free_bytes", lambda inbox: -1)
    for refused in (_post(client, *paths), client.post("/api/v1/uploads")):
        assert _code(refused) == (507, "no_room")


def test_what_is_too_large(asked: Asked, client: httpx.Client, tmp_path: Path) -> None:
    paths = write_study(tmp_path, 1, 6)
    assert _code(_post(client, *paths)) == (413, "too_many_files")
    large = tmp_path / "large.dcm"
    large.write_bytes(paths[0].read_bytes() + bytes(20_000))
    assert _code(_post(client, large)) == (413, "file_too_large")
    assert _code(client.post("/api/v1/studies", content=bytes(60_001))) == (413, "too_large")
    upload = client.post("/api/v1/uploads").json()["upload"]
    assert _code(client.put(f"/api/v1/uploads/{upload}/files/0", content=bytes(20_001))) == (413, "too_large")
    shutil.make_archive(str(tmp_path / "many"), "zip", tmp_path, "study1-0.dcm")
    archive = shutil.make_archive(str(tmp_path / "all"), "zip", tmp_path)
    assert _code(client.post("/api/v1/studies", content=Path(archive).read_bytes())) == (413, "archive_too_large")
    assert not any(asked.desk.inbox.folder.iterdir())
    assert not any(asked.desk.settings.incoming.iterdir())


def test_an_upload_that_is_full_can_be_completed(client: httpx.Client, tmp_path: Path) -> None:
    upload = client.post("/api/v1/uploads").json()["upload"]
    answers = [
        client.put(f"/api/v1/uploads/{upload}/files/{number}", content=path.read_bytes())
        for number, path in enumerate(write_study(tmp_path, 1, 7))
    ]
    assert [answer.status_code for answer in answers] == [200] * 6 + [413]
    completed = client.post(f"/api/v1/uploads/{upload}/complete")
    assert (completed.status_code, len(completed.json()["studies"])) == (202, 1)


def test_an_upload_is_its_callers_alone(asked: Asked, client: httpx.Client) -> None:
    upload = client.post("/api/v1/uploads").json()["upload"]
    with asked.client("upload") as other:
        assert _code(other.put(f"/api/v1/uploads/{upload}/files/0", content=b"x")) == (404, "not_found")
        assert _code(other.post(f"/api/v1/uploads/{upload}/complete")) == (404, "not_found")


def test_a_study_whose_files_are_gone_cannot_be_tried_again(asked: Asked, client: httpx.Client, tmp_path: Path) -> None:
    (study,) = _post(client, *write_study(tmp_path, 1, 1)).json()["studies"]
    assert _code(client.post(f"{study['url']}/retry")) == (409, "on_its_way")
    shutil.rmtree(asked.desk.inbox.folder / study["study"])
    assert _code(client.post(f"{study['url']}/retry")) == (409, "files_gone")


def test_a_database_that_is_locked_is_waited_for_and_then_said(
    asked: Asked, client: httpx.Client, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("rsna_e2e.service.sqlite.BUSY_S", 0.2)  # of connections from now on
    with transaction(asked.desk.database.connection):
        answer = _post(client, *write_study(tmp_path, 1, 1))
    assert _code(answer) == (503, "busy")
    assert "retry-after" in answer.headers
    assert _post(client, *write_study(tmp_path, 1, 1)).status_code == 202  # it was not acknowledged, and is sent again
    assert len(list(asked.desk.inbox.folder.glob("*/*"))) == 1


def test_nobody_is_named_but_where_identities_are_shown(
    asked: Asked, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    raw = canaries.write_raw(tmp_path / "raw")
    said = []
    with asked.client() as client:
        for path in sorted(raw.rglob("*")):
            if path.is_file():
                said.append(_post(client, path))
                said.append(client.post("/api/v1/studies", content=path.read_bytes()))
        said += [client.get(f"/api/v1/{path}") for path in ("models", "openapi.json", "studies?patient=CANARY&sort=x")]
        said.append(client.get("/metrics"))
        items = client.get("/api/v1/studies").json()["items"]
    assert items
    texts = "\n".join(f"{answer.headers} {answer.text}" for answer in said) + caplog.text
    texts += str([{name: value for name, value in item.items() if name != "identity"} for item in items])
    texts += str(asked.app.state.guard.audit.last(1000))
    assert not [word for word in canaries.EVERY_CANARY if word in texts]
    names = "\n".join(str(path) for path in asked.desk.settings.data.rglob("*"))
    assert not [word for word in canaries.EVERY_CANARY if word in names]
