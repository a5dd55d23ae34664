"""A small application behind `protect`, served by uvicorn on a port of the loopback, in a thread."""

import asyncio
import socket
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Request
from pydantic import BaseModel, ConfigDict
from starlette.responses import JSONResponse, Response, StreamingResponse

from rsna_e2e.service.access import AccessSettings
from rsna_e2e.service.accounts import ACCESS_FILE, Accounts
from rsna_e2e.service.audit import Audit
from rsna_e2e.service.callers import ROLES, Caller
from rsna_e2e.service.limits import Limits, server_options
from rsna_e2e.service.protection import protect
from rsna_e2e.service.roles import anyone, needs

PASSWORD = "correct horse battery"
OWN_PAGE = {"X-Requested-With": "rsna_e2e", "Sec-Fetch-Site": "same-origin"}
PLANTED = "Planted^Canary"  # a patient's name, in every place where a client may put one

SHORT = Limits(
    head_s=0.5,
    keep_alive_s=1,
    body_window_s=0.5,
    body_bytes_per_s=2000,
    body_bytes=1000,
    bodies=(("/api/v1/large", 200_000),),
    write_s=0.5,
    linger_s=0.5,
    requests=4,
    connections=40,
    connections_per_address=30,
)

router = APIRouter(prefix="/api/v1")


class Order(BaseModel):
    model_config = ConfigDict(extra="forbid")
    count: int


@router.get("/studies/{study}")
async def read_study(study: str, caller: Annotated[Caller, Depends(needs("read"))]) -> dict[str, str]:
    return {"study": study, "name": caller.name, "how": caller.how}


@router.post("/studies", dependencies=[Depends(needs("upload"))])
async def upload(request: Request) -> dict[str, int]:
    return {"n_bytes": len(await request.body())}


@router.post("/large", dependencies=[Depends(anyone)])
async def large(request: Request) -> dict[str, int]:
    return {"n_bytes": sum([len(chunk) async for chunk in request.stream()])}


@router.delete("/studies/{study}", dependencies=[Depends(needs("admin"))], status_code=204)
async def delete_study(study: str) -> Response:
    return Response(status_code=204)


@router.post("/orders", dependencies=[Depends(anyone)])
async def order(order: Order) -> dict[str, int]:
    return {"count": order.count}


@router.get("/seen", dependencies=[Depends(anyone)])
async def seen(request: Request) -> JSONResponse:
    named = {name.decode(): value.decode("latin-1") for name, value in request.scope["headers"]}
    caller = request.state.caller
    return JSONResponse({"address": request.state.address, "caller": caller and caller.name, "headers": named})


@router.get("/broken/{kind}", dependencies=[Depends(anyone)])
async def broken(kind: str, request: Request) -> dict[str, str]:
    if kind == "busy":
        path = request.app.state.database
        with sqlite3.connect(path, isolation_level=None) as first, sqlite3.connect(path, timeout=0) as second:
            first.execute("BEGIN IMMEDIATE")
            second.execute("CREATE TABLE a (b)")
    if kind == "full":
        raise OSError(28, "No space left on device", f"/data/{PLANTED}")
    raise RuntimeError(f"{PLANTED} at {Path(__file__)}")


@router.get("/slow", dependencies=[Depends(anyone)])
async def slow(s: float) -> dict[str, float]:
    await asyncio.sleep(s)
    return {"s": s}


@router.get("/endless", dependencies=[Depends(anyone)])
async def endless(request: Request) -> StreamingResponse:
    async def chunks() -> AsyncIterator[bytes]:
        try:
            while True:
                await asyncio.sleep(0)  # as what reads a file does
                yield bytes(2**16)
        finally:
            request.app.state.n_ended += 1

    return StreamingResponse(chunks())


@router.get("/own", dependencies=[Depends(anyone)])
async def own_headers() -> Response:
    return Response(headers={"Cache-Control": "private, immutable", "Content-Security-Policy": "default-src 'self'"})


@dataclass
class Served:
    """url: of the application. clock: what accounts and audit take for the time."""

    url: str
    port: int
    app: FastAPI
    accounts: Accounts
    audit: Audit
    clock: "Clock"
    tokens: dict[str, str] = field(default_factory=dict)

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=10, trust_env=False, verify=False, **options)

    def as_role(self, role: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[role]}"}

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)


@dataclass
class Clock:
    later_s: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.later_s


def make_app(accounts: Accounts, audit: Audit, access: AccessSettings, limits: Limits) -> FastAPI:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @app.get("/healthz", dependencies=[Depends(anyone)])
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    app.include_router(router)
    app.state.n_ended = 0
    protect(app, accounts, audit, access=access, limits=limits)
    return app


@contextmanager
def served(folder: Path, *, access: AccessSettings | None = None, limits: Limits = SHORT) -> Iterator[Served]:
    """Serve until the block ends; there are a token of each role, of its name, and the user anna, who may read."""
    clock, access = Clock(), access or AccessSettings()
    with Accounts(folder / ACCESS_FILE, clock=clock) as accounts, Audit(folder / ACCESS_FILE, clock=clock) as audit:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("rsna_e2e.service.passwords._N", 2)  # few rounds: hers is asked for often
            accounts.add_user("anna", "read", PASSWORD)
        app = make_app(accounts, audit, access, limits)
        app.state.database = folder / "other.sqlite"
        server = uvicorn.Server(uvicorn.Config(app, port=0, **server_options(limits, access.proxies)))
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        made = Served(f"http://127.0.0.1:{port}", port, app, accounts, audit, clock)
        made.tokens = {role: accounts.add_token(f"a-{role}", role) for role in ROLES}
        try:
            yield made
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()
