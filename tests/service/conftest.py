"""Without the libraries of the extra `serve` these tests cannot even be read, and are left out."""

import importlib.util

LIBRARIES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client", "httpx")
collect_ignore_glob = [] if all(map(importlib.util.find_spec, LIBRARIES)) else ["test_*.py"]
