"""Routes of studies: lists, what is known of one, its result; trying again and deleting."""

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import FileResponse, Response

from rsna_e2e.service.arrivals import retry
from rsna_e2e.service.catalogue import Wanted, list_studies
from rsna_e2e.service.catalogue import study as find_study
from rsna_e2e.service.context import (
    LONGEST_WAIT_S,
    Admin,
    Reader,
    StudyKey,
    Uploader,
    are_done,
    audited,
    becomes,
    context_of,
    not_found,
)
from rsna_e2e.service.database import State
from rsna_e2e.service.folders import RESULT
from rsna_e2e.service.problems import ProblemError
from rsna_e2e.service.retention import remove_study
from rsna_e2e.service.shown import Shown

router = APIRouter(prefix="/api/v1")

Wait = Annotated[float, Query(ge=0, le=LONGEST_WAIT_S)]
Text = Annotated[str, Query(max_length=64)]


@router.get("/studies")
async def get_studies(
    request: Request,
    caller: Reader,
    *,
    state: State | Literal[""] = "",
    label: Annotated[str, Query(pattern="^[a-z0-9_]{0,64}$")] = "",
    least: Annotated[float, Query(alias="min", ge=0, le=1)] = 0.0,
    since: Annotated[str, Query(pattern=r"^([0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9:]{5,8}(Z|\+00:00)?)?)?$")] = "",
    patient: Text = "",
    sort: Literal["score", "time"] = "time",
    cursor: Annotated[int, Query(ge=0, le=10**9)] = 0,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    after: Annotated[int, Query(ge=-1)] = -1,
    wait: Wait = 0.0,
) -> dict[str, Any]:
    """A page of studies. With `after`, the version of a page, it waits until anything changed since."""
    context = context_of(request)
    wanted = Wanted(
        state=state, label=label, least=least, since=since, patient=patient, sort=sort, cursor=cursor, limit=limit
    )
    if wait:
        await becomes(request, lambda: context.database.version() > after, wait)
    return await asyncio.to_thread(list_studies, context.database, wanted)


@router.get("/studies/{study}")
async def get_study(request: Request, caller: Reader, study: StudyKey, wait: Wait = 0.0) -> dict[str, Any]:
    """All about a study. With `wait`, it waits until the study is done."""
    context = context_of(request)
    if wait:
        await becomes(request, lambda: are_done(context, [study]), wait)
    found = await asyncio.to_thread(find_study, context.database, study)
    if found is None:
        raise not_found("study")
    return found


@router.get("/studies/{study}/result")
def get_result(shown: Shown) -> Response:
    """The newest result that counts, or that of a model or content."""
    path = shown.folder / RESULT
    if not path.exists():
        raise not_found("result")
    shown.note("view")
    headers = {"X-Content": shown.content, "X-Model": shown.model}
    return FileResponse(path, media_type="application/json", headers=headers)


@router.post("/studies/{study}/retry", status_code=202)
def post_retry(request: Request, caller: Uploader, study: StudyKey) -> dict[str, str]:
    """Try a study again that failed, or was refused."""
    context = context_of(request)
    if context.database.row(study) is None:
        raise not_found("study")
    if not context.inbox.names_on_disk(study):
        raise ProblemError(409, "files_gone", detail="Its files are not kept any more. Send it again")
    if not retry(context.database, study):
        raise ProblemError(409, "on_its_way", detail="The study is on its way")
    audited(context, request, caller, "retry", study)
    return {"study": study, "state": "queued"}


@router.delete("/studies/{study}", status_code=204)
def delete_study(request: Request, caller: Admin, study: StudyKey) -> Response:
    """Delete a study: its files, its results, and who it is of."""
    context = context_of(request)
    if not remove_study(context.inbox, study):
        raise not_found("study")
    audited(context, request, caller, "delete", study)
    return Response(status_code=204)
