"""Routes of the service itself: which models it has, whether it is well, its numbers, its interface, and its pages."""

import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, Request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response

from rsna_e2e.service.catalogue import count_states, oldest_wait_s
from rsna_e2e.service.context import Context, Reader, context_of, not_found
from rsna_e2e.service.database import State
from rsna_e2e.service.roles import anyone, unauthenticated
from rsna_e2e.service.settings import LOOPBACK
from rsna_e2e.service.theme_css import theme_css
from rsna_e2e.service.workers import living

WITHIN_S = 30.0  # a worker that did not say so lately is taken to be gone
WEB = Path(__file__).parent / "web"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

router = APIRouter()
open_to_all = [Depends(anyone)]


@router.get("/healthz", dependencies=open_to_all)
async def healthz() -> dict[str, str]:
    """Whether this process answers."""
    return {"status": "alive"}


@router.get("/readyz", dependencies=open_to_all)
def readyz(request: Request) -> JSONResponse:
    """Whether studies would be taken and predicted now; what is not as it should be has false."""
    checks = _checks(context_of(request))
    is_ready = all(checks.values())
    return JSONResponse({"ready": is_ready, "checks": checks}, 200 if is_ready else 503)


def _checks(context: Context) -> dict[str, bool]:
    limits = context.settings.limits
    try:
        has_workers = len(living(context.database, within_s=WITHIN_S)) == context.settings.n_workers
    except sqlite3.Error:
        has_workers = False
    has_room = shutil.disk_usage(context.settings.data).free >= limits.free_bytes
    is_writable = os.access(context.settings.incoming, os.W_OK)  # a file system that turned read-only is not
    return {"database": context.database.is_writable(), "disk": has_room and is_writable, "workers": has_workers}


@router.get("/metrics", dependencies=open_to_all)  # it sees for itself who asks
def metrics(request: Request) -> Response:
    """Numbers for Prometheus; for this machine, and for administrators from elsewhere."""
    caller = request.state.caller
    if request.state.address not in LOOPBACK and (caller is None or not caller.may("admin")):
        raise unauthenticated()
    context, registry = context_of(request), CollectorRegistry()
    states = Gauge("rsna_e2e_studies", "Studies by state", ["state"], registry=registry)
    found = count_states(context.database)
    for state in State.__args__:  # type: ignore[attr-defined]  # of a Literal
        states.labels(state).set(found.get(state, 0))
    for name, text, value in (
        ("rsna_e2e_oldest_wait_seconds", "Wait of the study that waits longest", oldest_wait_s(context.database)),
        ("rsna_e2e_workers", "Workers that live", len(living(context.database, within_s=WITHIN_S))),
        ("rsna_e2e_free_bytes", "Room on the disk", shutil.disk_usage(context.settings.data).free),
    ):
        Gauge(name, text, registry=registry).set(value)
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/api/v1/models")
def models(request: Request, caller: Reader) -> list[dict[str, Any]]:
    """The models that workers ask."""
    return [{name: value for name, value in one.items() if name != "card"} for one in _models(context_of(request))]


@router.get("/api/v1/models/{model}/card")
def card(request: Request, caller: Reader, model: str) -> PlainTextResponse:
    """What a model is, and may be used for."""
    for one in _models(context_of(request)):
        if one["identity"] == model and one["card"]:
            return PlainTextResponse(one["card"], media_type="text/markdown")
    raise not_found("model card")


def _models(context: Context) -> list[dict[str, Any]]:
    found = living(context.database, within_s=WITHIN_S)
    return found[0] if found else []


@router.get("/api/v1/openapi.json")
def openapi(request: Request, caller: Reader) -> dict[str, Any]:
    """This interface as OpenAPI describes it."""
    document: dict[str, Any] = request.app.openapi()
    return document


@router.get("/", dependencies=open_to_all)
async def index(request: Request) -> Response:
    """The page with the list of studies and the viewer."""
    if request.state.caller is None:
        return RedirectResponse("/login", 303)
    return FileResponse(WEB / "index.html", media_type="text/html")


@router.get("/login", dependencies=open_to_all)
async def login_page() -> Response:
    """The page to log in at."""
    return FileResponse(WEB / "login.html", media_type="text/html")


@router.get("/static/{name}", dependencies=open_to_all)
async def static(name: str) -> Response:
    """A file of the pages."""
    if name == "theme.css":
        return Response(theme_css(), media_type="text/css")
    known = {path.name: path for path in WEB.iterdir()}
    if name not in known or known[name].suffix not in _TYPES:
        raise not_found("file")
    return FileResponse(known[name], media_type=_TYPES[known[name].suffix])
