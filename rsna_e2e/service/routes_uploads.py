"""Routes that take studies: in one request, or file by file."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi import Path as PathParameter
from starlette.responses import JSONResponse

from rsna_e2e.service.arrivals import complete
from rsna_e2e.service.bodies import save_body
from rsna_e2e.service.callers import Caller
from rsna_e2e.service.context import (
    Context,
    Uploader,
    UploadId,
    are_done,
    audited,
    becomes,
    context_of,
    not_found,
    take_in,
)
from rsna_e2e.service.intake import check_room, room_for, take
from rsna_e2e.service.problems import ProblemError
from rsna_e2e.service.routes_studies import Wait
from rsna_e2e.service.uploads import (
    Taken,
    TooManyUploadsError,
    close_upload,
    count_files,
    is_open,
    note_file,
    open_upload,
)

router = APIRouter(prefix="/api/v1")


@router.post("/studies", status_code=202)
async def post_studies(
    request: Request, caller: Uploader, wait: Wait = 0.0, whole: Annotated[bool, Query()] = True
) -> JSONResponse:
    """Take a zip archive, a DICOM, PNG or JPEG file, or a form with such; whole: nothing more is to come of them.

    Answers once all files are safe: 200 where all studies are done within `wait` seconds, else 202. A file that was
    sent before is kept once.
    """
    context = context_of(request)
    await asyncio.to_thread(check_room, context.inbox)
    content_type = request.headers.get("content-type", "")
    async with room_for(context.inbox) as folder:
        limit = context.settings.limits.study_files
        paths = await save_body(request.stream(), content_type, folder, most_files=limit)
        taken = await take_in(context, take, context.inbox, paths, folder)
    if not taken.studies:
        said = ", ".join(f"{n} {reason}" for reason, n in taken.refused.items()) or "the request held no file"
        raise ProblemError(422, "nothing_taken", detail=f"No image could be taken: {said}")
    if whole:
        await take_in(context, complete, context.database, taken.studies)
    await take_in(context, _note, context, request, caller, taken.studies)
    return await _answer(request, taken, wait)


@router.post("/uploads", status_code=201)
def post_uploads(request: Request, caller: Uploader) -> dict[str, str]:
    """Begin an upload of files that are sent one by one."""
    context = context_of(request)
    check_room(context.inbox)
    try:
        return {"upload": open_upload(context.database, caller.name)}
    except TooManyUploadsError:
        detail = "Complete the uploads that you began, or wait an hour"
        raise ProblemError(429, "too_many_uploads", detail=detail, headers={"Retry-After": "60"}) from None


@router.put("/uploads/{upload}/files/{place}")
async def put_file(
    request: Request, caller: Uploader, upload: UploadId, place: Annotated[int, PathParameter(ge=0, le=10**6)]
) -> dict[str, Any]:
    """Take a file of an upload, which may be sent again under the same number. It is safe once this answers."""
    context = context_of(request)
    await asyncio.to_thread(_check_more, context, upload, caller)
    await asyncio.to_thread(check_room, context.inbox)
    async with room_for(context.inbox) as folder:
        paths = await save_body(request.stream(), "application/octet-stream", folder, most_files=1)
        return await take_in(context, _put, context, upload, place, paths, folder)


def _put(context: Context, upload: str, place: int, paths: Sequence[Path], folder: Path) -> dict[str, Any]:
    taken = take(context.inbox, paths, folder)
    if not note_file(context.database, upload, place, taken):
        raise not_found("upload")
    if not taken.studies:
        why = ", ".join(taken.refused) or ("no_file" if paths else "empty_file")  # no file: of an empty archive
        raise ProblemError(422, "refused_file", detail=why)
    return {"study": taken.studies[0], "studies": taken.studies, "refused": taken.refused}


@router.post("/uploads/{upload}/complete", status_code=202)
async def post_complete(request: Request, caller: Uploader, upload: UploadId, wait: Wait = 0.0) -> JSONResponse:
    """End an upload: nothing more is to come of its studies."""
    context = context_of(request)
    await asyncio.to_thread(_check_open, context, upload, caller)
    taken = await take_in(context, close_upload, context.database, upload)
    await take_in(context, _note, context, request, caller, taken.studies)
    return await _answer(request, taken, wait)


def _check_open(context: Context, upload: str, caller: Caller) -> None:
    """Raise ProblemError unless an upload is open, and is this caller's."""
    if not is_open(context.database, upload, caller.name):
        raise not_found("upload")


def _check_more(context: Context, upload: str, caller: Caller) -> None:
    """Raise ProblemError unless an upload is open, is this caller's, and may have more files."""
    _check_open(context, upload, caller)
    if count_files(context.database, upload) > context.settings.limits.study_files:
        raise ProblemError(413, "too_many_files", detail="The upload has too many files. Begin another")


def _note(context: Context, request: Request, caller: Caller, studies: Sequence[str]) -> None:
    for study in studies:
        audited(context, request, caller, "upload", study)


async def _answer(request: Request, taken: Taken, wait_s: float) -> JSONResponse:
    """Return where each study stands, at once or when all are done."""
    context = context_of(request)
    is_done = wait_s > 0 and await becomes(request, lambda: are_done(context, taken.studies), wait_s)
    content = {"studies": await asyncio.to_thread(_states, context, taken.studies), "refused": taken.refused}
    return JSONResponse(content, 200 if is_done else 202)


def _states(context: Context, studies: Sequence[str]) -> list[dict[str, str]]:
    rows = {study: context.database.row(study) for study in studies}
    return [
        {"study": study, "state": row["state"], "url": f"{router.prefix}/studies/{study}"}
        for study, row in rows.items()
        if row is not None
    ]
