"""What a request may cost: bytes of its body and how fast they come, requests at once."""

import asyncio
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rsna_e2e.service.headers import only, values
from rsna_e2e.service.limits import Limits
from rsna_e2e.service.problems import ProblemError, response_of

_RETRY_S = 1
_CLOSE = {"Connection": "close"}


class RequestLimits:
    """ASGI middleware: refuses requests above `limits.requests` at once, and bodies that are too large or too slow."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app, self._limits = app, limits
        self._n_requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self._limits.exempt:
            await self._app(scope, receive, send)
            return
        if self._n_requests >= self._limits.requests:
            problem = ProblemError(503, "overloaded", headers={"Retry-After": str(_RETRY_S)} | _CLOSE)
            await response_of(problem, scope)(scope, receive, send)
            return
        self._n_requests += 1
        try:
            await _Exchange(scope, receive, send, self._limits).run(self._app)
        finally:
            self._n_requests -= 1


class _Exchange:
    """One request and its answer.

    Only the time in which the client is waited for counts against its rate, so a slow disk of ours does not.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits) -> None:
        self._scope, self._receive, self._send, self._limits = scope, receive, send, limits
        self._most = limits.body_of(scope["path"])
        self._refusal: ProblemError | None = None
        self._has_begun = self._is_body_over = False
        self._n_bytes = self._n_window_bytes = 0
        self._waited_s = 0.0

    async def run(self, app: ASGIApp) -> None:
        refusal = self._head_refusal()
        if refusal is None:
            try:
                await app(self._scope, self.receive, self.send)
            except Exception:
                if self._refusal is None or self._has_begun:
                    raise
            refusal = self._refusal
        if refusal is not None and not self._has_begun:
            await self._refuse(refusal)

    def _head_refusal(self) -> ProblemError | None:
        headers = self._scope["headers"]
        if any(text.strip().lower() != "identity" for text in values(headers, b"content-encoding")):
            accepted = {"Accept-Encoding": "identity"}  # RFC 9110 15.5.16
            return ProblemError(415, "content_encoding", headers=accepted | _CLOSE)
        length = int(only(values(headers, b"content-length")) or 0)  # digits once, as h11 takes no other
        return self._too_large() if length > self._most else None

    def _too_large(self) -> ProblemError:
        return ProblemError(413, "too_large", detail=f"At most {self._most} bytes are taken here", headers=_CLOSE)

    async def receive(self) -> Message:
        if self._is_body_over or self._has_begun:
            return await self._receive()
        message = await self._receive_in_time()
        n_bytes = len(message.get("body", b""))
        self._n_bytes += n_bytes
        self._n_window_bytes += n_bytes
        self._is_body_over = not message.get("more_body", False)
        if self._n_bytes > self._most:
            self._refusal = self._too_large()
            raise self._refusal
        return message

    async def _receive_in_time(self) -> Message:
        clock, window_s = asyncio.get_running_loop().time, self._limits.body_window_s
        while True:
            begun_s = clock()
            try:
                async with asyncio.timeout(window_s - self._waited_s):
                    return await self._receive()
            except TimeoutError:
                pass
            finally:
                self._waited_s += clock() - begun_s
            if self._n_window_bytes < self._limits.body_bytes_per_s * window_s:
                self._refusal = ProblemError(408, "too_slow", headers=_CLOSE)
                raise self._refusal
            self._waited_s, self._n_window_bytes = 0.0, 0

    async def send(self, message: Message) -> None:
        if self._refusal is not None and not self._has_begun:
            return  # what the application makes of the refusal: it is answered by `_refuse`
        self._has_begun = True
        await self._send(message)

    async def _refuse(self, problem: ProblemError) -> None:
        """Answer, and take what the client still sends for a while: closed at once, it might not see the answer."""
        response = response_of(problem, self._scope)
        await self._send(
            {"type": "http.response.start", "status": problem.status_code, "headers": response.raw_headers}
        )
        await self._send({"type": "http.response.body", "body": response.body, "more_body": True})
        if problem.status_code != 408 and not self._is_body_over:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._limits.linger_s):
                    while (await self._receive()).get("more_body", False):
                        pass
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
