"""Who gets in, and from where: every route, each way of being known, and what pages of others may not do."""

import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import Depends, FastAPI
from guarded import OWN_PAGE, PASSWORD, PLANTED, Served, served

from rsna_e2e.core.errors import UsageError
from rsna_e2e.service.access import AccessSettings
from rsna_e2e.service.callers import ROLES
from rsna_e2e.service.roles import anyone, declared_roles, needs

pytestmark = pytest.mark.needs_serve

STUDY = "/api/v1/studies/0123456789abcdef"


@pytest.fixture
def client(service: Served) -> Iterator[httpx.Client]:
    service.accounts._connection.execute("DELETE FROM tries")
    with service.client() as made:
        yield made


def log_in(client: httpx.Client, **credentials: str) -> httpx.Response:
    return client.post("/api/v1/login", json=credentials or {"name": "anna", "password": PASSWORD}, headers=OWN_PAGE)


def code(answer: httpx.Response) -> str:
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == answer.status_code
    return str(answer.json()["code"])


def test_every_route_asks_for_the_role_it_declares(service: Served, client: httpx.Client) -> None:
    declared = declared_roles(service.app)
    assert declared["DELETE", "/api/v1/studies/{study}"] == "admin"
    assert declared["POST", "/api/v1/login"] is None
    guarded = {key: role for key, role in declared.items() if role is not None}
    assert len(guarded) == 5
    for (method, path), role in guarded.items():
        url = path.replace("{study}", "0123456789abcdef")
        answer = client.request(method, url)
        assert (answer.status_code, code(answer)) == (401, "unauthenticated")
        assert answer.headers["www-authenticate"] == "Bearer"
        for other in ROLES:
            answer = client.request(method, url, headers=service.as_role(other))
            if ROLES.index(other) < ROLES.index(role):
                assert (answer.status_code, code(answer)) == (403, "forbidden")
                assert service.audit.last(1)[0]["actor"] == f"a-{other}"
                assert service.audit.last(1)[0]["outcome"] == f"needs {role}"
            else:
                assert answer.is_success


def test_a_route_that_declares_nothing_or_two_things_is_found() -> None:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.get("/a", dependencies=[Depends(anyone)])(lambda: None)
    assert declared_roles(app) == {("GET", "/a"): None}
    app.get("/b")(lambda: None)
    with pytest.raises(ValueError, match="/b: declares 0 roles"):
        declared_roles(app)
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.get("/c", dependencies=[Depends(anyone), Depends(needs("read"))])(lambda: None)
    with pytest.raises(ValueError, match="/c: declares 2 roles"):
        declared_roles(app)


@pytest.mark.parametrize(
    "authorization",
    [
        *("", "Bearer", "Bearer rsna_", "Bearer x y", "Basic YW5uYTphbm5h", "Negotiate", "Bearer \xff\x80"),
        f"Bearer {'a' * 5000}",
    ],
)
def test_wrong_tokens(client: httpx.Client, authorization: str) -> None:
    answer = client.get(STUDY, headers={"Authorization": authorization.encode("latin-1")})
    assert (answer.status_code, code(answer)) == (401, "unauthenticated")
    assert client.get("/healthz", headers={"Authorization": authorization.encode("latin-1")}).status_code == 200


def test_tokens_that_are_expired_revoked_twice_or_another(service: Served, client: httpx.Client) -> None:
    def status(secret: str) -> int:
        return client.get(STUDY, headers={"Authorization": f"bearer {secret}"}).status_code

    expired = service.accounts.add_token("expired", "read", expires_s=-1)
    revoked = service.accounts.add_token("revoked", "read")
    once = service.accounts.add_token("once", "read", is_once=True)
    right = service.tokens["read"]
    assert (status(right), status(revoked), status(expired), status(once)) == (200, 200, 401, 401)
    service.accounts.revoke_token("revoked")
    assert status(revoked) == 401
    twice = [("Authorization", f"Bearer {right}"), ("Authorization", f"Bearer {right}")]
    assert client.get(STUDY, headers=twice).status_code == 401


def test_a_wrong_token_is_not_helped_by_a_cookie(client: httpx.Client) -> None:
    log_in(client)
    assert client.get(STUDY).json()["how"] == "login"
    assert client.get(STUDY, headers={"Authorization": "Bearer rsna_no"}).status_code == 401


def test_login_me_and_logout(service: Served, client: httpx.Client) -> None:
    answer = log_in(client)
    assert (answer.status_code, answer.json()) == (200, {"name": "anna", "role": "read"})
    assert service.audit.last(1)[0]["action"] == "login"
    assert service.audit.last(1)[0]["address"] == "127.0.0.1"
    attributes = {part.strip().partition("=")[0].lower() for part in answer.headers["set-cookie"].split(";")}
    assert attributes == {"rsna_e2e", "httponly", "path", "samesite"}
    assert "samesite=strict" in answer.headers["set-cookie"].lower()
    assert client.get("/api/v1/me").json() == {"name": "anna", "role": "read", "csrf": "rsna_e2e"}
    cookie = client.cookies["rsna_e2e"]
    assert client.post("/api/v1/logout", headers=OWN_PAGE).status_code == 204
    assert service.audit.last(1)[0]["action"] == "logout"
    assert client.cookies.get("rsna_e2e") is None
    assert client.get("/api/v1/me", headers={"Cookie": f"rsna_e2e={cookie}"}).status_code == 401


def test_a_new_login_ends_the_session_before(client: httpx.Client) -> None:
    log_in(client)
    before = client.cookies["rsna_e2e"]
    log_in(client)
    assert client.cookies["rsna_e2e"] != before
    assert client.get("/api/v1/me").status_code == 200
    assert client.get("/api/v1/me", headers={"Cookie": f"rsna_e2e={before}"}).status_code == 401


def test_an_idle_session_is_over_and_waiting_is_idle(tmp_path: Path) -> None:
    with served(tmp_path) as service, service.client() as client:
        log_in(client)
        for _ in range(4):
            service.clock.later_s += 1000
            assert client.get("/api/v1/me").status_code == 200
        service.clock.later_s += 1000
        assert client.get("/api/v1/me?after=7").status_code == 200
        service.clock.later_s += 1000
        assert client.get("/api/v1/me").status_code == 401


def test_two_cookies_of_one_name_are_none(client: httpx.Client) -> None:
    log_in(client)
    cookie = f"rsna_e2e={client.cookies['rsna_e2e']}"
    client.cookies.clear()
    assert client.get("/api/v1/me", headers={"Cookie": f"other=1; {cookie}"}).status_code == 200
    for twice in ([("Cookie", f"rsna_e2e=x; {cookie}")], [("Cookie", cookie), ("Cookie", "rsna_e2e=x")]):
        assert client.get("/api/v1/me", headers=twice).status_code == 401


def test_the_cookie_of_https(tmp_path: Path) -> None:
    access = AccessSettings(hosts=("ct.example.org",), is_https=True, proxies=("127.0.0.1",))
    with served(tmp_path, access=access) as service, service.client() as client:
        host = {"Host": "ct.example.org"}
        login = {"json": {"name": "anna", "password": PASSWORD}}
        wrong = client.post("/api/v1/login", **login, headers={**host, **OWN_PAGE, "Origin": "http://ct.example.org"})
        assert code(wrong) == "cross_site"
        answer = client.post("/api/v1/login", **login, headers={**host, **OWN_PAGE, "Origin": "https://ct.example.org"})
        name, *attributes = [part.strip().lower() for part in answer.headers["set-cookie"].split(";")]
        assert name.startswith("__host-rsna_e2e=")
        assert set(attributes) == {"httponly", "path=/", "samesite=strict", "secure"}


def test_one_time_and_other_tokens_log_in(service: Served, client: httpx.Client) -> None:
    once = service.accounts.add_token("link", "admin", is_once=True)
    assert log_in(client, token=once).json() == {"name": "link", "role": "admin"}
    assert client.get("/api/v1/me").json()["role"] == "admin"
    again = log_in(client, token=once)
    assert (again.status_code, code(again)) == (401, "wrong_credentials")
    assert log_in(client, token=service.tokens["upload"]).json() == {"name": "a-upload", "role": "upload"}


def test_who_tries_is_not_named_unless_it_is_a_user(service: Served, client: httpx.Client) -> None:
    bodies = [
        log_in(client, name=name, password=password)
        for name, password in (("anna", "wrong"), (PLANTED, "wrong"), ("anna", ""), ("", ""))
    ]
    assert {(answer.status_code, answer.text) for answer in bodies} == {(401, bodies[0].text)}
    assert [row["actor"] for row in service.audit.last(4)] == ["anna", "-", "anna", "-"]


def test_five_tries_a_minute(client: httpx.Client) -> None:
    answers = [log_in(client, name=f"somebody-{number}", password="x") for number in range(6)]
    assert [answer.status_code for answer in answers] == [401] * 5 + [429]
    assert code(answers[5]) == "too_many_tries"
    assert 50 <= int(answers[5].headers["retry-after"]) <= 60
    assert log_in(client).status_code == 429  # from this address nobody


def test_no_account_is_told_apart_by_time(service: Served, client: httpx.Client) -> None:
    service.accounts.add_user("bertha", "read", PASSWORD)
    times_s: dict[str, list[float]] = {"bertha": [], "nobody": []}
    for _ in range(5):
        for name, of_name in times_s.items():
            service.accounts._connection.execute("DELETE FROM tries")
            began_s = time.monotonic()
            assert log_in(client, name=name, password="x").status_code == 401
            of_name.append(time.monotonic() - began_s)
    known, unknown = map(statistics.median, times_s.values())
    assert 0.5 < unknown / known < 2


OWN, SITE, FOREIGN = "rsna_e2e", "same-origin", "http://evil.example"


@pytest.mark.parametrize(
    ("requested", "site", "origin", "is_taken"),
    [
        (OWN, SITE, None, True),
        (OWN, "none", None, True),
        (OWN, None, "own", True),
        (OWN, SITE, "own", True),
        (None, SITE, "own", False),
        ("XMLHttpRequest", SITE, "own", False),
        (OWN, None, None, False),
        (OWN, "cross-site", None, False),
        (OWN, "same-site", "own", False),
        (OWN, "", None, False),
        (OWN, SITE, FOREIGN, False),
        (OWN, None, "null", False),
        (OWN, None, "https-own", False),
        (OWN, None, "other-port", False),
    ],
)
def test_cookies_change_things_from_own_pages_alone(
    service: Served, client: httpx.Client, requested: str | None, site: str | None, origin: str | None, is_taken: bool
) -> None:
    origins = {"own": service.url, "https-own": service.url.replace("http", "https"), "other-port": service.url[:-1]}
    given = {"X-Requested-With": requested, "Sec-Fetch-Site": site, "Origin": origins.get(origin or "", origin)}
    headers = {name: value for name, value in given.items() if value is not None}
    login = client.post("/api/v1/login", json={"token": service.tokens["upload"]}, headers=headers)
    assert login.status_code == (200 if is_taken else 403)  # login of another's user too
    log_in(client, token=service.tokens["upload"])
    answer = client.post("/api/v1/studies", headers=headers)
    assert answer.status_code == (200 if is_taken else 403)
    assert is_taken or code(answer) == "cross_site"
    assert client.get(STUDY, headers={**headers, "X-Requested-With": ""}).status_code == 200  # reading changes nothing
    assert client.post("/api/v1/studies", headers={**headers, **service.as_role("upload")}).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *(("localhost", 200), ("localhost:1", 200), ("LOCALHOST", 200), ("[::1]:80", 200), ("127.0.0.1", 200)),
        *(("evil.example", 421), ("127.0.0.1.evil.example", 421), ("evil.example:8600", 421), ("", 421)),
        *(("localhost:", 421), ("a@localhost", 421), ("localhost:80:80", 421), ("[::1", 421)),
    ],
)
def test_hosts(client: httpx.Client, service: Served, host: str, status: int) -> None:
    answer = client.get(STUDY, headers={"Host": host, **service.as_role("read")})
    assert answer.status_code == status
    assert status == 200 or code(answer) == "unknown_host"
    assert client.get("/healthz", headers={"Host": host}).status_code == 200


def test_no_host_at_all(service: Served) -> None:
    with service.connect() as connection:
        connection.sendall(b"GET /api/v1/me HTTP/1.0\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 421")


@pytest.mark.parametrize("path", ["/api/v1/seen", "/healthz", "/no/such", "/api/v1/broken/x", STUDY])
def test_headers_of_every_answer(client: httpx.Client, path: str) -> None:
    headers = client.get(path).headers
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    expected = {
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "cache-control": "no-store",
    }
    assert {name: headers[name] for name in expected} == expected
    assert "server" not in headers
    assert not [name for name in headers if name.startswith("access-control")]


def test_a_route_may_be_kept_and_have_a_policy(client: httpx.Client) -> None:
    headers = client.get("/api/v1/own").headers
    assert headers["cache-control"] == "private, immutable"
    assert headers["content-security-policy"] == "default-src 'self'"


FORGED = {
    "X-Forwarded-User": "anna",
    "X-Forwarded-For": "203.0.113.9",
    "X-Real-Ip": "203.0.113.9",
    "Forwarded": "for=x",
}


def test_a_proxys_headers_are_dropped_from_all_others(client: httpx.Client) -> None:
    answer = client.get("/api/v1/seen", headers=FORGED).json()
    assert (answer["address"], answer["caller"]) == ("127.0.0.1", None)
    assert not {"x-forwarded-user", "x-forwarded-for", "x-real-ip", "forwarded"} & set(answer["headers"])
    assert client.get("/api/v1/me", headers=FORGED).status_code == 401


def test_a_trusted_proxy(tmp_path: Path) -> None:
    access = AccessSettings(proxies=("127.0.0.1", "10.0.0.0/8"))
    with served(tmp_path, access=access) as service, service.client() as client:
        answer = client.get("/api/v1/seen", headers=FORGED).json()
        assert (answer["address"], answer["caller"]) == ("203.0.113.9", "anna")
        assert "x-forwarded-user" not in answer["headers"]
        for chain in ("6.6.6.6, 203.0.113.9", "6.6.6.6, 203.0.113.9, 10.1.1.1, 127.0.0.1"):
            assert client.get("/api/v1/seen", headers={"X-Forwarded-For": chain}).json()["address"] == "203.0.113.9"
        assert client.get("/api/v1/seen", headers={"X-Forwarded-For": PLANTED}).json()["address"] == "127.0.0.1"
        for name in ("nobody", "anna\xe9", ""):
            assert client.get("/api/v1/me", headers={"X-Forwarded-User": name.encode("latin-1")}).status_code == 401
        twice = [("X-Forwarded-User", "anna"), ("X-Forwarded-User", "anna")]
        assert client.get("/api/v1/me", headers=twice).status_code == 401
        # A proxy knows people by a cookie of its own
        assert code(client.post("/api/v1/logout", headers=FORGED)) == "cross_site"
        assert client.post("/api/v1/logout", headers=FORGED | OWN_PAGE).status_code == 204


def test_proxies_are_addresses() -> None:
    with pytest.raises(UsageError, match="proxy"):
        AccessSettings(proxies=("proxy",))
