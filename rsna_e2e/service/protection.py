"""Puts accounts, audit and limits around an application.

| what app.py does | with |
|---|---|
| `app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)`, the document itself as a route that needs "read" | |
| `accounts, audit = Accounts(data / ACCESS_FILE), Audit(data / ACCESS_FILE)` | `accounts`, `audit` |
| `protect(app, accounts, audit, access=AccessSettings(...), limits=Limits(...))` before the first request | here |
| each route: `caller: Annotated[Caller, Depends(needs("upload"))]`, or `dependencies=[Depends(anyone)]` | `roles` |
| pages: `request.state.caller` is None: send to /login; `request.state.address` for the audit | `access` |
| errors: `raise ProblemError(413, "study_too_large", detail="...")` | `problems` |
| `uvicorn.Config(app, ..., **server_options(limits, access.proxies))` | `limits` |
| once an hour: `audit.retain()` | `audit` |
| in a test: `declared_roles(app)` gives the role of every route, and fails where one declares none | `roles` |

From outside in: headers, errors, limits, caller, routes.
"""

import sqlite3

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from rsna_e2e.service import routes_login
from rsna_e2e.service.access import Access, AccessSettings, Guard
from rsna_e2e.service.accounts import Accounts
from rsna_e2e.service.audit import Audit
from rsna_e2e.service.headers import SecurityHeaders
from rsna_e2e.service.limits import Limits
from rsna_e2e.service.problems import CatchAll, answer
from rsna_e2e.service.request_limits import RequestLimits

PROBES = frozenset({"/healthz", "/readyz"})  # asked by orchestrators, by address


def protect(
    app: FastAPI,
    accounts: Accounts,
    audit: Audit,
    *,
    access: AccessSettings | None = None,
    limits: Limits | None = None,
) -> None:
    """Guard an application, and add the routes of logging in; before its first request."""
    guard = Guard(accounts=accounts, audit=audit, settings=access or AccessSettings())
    app.state.guard = guard
    app.include_router(routes_login.router)
    for kind in (HTTPException, RequestValidationError, sqlite3.OperationalError):
        app.add_exception_handler(kind, answer)
    # The last that is added is the outermost
    app.add_middleware(Access, guard=guard, open_paths=PROBES)
    app.add_middleware(RequestLimits, limits=limits or Limits())
    app.add_middleware(CatchAll)
    app.add_middleware(SecurityHeaders)
