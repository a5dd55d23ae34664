"""Errors as the service answers them: problem details by RFC 9457, with a code for programs.

Nothing of what was sent, no path of this machine and no place in the program is in them.
"""

import errno
import logging
import re
import sqlite3
from http import HTTPStatus
from pathlib import Path

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rsna_e2e.core.errors import DiskFullError, OutOfResourcesError
from rsna_e2e.core.files import as_json, is_full

MEDIA_TYPE = "application/problem+json"
BUSY_RETRY_S = 5

# Codes of answers that the frameworks make; others are the name of their status
_CODES = {404: "not_found", 405: "method_not_allowed", 422: "invalid_request", 500: "internal_error"}
_UNUSABLE = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
_ID = re.compile(r"(u_)?[0-9a-f]{8,64}|[0-9]{1,6}")

_log = logging.getLogger(__name__)


class ProblemError(HTTPException):
    """An error to answer with.

    code: a stable word for programs. title: the name of the status unless told. detail: for people, in words and
    numbers of this program: nothing that was sent, no personal data.
    """

    def __init__(
        self,
        status: int,
        code: str,
        title: str = "",
        detail: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(status, detail, headers)
        self.code = code
        self.title = title or HTTPStatus(status).phrase


def problem_of(error: Exception) -> ProblemError | None:
    """Return what to answer to an error of a library or the system; None for one that nobody foresaw."""
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, RequestValidationError):
        return ProblemError(422, _CODES[422], detail=_places(error))
    if isinstance(error, HTTPException):
        headers = dict(error.headers or {})
        return ProblemError(error.status_code, _code(error.status_code), headers=headers)
    return _of_system(error)


def _of_system(error: Exception) -> ProblemError | None:
    """Return what to answer to an error of the database, the disk or the memory."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the lower byte is the class of an extended code
    if isinstance(error, sqlite3.OperationalError) and code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        detail = "The database is in use. Try again"
        return ProblemError(503, "busy", detail=detail, headers={"Retry-After": str(BUSY_RETRY_S)})
    is_no_room = is_full(error) if isinstance(error, OSError) else isinstance(error, DiskFullError)
    if is_no_room or code == sqlite3.SQLITE_FULL:
        return ProblemError(507, "disk_full", detail="The disk of the service is full")
    if code in _UNUSABLE or (isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EIO)):
        return ProblemError(507, "disk_unusable", detail="The disk of the service cannot be written")
    if isinstance(error, OutOfResourcesError | MemoryError):
        detail = "The service has no memory for this just now. Try again"
        return ProblemError(503, "no_memory", detail=detail, headers={"Retry-After": str(BUSY_RETRY_S)})
    return None


def _code(status: int) -> str:
    return _CODES.get(status) or HTTPStatus(status).phrase.lower().replace(" ", "_").replace("-", "_")


def _places(error: RequestValidationError) -> str:
    """Where a request is wrong, and how: names of parameters and fields are ours, those of unknown fields are not."""
    places = []
    for one in error.errors()[:10]:
        kind, where = str(one["type"]), [str(part) for part in one["loc"]]
        is_ours = kind != "extra_forbidden" and all(part.isidentifier() for part in where[:2])
        places.append(f"{'.'.join(where[:2] if is_ours else where[:1])}: {kind}")
    return "; ".join(dict.fromkeys(places))


def response_of(problem: ProblemError, scope: Scope) -> Response:
    """Return the answer."""
    body = {
        "type": "about:blank",
        "title": problem.title,
        "status": problem.status_code,
        "code": problem.code,
        "detail": problem.detail,
    }
    instance = _instance(scope)
    if instance is not None:
        body["instance"] = instance
    return Response(as_json(body), problem.status_code, problem.headers, MEDIA_TYPE)


def _instance(scope: Scope) -> str | None:
    """The path, of a known route alone, without what is no id in it: people put names into paths."""
    if "endpoint" not in scope:
        return None
    values = [part for value in scope.get("path_params", {}).values() for part in str(value).split("/")]
    others = {part for part in values if not _ID.fullmatch(part)}
    return "/".join("-" if part in others else part for part in scope["path"].split("/"))


async def answer(request: Request, error: Exception) -> Response:
    """An exception handler of Starlette, for those that `problem_of` knows."""
    problem = problem_of(error)
    if problem is None:
        raise error
    return response_of(problem, request.scope)


class CatchAll:
    """Answers what no handler took: 500 without a word of it. The log gets the class and the place in this package.

    As a middleware around all others, since the one of Starlette raises the error again, and servers log its text.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False

        async def noting_send(message: Message) -> None:
            nonlocal has_begun
            has_begun = has_begun or message["type"] == "http.response.start"
            await send(message)

        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            await self._app(scope, receive, noting_send)
        except ClientDisconnect:
            return
        except Exception as error:
            problem = problem_of(error)
            if problem is None:
                _log.error("request failed: %s at %s", type(error).__name__, _place(error))
                problem = ProblemError(500, _CODES[500], detail="The request failed. The log says where")
            if not has_begun:  # otherwise the server closes the connection, as the answer is not complete
                await response_of(problem, scope)(scope, receive, send)


def _place(error: Exception) -> str:
    """File and line of the last frame in this package, where there is one."""
    package, place, trace = Path(__file__).parents[1], "another package", error.__traceback__
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if file.is_relative_to(package):
            place = f"{file.relative_to(package)}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place
