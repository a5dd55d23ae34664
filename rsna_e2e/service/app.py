"""The web application: routes over the database and the folders of a service, behind its guard."""

import signal
import socket
import sys
import threading
from types import FrameType

import uvicorn
from fastapi import FastAPI

from rsna_e2e import __version__
from rsna_e2e.service import routes_images, routes_studies, routes_system, routes_uploads
from rsna_e2e.service.access import LOOPBACK_HOSTS, AccessSettings
from rsna_e2e.service.accounts import ACCESS_FILE, Accounts
from rsna_e2e.service.audit import Audit
from rsna_e2e.service.context import Context
from rsna_e2e.service.database import Database
from rsna_e2e.service.inbox import Inbox
from rsna_e2e.service.limits import Limits, server_options
from rsna_e2e.service.open_stores import OpenStores
from rsna_e2e.service.protection import protect
from rsna_e2e.service.settings import Settings
from rsna_e2e.store.prepare.pool import warm_up
from rsna_e2e.store.pseudonyms import load_or_make_key

REQUESTS = 256  # in flight: each page that waits for changes holds one
DRAIN_S = 10  # for requests that are being answered, at the end


def make_app(settings: Settings) -> FastAPI:
    """Return the application of a service whose folders are there."""
    app = FastAPI(
        title="rsna_e2e",
        version=__version__,
        description="Predicts studies. Research use only, not for diagnosis.",
        openapi_url=None,
        docs_url=None,  # they would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    database = Database(settings)
    accounts, audit = Accounts(settings.data / ACCESS_FILE), Audit(settings.data / ACCESS_FILE)
    app.state.context = Context(
        settings=settings,
        database=database,
        inbox=Inbox(database, load_or_make_key(settings.key)),
        audit=audit,
        stores=OpenStores(),
    )
    for routes in (routes_studies, routes_uploads, routes_images, routes_system):
        app.include_router(routes.router)
    access = AccessSettings(
        hosts=(*LOOPBACK_HOSTS, settings.host, *settings.hosts),
        is_https=settings.tls_cert is not None or settings.is_open,
        proxies=settings.proxies,
    )
    protect(app, accounts, audit, access=access, limits=wire_limits(settings))
    return app


def wire_limits(settings: Settings) -> Limits:
    """Return the limits of connections and requests, with the sizes that the settings allow."""
    limits = settings.limits
    return Limits(
        requests=REQUESTS, bodies=(("/api/v1/studies", limits.study_bytes), ("/api/v1/uploads", limits.file_bytes))
    )


def serve(settings: Settings, listening: socket.socket) -> None:
    """Answer requests that come in at a socket until SIGTERM. What one before was receiving when it died is removed."""
    app = make_app(settings)
    app.state.context.inbox.empty_incoming()
    # uvicorn ends by sending itself the signal that it was told to end by: what is temporary is to go nevertheless
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    app.state.context.intake.submit(warm_up)  # or the first archive would wait for it
    config = uvicorn.Config(
        app,
        timeout_graceful_shutdown=DRAIN_S,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
        **server_options(wire_limits(settings), settings.proxies),
    )
    _Server(config, app.state.context.is_stopping).run(sockets=[listening])


class _Server(uvicorn.Server):
    """Lets requests that wait for changes end when it is told to end: it waits for all that are being answered."""

    def __init__(self, config: uvicorn.Config, is_stopping: threading.Event) -> None:
        super().__init__(config)
        self._is_stopping = is_stopping

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle SIGTERM and SIGINT."""
        self._is_stopping.set()
        super().handle_exit(sig, frame)
