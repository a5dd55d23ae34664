"""What a connection may cost: time for a request's head and body, bytes of a body, requests and connections at once.

uvicorn 0.54 by itself keeps connections that are idle, or whose head drips, for ever.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from rsna_e2e.service.addresses import Networks, counted_as

KIB, MIB, GIB = 2**10, 2**20, 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds. Times in seconds.

    bodies: bytes of a request's body at most, by the longest beginning of its path; of other paths `body_bytes`.
    body_window_s: a body that is waited for brings `body_bytes_per_s` on average over each window of so long.
    write_s: an answer of which the client takes nothing for so long is cut off. linger_s: so long an answer that
    refuses a body waits for what the client still sends, for it to be read.
    """

    head_s: float = 5.0
    keep_alive_s: int = 5
    head_bytes: int = 16 * KIB
    body_window_s: float = 10.0
    body_bytes_per_s: float = 32 * KIB
    body_bytes: int = MIB
    bodies: tuple[tuple[str, int], ...] = (("/api/v1/studies", 4 * GIB), ("/api/v1/uploads", GIB // 2))
    write_s: float = 30.0
    linger_s: float = 2.0
    requests: int = 64
    connections: int = 512
    connections_per_address: int = 64
    exempt: frozenset[str] = frozenset({"/healthz"})

    def body_of(self, path: str) -> int:
        """Bytes at most of a body that is sent to `path`."""
        found = [(len(start), most) for start, most in self.bodies if path == start or path.startswith(f"{start}/")]
        return max(found)[1] if found else self.body_bytes


class Connections:
    """All connections of a server: how many an address has, and those of which no whole head came yet, oldest first."""

    def __init__(self, limits: Limits, proxies: Networks) -> None:
        self._limits, self._proxies = limits, proxies
        self._n_of: Counter[str] = Counter()
        self._counted: set[BoundedProtocol] = set()
        self._waiting: dict[BoundedProtocol, None] = {}

    def add(self, one: "BoundedProtocol") -> bool:
        """Count a connection; at a limit, one that still waits for its head makes room. False if there is none."""
        is_proxy = one.address in self._proxies  # whose connections are those of many people
        if not is_proxy and self._n_of[one.counted] >= self._limits.connections_per_address and not self._drop(one):
            return False
        if len(self._counted) >= self._limits.connections and not self._drop(None):
            return False
        self._n_of[one.counted] += 1
        self._counted.add(one)
        self._waiting[one] = None
        return True

    def _drop(self, like: "BoundedProtocol | None") -> bool:
        """Drop the one that waits longest, of the address of `like` if that is given."""
        found = next((one for one in self._waiting if like is None or one.counted == like.counted), None)
        if found is not None:
            self.remove(found)
            found.transport.abort()
        return found is not None

    def note_head(self, one: "BoundedProtocol") -> None:
        """A whole head came: this connection makes room for no other any more."""
        self._waiting.pop(one, None)

    def remove(self, one: "BoundedProtocol") -> None:
        """Count it no more, if it was."""
        self._waiting.pop(one, None)
        if one in self._counted:
            self._counted.remove(one)
            self._n_of[one.counted] -= 1
            if self._n_of[one.counted] == 0:
                del self._n_of[one.counted]


class BoundedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with deadlines: for a head, for what comes after an answer, and for answers nobody takes."""

    limits: Limits
    pool: Connections  # both are set by `server_options`

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.address = self.counted = ""
        self._deadline: asyncio.TimerHandle | None = None
        self._write_check: asyncio.TimerHandle | None = None
        self._n_unwritten = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        self.counted = counted_as(self.address)
        if self.pool.add(self):
            self._arm()
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        if self._write_check is not None:
            self._write_check.cancel()
        self.pool.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_answered():  # what comes is a head, or a body that nobody reads: neither may drip
            self._arm()

    def handle_events(self) -> None:
        super().handle_events()
        if not self._is_answered():
            self._disarm()
            self.pool.note_head(self)

    def _is_answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _arm(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.limits.head_s, self._end)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _end(self) -> None:
        self.transport.close()
        self._watch_writes()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._watch_writes()  # closing waits for what is written to be taken

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_writes()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_check is not None and not self.transport.is_closing():
            self._write_check.cancel()
            self._write_check = None

    def _watch_writes(self) -> None:
        self._n_unwritten = self.transport.get_write_buffer_size()
        if self._write_check is None and self._n_unwritten:
            self._write_check = self.loop.call_later(self.limits.write_s, self._check_writes)

    def _check_writes(self) -> None:
        self._write_check = None
        if self.transport.get_write_buffer_size() >= self._n_unwritten:
            self.transport.abort()
        else:
            self._watch_writes()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP; within a request the connection is closed, as no answer fits any more."""
        if self._is_answered():
            self.transport.write(_NO_HTTP)
        self.transport.close()
        self._watch_writes()


_NO_HTTP_BODY = b'{"type":"about:blank","title":"Bad Request","status":400,"code":"no_http","detail":""}'
_NO_HTTP = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\nx-content-type-options: nosniff\r\n"
    b"cache-control: no-store\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(_NO_HTTP_BODY)
) + _NO_HTTP_BODY


def server_options(limits: Limits, proxies: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the arguments of `uvicorn.Config` that the limits need, for one server.

    proxies: addresses whose connections are those of many clients. uvicorn's own trust in headers of proxies is off,
    since whoever connects over the loopback would be trusted, and its logs too: they have texts of peers.
    """
    pool = Connections(limits, Networks(proxies))
    return {
        "http": type("Protocol", (BoundedProtocol,), {"limits": limits, "pool": pool}),
        "ws": "none",
        "timeout_keep_alive": limits.keep_alive_s,
        "h11_max_incomplete_event_size": limits.head_bytes,
        "proxy_headers": False,
        "server_header": False,
        "access_log": False,
        "log_config": None,
    }
