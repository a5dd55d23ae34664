"""Without the libraries of the extra `serve` these tests cannot even be read, and are left out."""

import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import httpx
    from guarded import Served

LIBRARIES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client", "httpx")
collect_ignore_glob = [] if all(map(importlib.util.find_spec, LIBRARIES)) else ["test_*.py"]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Served]":
    """An application behind its guard, served; modules whose service is another have a fixture of their own."""
    from guarded import served  # which needs the libraries

    with served(tmp_path_factory.mktemp("service")) as made:
        yield made


@pytest.fixture
def client(service: "Served") -> "Iterator[httpx.Client]":
    """A client of it that nobody knows."""
    with service.client() as made:
        yield made
