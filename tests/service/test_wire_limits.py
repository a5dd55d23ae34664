"""What clients that are slow, many or greedy get, while a good one is served as before."""

import gzip
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import pytest
from guarded import SHORT, Served, served

from rsna_e2e.service.access import AccessSettings
from rsna_e2e.service.limits import GIB, Limits

pytestmark = pytest.mark.needs_serve

SLACK_S = 2.0  # of a loaded machine, beyond a deadline
SOON_S = 0.2  # before it, nothing is closed


def closes_after_s(connection: socket.socket, sent: bytes = b"", *, every_s: float = 0.1) -> tuple[float, bytes]:
    """Send one byte of `sent` after the other, until the server closes; how long that took, and what it said."""
    began_s, said = time.monotonic(), b""
    connection.settimeout(every_s)
    for number in range(200):
        try:
            connection.sendall(sent[number : number + 1])
            got = connection.recv(4096)
        except TimeoutError:
            continue
        except (ConnectionResetError, BrokenPipeError):
            break
        said += got
        if not got:
            break
    else:
        raise AssertionError("it is still open")
    return time.monotonic() - began_s, said


def test_connections_without_a_whole_head_are_closed(service: Served) -> None:
    head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + b"a" * 500
    for sent in (b"", head[:20], head):  # idle; stops; drips
        with service.connect() as connection:
            connection.sendall(sent[:10])
            taken_s, said = closes_after_s(connection, sent[10:] if len(sent) > 20 else b"")
            assert SHORT.head_s - SOON_S < taken_s < SHORT.head_s + SLACK_S
            assert said == b""


def test_a_second_head_may_not_drip_either(service: Served) -> None:
    with service.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        taken_s, _ = closes_after_s(connection, b"GET /healthz HTTP/1.1\r\nX-Slow: " + b"a" * 500)
        assert SHORT.head_s - SOON_S < taken_s < SHORT.head_s + SLACK_S
    with service.connect() as connection:  # idle, it is kept for as long as uvicorn was told
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert SHORT.keep_alive_s - SOON_S < closes_after_s(connection)[0] < SHORT.keep_alive_s + SLACK_S


def test_a_slow_route_is_no_slow_head(client: httpx.Client) -> None:
    assert client.get(f"/api/v1/slow?s={SHORT.head_s + SHORT.keep_alive_s + 0.2}").status_code == 200


def test_a_body_that_nobody_reads_may_not_drip(service: Served) -> None:
    with service.connect() as connection:
        connection.sendall(b"POST /none HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n\r\n")
        taken_s, said = closes_after_s(connection, b"a" * 999)
        assert said.startswith(b"HTTP/1.1 404")
        assert taken_s < SHORT.head_s + SLACK_S


def chunked(n_bytes: int) -> Iterator[bytes]:
    for _ in range(n_bytes // 50_000):
        yield bytes(50_000)
    yield bytes(n_bytes % 50_000)


@pytest.mark.parametrize("has_length", [True, False])
def test_bodies_that_are_too_large(service: Served, client: httpx.Client, has_length: bool) -> None:
    def post(path: str, n_bytes: int) -> httpx.Response:
        return client.post(path, content=bytes(n_bytes) if has_length else chunked(n_bytes), headers=upload)

    upload = service.as_role("upload")
    assert post("/api/v1/studies", 1000).json() == {"n_bytes": 1000}
    assert post("/api/v1/large", 200_000).json() == {"n_bytes": 200_000}
    for path, n_bytes in (("/api/v1/studies", 1001), ("/api/v1/large", 200_001), ("/api/v1/large", 30_000_000)):
        answer = post(path, n_bytes)
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
        assert answer.headers["connection"] == "close"
        assert answer.headers["cache-control"] == "no-store"


def test_a_refused_body_is_taken_for_a_while(service: Served) -> None:
    """Or clients that send all before they read see a broken connection instead of the answer."""
    with service.connect() as connection:
        connection.sendall(b"POST /api/v1/large HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200001\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")
        for _ in range(3):
            time.sleep(SHORT.linger_s / 10)
            connection.sendall(bytes(1000))
        assert closes_after_s(connection, bytes(900))[0] < SHORT.linger_s + SLACK_S


def test_lengths_that_are_none(service: Served) -> None:
    for length in (b"-1", b"1e3", b"9" * 30, b"9" * 5000, b"1, 2", b"+5", b"0x10"):
        with service.connect() as connection:
            connection.sendall(b"POST /api/v1/large HTTP/1.1\r\nHost: a\r\nContent-Length: " + length + b"\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 400")


def test_the_longest_beginning_of_a_path_decides() -> None:
    limits = Limits(bodies=(("/a", 5), ("/a/b", 7)), body_bytes=1)
    assert [limits.body_of(path) for path in ("/a", "/a/x", "/a/b", "/a/b/c", "/a/bc", "/ab", "/")] == [
        5,
        5,
        7,
        7,
        5,
        1,
        1,
    ]
    assert Limits().body_of("/api/v1/studies") == 4 * GIB


def test_packed_bodies_are_refused(client: httpx.Client) -> None:
    body = gzip.compress(bytes(100))
    for encoding in ("gzip", "identity, gzip", "GZIP", "br"):
        answer = client.post("/api/v1/large", content=body, headers={"Content-Encoding": encoding})
        assert (answer.status_code, answer.json()["code"]) == (415, "content_encoding")
        assert answer.headers["accept-encoding"] == "identity"
    assert client.post("/api/v1/large", content=body, headers={"Content-Encoding": "Identity"}).status_code == 200


def test_a_dripping_body_is_given_up(service: Served) -> None:
    for head in (b"Content-Length: 999", b"Transfer-Encoding: chunked"):
        with service.connect() as connection:
            connection.sendall(b"POST /api/v1/large HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n\r\n")
            taken_s, said = closes_after_s(connection, b"1\r\na\r\n" * 30)
            assert said.startswith(b"HTTP/1.1 408")
            assert b'"code": "too_slow"' in said
            assert SHORT.body_window_s - SOON_S < taken_s < SHORT.body_window_s + SLACK_S


def test_a_body_that_begins_fast_may_not_stop(service: Served) -> None:
    with service.connect() as connection:
        connection.sendall(b"POST /api/v1/large HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200000\r\n\r\n")
        connection.sendall(bytes(100_000))
        taken_s, said = closes_after_s(connection)
        assert said.startswith(b"HTTP/1.1 408")
        assert taken_s < 2 * SHORT.body_window_s + SLACK_S


def test_a_body_of_the_least_rate_is_taken(service: Served, client: httpx.Client) -> None:
    def body() -> Iterator[bytes]:
        for _ in range(15):  # 1.5 s, three windows
            time.sleep(0.1)
            yield bytes(1000)

    assert client.post("/api/v1/large", content=body()).json() == {"n_bytes": 15_000}


def test_requests_at_once(service: Served, client: httpx.Client) -> None:
    answers = []

    def ask() -> None:
        with service.client() as own:
            answers.append(own.get("/api/v1/slow?s=1.5").status_code)

    threads = [threading.Thread(target=ask) for _ in range(SHORT.requests)]
    for thread in threads:
        thread.start()
    time.sleep(0.7)
    answer = client.get("/api/v1/seen")
    assert client.get("/healthz").status_code == 200
    for thread in threads:
        thread.join()
    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "overloaded", "1")
    assert answers == [200] * SHORT.requests
    assert client.get("/api/v1/seen").status_code == 200


def test_an_answer_that_nobody_takes_is_cut_off(service: Served, client: httpx.Client) -> None:
    service.app.state.n_ended = 0
    with ExitStack() as stack:
        for _ in range(SHORT.requests):
            connection = stack.enter_context(service.connect())
            connection.sendall(b"GET /api/v1/endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for _ in range(100):
            if service.app.state.n_ended == SHORT.requests:
                break
            time.sleep(0.1)
        assert service.app.state.n_ended == SHORT.requests
        assert client.get("/api/v1/seen").status_code == 200


def test_an_answer_that_is_taken_goes_on(client: httpx.Client) -> None:
    with client.stream("GET", "/api/v1/endless") as answer:
        began_s, n_bytes = time.monotonic(), 0
        for chunk in answer.iter_raw():
            n_bytes += len(chunk)
            if time.monotonic() - began_s > 3 * SHORT.write_s:
                break
            time.sleep(0.02)
    assert n_bytes > 10 * 2**16


def p99_s(client: httpx.Client, n: int = 150) -> float:
    times_s = []
    for _ in range(n):
        began_s = time.monotonic()
        assert client.get("/api/v1/seen").status_code == 200
        times_s.append(time.monotonic() - began_s)
    return float(np.percentile(times_s, 99))


FLOOR_S = 0.1  # a machine that others load too


def test_many_idle_connections_are_in_nobodys_way(service: Served, client: httpx.Client) -> None:
    """200 connections, idle or dripping: above those of an address, the oldest without a head make room."""
    undisturbed_s = p99_s(client)
    with ExitStack() as stack:
        for number in range(200):
            stack.enter_context(service.connect()).sendall(b"GET / HTTP/1.1\r\nX: "[: number % 18])
        disturbed_s = p99_s(client)
        with service.client() as newcomer:
            assert newcomer.get("/api/v1/seen").status_code == 200
    assert disturbed_s < 2 * undisturbed_s + FLOOR_S


def test_connections_of_one_address_and_of_all(tmp_path: Path) -> None:
    """A connection whose request is being answered makes no room; then a new one is closed."""
    limits = Limits(connections_per_address=2, connections=3, requests=9)
    with served(tmp_path, limits=limits) as few, ExitStack() as stack:
        for _ in range(2):
            busy = stack.enter_context(few.connect())
            busy.sendall(b"GET /api/v1/slow?s=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(0.3)
        assert closes_after_s(stack.enter_context(few.connect()))[0] < 0.5
        other = stack.enter_context(socket.create_connection(("127.0.0.1", few.port), source_address=("127.0.0.2", 0)))
        other.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert other.recv(100).startswith(b"HTTP/1.1 200")
        third = stack.enter_context(socket.create_connection(("127.0.0.1", few.port), source_address=("127.0.0.3", 0)))
        assert closes_after_s(third)[0] < 0.5
        assert busy.recv(100).startswith(b"HTTP/1.1 200")


def test_the_oldest_without_a_head_makes_room(tmp_path: Path) -> None:
    with served(tmp_path, limits=Limits(connections_per_address=2)) as service, ExitStack() as stack:
        first, second, third = (stack.enter_context(service.connect()) for _ in range(3))
        assert closes_after_s(first)[0] < 1
        for connection in (second, third):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200")


def test_a_proxy_speaks_for_many(tmp_path: Path) -> None:
    limits, access = Limits(connections_per_address=1), AccessSettings(proxies=("127.0.0.1",))
    with served(tmp_path, limits=limits, access=access) as service, ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(service.connect()).sendall(b"GET /api/v1/slow?s=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(0.2)
        assert stack.enter_context(service.client()).get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),  # TLS
        b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX Y: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /\xff\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTX/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * 100_000 + b"\r\n",
        b"GET /" + b"a" * 40_000,
    ],
    ids=range(10),
)
def test_hostile_heads(service: Served, client: httpx.Client, sent: bytes) -> None:
    with service.connect() as connection:
        connection.sendall(sent)
        taken_s, said = closes_after_s(connection)
    assert said == b"" or said.startswith(b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\n")
    assert said or len(sent) > SHORT.head_bytes  # closed with bytes of ours unread, the answer may be lost
    assert taken_s < SLACK_S
    assert client.get("/healthz").status_code == 200


def test_no_http_within_a_body(service: Served) -> None:
    with service.connect() as connection:
        connection.sendall(
            b"POST /api/v1/large HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
        )
        assert closes_after_s(connection)[0] < SLACK_S


def test_pipelined_requests_are_answered_in_order(service: Served) -> None:
    head = b"GET /api/v1/slow?s=%s HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with service.connect() as connection:
        connection.sendall(head % b"0.3" + head % b"0" + head[:10])
        taken_s, said = closes_after_s(connection)
        assert said.count(b"HTTP/1.1 200") == 2
        assert said.index(b'"s":0.3') < said.index(b'"s":0.0')
        assert taken_s < 0.3 + SHORT.keep_alive_s + SLACK_S
