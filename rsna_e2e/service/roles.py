"""Which role a route needs: declared once, by a dependency, and read back from all routes of an application."""

import asyncio
from collections.abc import Iterator
from functools import partial
from typing import Any

from fastapi import FastAPI, Request

from rsna_e2e.service.access import guard_of
from rsna_e2e.service.callers import Caller, Role
from rsna_e2e.service.problems import ProblemError


class Needs:
    """A dependency that gives the caller, who has at least this role: `caller: Caller = Depends(needs("read"))`."""

    def __init__(self, role: Role) -> None:
        self.role = role

    async def __call__(self, request: Request) -> Caller:
        """Raises ProblemError: 401 without a caller, 403 for one of a lesser role, which is noted in the audit."""
        caller: Caller | None = request.state.caller
        if caller is None:
            raise unauthenticated()
        if not caller.may(self.role):
            note = partial(guard_of(request).audit.append, actor=caller.name, action="denied")
            await asyncio.to_thread(note, outcome=f"needs {self.role}", address=request.state.address)
            raise ProblemError(403, "forbidden", detail=f"This needs the role {self.role}")
        return caller


def needs(role: Role) -> Needs:
    """The dependency of a route that needs a role."""
    return Needs(role)


async def anyone() -> None:
    """The dependency of a route that is open to all, so that none is by mistake."""


def unauthenticated(code: str = "unauthenticated", detail: str = "") -> ProblemError:
    """The answer to somebody who is not known. RFC 9110 wants 401 to say how to be."""
    return ProblemError(401, code, detail=detail, headers={"WWW-Authenticate": "Bearer"})


def declared_roles(app: FastAPI) -> dict[tuple[str, str], Role | None]:
    """The role that each (method, path) needs; None for those that are open to all.

    Mounted applications, such as static files, are open, and not listed. Raises ValueError for a route that declares
    nothing, or more than one thing.
    """
    found: dict[tuple[str, str], Role | None] = {}
    for route in _leaves(app.routes):
        if getattr(route, "methods", None) is None:
            continue
        calls = [dependency.call for dependency in _below(getattr(route, "dependant", None))]
        roles = [call.role if isinstance(call, Needs) else None for call in calls if _declares(call)]
        if len(roles) != 1:
            raise ValueError(f"{route.path}: declares {len(roles)} roles. Give it needs(...) or anyone, once")
        found |= {(method, route.path): roles[0] for method in route.methods}
    return found


def _declares(call: object) -> bool:
    return isinstance(call, Needs) or call is anyone


def _leaves(routes: Any) -> Iterator[Any]:
    """The routes themselves; FastAPI from 0.13x on keeps those of included routers in objects of their own."""
    for route in routes:
        contexts = getattr(route, "effective_route_contexts", None)
        yield from [route] if contexts is None else contexts()


def _below(dependant: Any) -> Iterator[Any]:
    for one in () if dependant is None else dependant.dependencies:
        yield one
        yield from _below(one)
