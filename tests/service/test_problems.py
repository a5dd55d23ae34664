"""Errors are problem details with stable codes, and say nothing of what was sent or where the program is."""

import logging
import sqlite3

import httpx
import pytest
from guarded import PLANTED

from rsna_e2e.service.problems import ProblemError, problem_of

pytestmark = pytest.mark.needs_serve


def problem(answer: httpx.Response) -> dict[str, object]:
    """The body, which has the members that RFC 9457 names and `code`, and nothing that was planted."""
    assert answer.headers["content-type"] == "application/problem+json"
    assert not [word for word in (PLANTED, "anary", "/data", ".py", "Traceback") if word in answer.text]
    body: dict[str, object] = answer.json()
    assert set(body) - {"instance"} == {"type", "title", "status", "code", "detail"}
    assert (body["type"], body["status"]) == ("about:blank", answer.status_code)
    return body


def test_unknown_paths_and_methods(client: httpx.Client) -> None:
    for path in (f"/{PLANTED}", f"/api/v1/{PLANTED}?q={PLANTED}", "/%00", "/api/v1/broken/../../etc/passwd"):
        found = problem(client.get(path))
        assert (found["status"], found["code"], found["title"]) == (404, "not_found", "Not Found")
        assert "instance" not in found
    answer = client.put("/api/v1/orders")
    assert problem(answer)["code"] == "method_not_allowed"
    assert answer.headers["allow"] == "POST"


def test_the_instance_holds_ids_alone(client: httpx.Client) -> None:
    for value, shown in (("0123456789abcdef", "0123456789abcdef"), ("u_0123456789abcdef",) * 2, (PLANTED, "-")):
        assert problem(client.get(f"/api/v1/studies/{value}"))["instance"] == f"/api/v1/studies/{shown}"


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"{}", "body.count: missing"),
        (b'{"count": "Planted^Canary"}', "body.count: int_parsing"),
        (b'{"count": 1, "Planted^Canary": 2}', "body: extra_forbidden"),
        (b'{"count": 1, "canary": 2}', "body: extra_forbidden"),
        (b'{"count": {"canary": 1}}', "body.count: int_type"),
        (b'{"Planted^Canary"', "body: json_invalid"),
        (b"[]", "body: model_attributes_type"),
        (b'"canary"', "body: model_attributes_type"),
    ],
)
def test_bodies_that_are_none(client: httpx.Client, body: bytes, detail: str) -> None:
    found = problem(client.post("/api/v1/orders", content=body, headers={"Content-Type": "application/json"}))
    assert (found["status"], found["code"], found["detail"]) == (422, "invalid_request", detail)


@pytest.mark.parametrize("body", [b"\xff\xfe", b"[" * 900, b'{"count": 1e999}'])
def test_bodies_that_are_hostile(client: httpx.Client, body: bytes) -> None:
    answer = client.post("/api/v1/orders", content=body, headers={"Content-Type": "application/json"})
    assert problem(answer)["status"] in (400, 422)


def test_wrong_parameters(client: httpx.Client) -> None:
    assert problem(client.get(f"/api/v1/slow?s={PLANTED}"))["detail"] == "query.s: float_parsing"


def test_what_nobody_foresaw(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        found = problem(client.get(f"/api/v1/broken/{PLANTED}"))
    assert (found["status"], found["code"]) == (500, "internal_error")
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("rsna_e2e")]
    assert len(ours) == 1
    assert ours[0].startswith("request failed: RuntimeError at service/")
    served = [record.getMessage() for record in caplog.records if not record.name.startswith("http")]  # the client's
    assert PLANTED not in "".join(served)
    assert client.get("/healthz").status_code == 200


def test_what_the_system_lacks(client: httpx.Client) -> None:
    answer = client.get("/api/v1/broken/busy")
    assert (problem(answer)["code"], answer.headers["retry-after"]) == ("busy", "5")
    assert answer.status_code == 503
    found = problem(client.get("/api/v1/broken/full"))
    assert (found["status"], found["code"]) == (507, "disk_full")


def test_errors_of_sqlite() -> None:
    connection = sqlite3.connect(":memory:")
    with pytest.raises(sqlite3.OperationalError) as caught:
        connection.execute("SELECT * FROM nothing")
    assert problem_of(caught.value) is None  # a fault of ours
    connection.execute("CREATE TABLE a (b)")
    connection.execute("PRAGMA max_page_count = 3")
    with pytest.raises(sqlite3.OperationalError) as caught:
        connection.execute("INSERT INTO a VALUES (zeroblob(100000))")
    found = problem_of(caught.value)
    assert found is not None
    assert found.code == "disk_full"
    connection.close()


def test_a_title_of_its_own() -> None:
    assert ProblemError(413, "study_too_large", "Too large").title == "Too large"
    assert ProblemError(404, "no_study").title == "Not Found"
