"""Without the libraries of the extra `serve` these tests cannot even be read, and are left out."""

import importlib.util
from pathlib import Path

import pytest

LIBRARIES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client", "httpx")
collect_ignore_glob = [] if all(map(importlib.util.find_spec, LIBRARIES)) else ["test_*.py"]


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model that was trained for a moment; tests only read it."""
    from services import make_bundle  # which needs the libraries

    return make_bundle(tmp_path_factory.mktemp("model"))
