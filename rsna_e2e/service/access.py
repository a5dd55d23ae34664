"""Who makes a request, and whether it comes from where it says.

A caller is known by a bearer token, by a trusted proxy's header, or by the cookie of a session, in this order. What
`Access` finds is in `request.state`: `caller` (or None), and `address`.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from rsna_e2e.service.accounts import Accounts
from rsna_e2e.service.addresses import Networks, plain
from rsna_e2e.service.audit import Audit
from rsna_e2e.service.callers import Caller
from rsna_e2e.service.headers import Headers, only, values
from rsna_e2e.service.problems import ProblemError, response_of

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")
OWN_PAGE = "rsna_e2e"  # value of X-Requested-With, which only a page of the service can send
SAFE_METHODS = ("GET", "HEAD")
_FORWARDED = (b"forwarded", b"x-real-ip")  # and all that begin with x-forwarded-
_N_THREADS = 4  # looking callers up must not wait for routes that hold the framework's threads


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessSettings:
    """Where the service is reached.

    hosts: names that it is asked by, as in the Host header without a port. is_https: whether browsers reach it by
    https, here or at a proxy. proxies: addresses and networks of proxies that are trusted to say who the user is, in
    `proxy_header`, and which client they speak for, in X-Forwarded-For; they must hand the Host header on.
    """

    hosts: tuple[str, ...] = LOOPBACK_HOSTS
    is_https: bool = False
    proxies: tuple[str, ...] = ()
    proxy_header: str = "x-forwarded-user"

    def __post_init__(self) -> None:
        """Raises UsageError for proxies that are no addresses."""
        Networks(self.proxies)

    @property
    def cookie(self) -> str:
        """Name of the cookie; browsers keep one with this prefix to one host, and to https (RFC 6265bis 4.1.3)."""
        return "__Host-rsna_e2e" if self.is_https else "rsna_e2e"


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """What routes need to ask for callers and to keep the audit: `request.app.state.guard`."""

    accounts: Accounts
    audit: Audit
    settings: AccessSettings


def guard_of(request: Request) -> Guard:
    """The guard of the application that a request came to."""
    guard: Guard = request.app.state.guard
    return guard


class Access:
    """ASGI middleware: refuses other hosts and requests of other sites' pages, and finds the caller."""

    def __init__(self, app: ASGIApp, guard: Guard, open_paths: frozenset[str]) -> None:
        """open_paths: of probes, which ask by any Host."""
        self._app, self._accounts, self._settings = app, guard.accounts, guard.settings
        self._proxies = Networks(guard.settings.proxies)
        self._proxy_header = guard.settings.proxy_header.lower().encode()
        self._hosts = frozenset(host.lower() for host in guard.settings.hosts)
        self._open_paths = open_paths
        self._threads = ThreadPoolExecutor(_N_THREADS, thread_name_prefix="access")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        peer = (scope.get("client") or ("",))[0]
        state["address"], state["caller"] = self._client(peer, scope["headers"]), None
        named = values(scope["headers"], self._proxy_header) if peer in self._proxies else []
        scope["headers"] = self._stripped(peer, scope["headers"])
        try:
            self._check_host(scope)
            state["caller"] = await self._caller(scope, named)
        except ProblemError as problem:
            await response_of(problem, scope)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _client(self, peer: str, headers: Headers) -> str:
        """The address of the client: the peer's, or the last that trusted proxies had a request from."""
        if peer in self._proxies:
            for address in reversed(",".join(values(headers, b"x-forwarded-for")).split(",")):
                if address.strip() not in self._proxies:
                    return plain(address.strip()) or plain(peer)
        return plain(peer)

    def _stripped(self, peer: str, headers: Headers) -> Headers:
        """The headers without the name of a user, and from peers that are not trusted without any that proxies make."""
        is_trusted = peer in self._proxies
        return [
            (name, value)
            for name, value in headers
            if name != self._proxy_header
            and (is_trusted or not (name in _FORWARDED or name.startswith(b"x-forwarded-")))
        ]

    def _check_host(self, scope: Scope) -> None:
        """Pages of others whose name was pointed at this machine ask by that name (DNS rebinding)."""
        host = only(values(scope["headers"], b"host")) or ""
        name = host.lower().rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host.lower()
        if name not in self._hosts and scope["path"] not in self._open_paths:
            raise ProblemError(421, "unknown_host", detail="The service is not known by this name")

    async def _caller(self, scope: Scope, named: list[str]) -> Caller | None:
        authorization = values(scope["headers"], b"authorization")
        if authorization:
            scheme, _, secret = (only(authorization) or "").partition(" ")
            is_bearer = scheme.lower() == "bearer"
            return await self._find(self._accounts.caller_of_token, secret.strip()) if is_bearer else None
        cookie = session_cookie(scope["headers"], self._settings.cookie)
        if named:
            name = only(named)
            caller = None if name is None else await self._find(self._accounts.caller_by_proxy, name)
        elif cookie is not None:
            # A page that waits for changes does so by itself, whether or not somebody is there
            is_waiting = b"after=" in scope["query_string"] and scope["method"] in SAFE_METHODS
            caller = await self._find(partial(self._accounts.caller_of_session, is_activity=not is_waiting), cookie)
        else:
            return None
        # Browsers add cookies, of the proxy too, to requests that pages of others make
        if caller is not None and scope["method"] not in SAFE_METHODS:
            check_own_page(scope["headers"], self._settings)
        return caller

    async def _find(self, look_up: Callable[[str], Caller | None], secret: str) -> Caller | None:
        return await asyncio.get_running_loop().run_in_executor(self._threads, look_up, secret)


def session_cookie(headers: Headers, name: str) -> str | None:
    """The value of the session's cookie, if there is one alone."""
    pairs = [pair.strip().partition("=") for text in values(headers, b"cookie") for pair in text.split(";")]
    return only([value for key, _, value in pairs if key == name])


def check_own_page(headers: Headers, settings: AccessSettings) -> None:
    """Raise ProblemError unless a page of the service made the request: only such a one may change what cookies allow.

    X-Requested-With cannot be sent to another origin unasked, and nothing here allows it. Browsers say in
    Sec-Fetch-Site and Origin where a request comes from; one of them must be there, and none may say otherwise.
    """
    site, origin, host = (values(headers, name) for name in (b"sec-fetch-site", b"origin", b"host"))
    own = f"{'https' if settings.is_https else 'http'}://{only(host)}"
    is_own = (
        values(headers, b"x-requested-with") == [OWN_PAGE]
        and bool(site or origin)
        and all(text in ("same-origin", "none") for text in site)
        and all(text.lower() == own.lower() for text in origin)
    )
    if not is_own:
        detail = f"Only pages of the service may do this, with X-Requested-With: {OWN_PAGE}"
        raise ProblemError(403, "cross_site", detail=detail)
