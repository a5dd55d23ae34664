"""What routes work with, and how they wait for studies."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, ParamSpec, TypeVar

from fastapi import Depends, Path, Request

from rsna_e2e.service.audit import Action, Audit
from rsna_e2e.service.callers import Caller
from rsna_e2e.service.database import UNDONE, Database
from rsna_e2e.service.inbox import Inbox
from rsna_e2e.service.open_stores import OpenStores
from rsna_e2e.service.problems import ProblemError
from rsna_e2e.service.roles import needs
from rsna_e2e.service.settings import Settings

LONGEST_WAIT_S = 60.0
N_INTAKE = 4
_LOOK_S = 0.1

_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the service has: `request.app.state.context`. intake: threads that take over what was sent, which may last;
    others, who only ask, do not wait for them. is_stopping: nobody is to wait any longer."""

    settings: Settings
    database: Database
    inbox: Inbox
    audit: Audit
    stores: OpenStores
    is_stopping: threading.Event = field(default_factory=threading.Event)
    intake: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(N_INTAKE, "intake"))


async def take_in(context: Context, call: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs) -> _T:
    """Call a function that writes or unpacks what was sent, in a thread of `Context.intake`."""
    return await asyncio.get_running_loop().run_in_executor(context.intake, partial(call, *arguments, **named))


def context_of(request: Request) -> Context:
    """Return the context of the application that a request came to."""
    context: Context = request.app.state.context
    return context


# A key that was not looked at is never part of a path on the disk.
StudyKey = Annotated[str, Path(pattern="^[0-9a-f]{16}$")]
SeriesKey = Annotated[str, Path(pattern="^[0-9a-f]{16}$")]
UploadId = Annotated[str, Path(pattern="^u_[0-9a-f]{16}$")]
LabelName = Annotated[str, Path(pattern="^[a-z0-9_]{1,64}$")]
Place = Annotated[int, Path(ge=0, le=999_999)]

Reader = Annotated[Caller, Depends(needs("read"))]
Uploader = Annotated[Caller, Depends(needs("upload"))]
Admin = Annotated[Caller, Depends(needs("admin"))]


def not_found(what: str) -> ProblemError:
    """Return the answer to somebody who asks for what is not there."""
    return ProblemError(404, "not_found", detail=f"There is no such {what}")


async def becomes(request: Request, is_so: Callable[[], bool], wait_s: float) -> bool:
    """Whether something is so within `wait_s`, asked at once and again whenever a study changed. It ends early when the
    service stops, or nobody waits for the answer any more."""
    context = context_of(request)
    until_s = time.monotonic() + min(wait_s, LONGEST_WAIT_S)
    seen = -1
    while True:
        version = await asyncio.to_thread(context.database.version)
        if version != seen:
            seen = version
            if await asyncio.to_thread(is_so):
                return True
        left_s = until_s - time.monotonic()
        if left_s <= 0 or context.is_stopping.is_set() or await request.is_disconnected():
            return False
        await asyncio.sleep(min(_LOOK_S, left_s))


def are_done(context: Context, studies: Iterable[str]) -> bool:
    """Whether nothing of studies is on its way any more."""
    rows = [context.database.row(study) for study in studies]
    return all(row is None or row["state"] not in UNDONE for row in rows)


def audited(context: Context, request: Request, caller: Caller, action: Action, study: str) -> None:
    """Note who did what."""
    context.audit.append(
        actor=caller.name,
        action=action,
        study=study,
        address=request.state.address,
    )
