"""The routes of logging in and out, and of who one is."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response

from rsna_e2e.service.access import OWN_PAGE, Guard, check_own_page, guard_of, session_cookie
from rsna_e2e.service.audit import NOBODY
from rsna_e2e.service.callers import Caller, Entry
from rsna_e2e.service.problems import ProblemError
from rsna_e2e.service.roles import anyone, needs, unauthenticated
from rsna_e2e.service.tries import TooManyTriesError

router = APIRouter(prefix="/api/v1")
_LONGEST = 1024  # characters of a name, password or token
_threads = ThreadPoolExecutor(2, thread_name_prefix="login")  # scrypt takes 32 MiB and a core each


class Credentials(BaseModel):
    """Name and password of a user, or a token."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    name: str = Field("", max_length=_LONGEST)
    password: str = Field("", max_length=_LONGEST)
    token: str = Field("", max_length=_LONGEST)


@router.post("/login", dependencies=[Depends(anyone)])
async def login(credentials: Credentials, request: Request) -> Response:
    """Begin a session: the answer sets its cookie. 401 without a word of what was wrong, 429 after five tries."""
    guard, address = guard_of(request), request.state.address
    check_own_page(request.scope["headers"], guard.settings)  # or a page of others could log its own user in
    before = session_cookie(request.scope["headers"], guard.settings.cookie)
    work = partial(_login, guard, credentials, address, before)
    entry = await asyncio.get_running_loop().run_in_executor(_threads, work)
    if entry is None:
        raise unauthenticated("wrong_credentials", "Name and password, or token, are not right")
    response = JSONResponse({"name": entry.caller.name, "role": entry.caller.role})
    response.set_cookie(  # without an age it ends with the browser, too
        guard.settings.cookie,
        entry.secret,
        secure=guard.settings.is_https,
        httponly=True,
        samesite="strict",
    )
    return response


def _login(guard: Guard, credentials: Credentials, address: str, before: str | None) -> Entry | None:
    accounts, audit = guard.accounts, guard.audit
    try:
        if credentials.token:
            entry = accounts.login_by_token(credentials.token, address=address)
        else:
            entry = accounts.login(credentials.name, credentials.password, address=address)
    except TooManyTriesError as error:
        headers = {"Retry-After": str(error.wait_s)}
        raise ProblemError(429, "too_many_tries", detail="Too many tries. Wait a minute", headers=headers) from None
    if entry is None:
        is_known = not credentials.token and accounts.has_user(credentials.name)
        actor = credentials.name.lower() if is_known else NOBODY
        audit.append(actor=actor, action="login", outcome="refused", address=address)
        return None
    if before is not None:
        accounts.end_session(before)
    audit.append(actor=entry.caller.name, action="login", outcome=entry.caller.role, address=address)
    return entry


@router.post("/logout", status_code=204)
async def logout(request: Request, caller: Annotated[Caller, Depends(needs("read"))]) -> Response:
    """End the session."""
    guard = guard_of(request)
    cookie = session_cookie(request.scope["headers"], guard.settings.cookie)
    if cookie is not None:
        await asyncio.to_thread(guard.accounts.end_session, cookie)
    note = partial(guard.audit.append, actor=caller.name, action="logout", address=request.state.address)
    await asyncio.to_thread(note)
    response = Response(status_code=204)
    response.delete_cookie(guard.settings.cookie, secure=guard.settings.is_https, httponly=True, samesite="strict")
    return response


@router.get("/me")
async def me(caller: Annotated[Caller, Depends(needs("read"))]) -> dict[str, str]:
    """Who one is, and what X-Requested-With must be in requests that change anything with a cookie."""
    return {"name": caller.name, "role": caller.role, "csrf": OWN_PAGE}
