"""Options of the test run: --slow adds the cases of full size; RSNA_FAIL_WITHOUT=cuda makes a missing GPU an error."""

import os

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the cases of full size")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    without_cuda = not torch.cuda.is_available()
    if without_cuda and os.environ.get("RSNA_FAIL_WITHOUT") == "cuda":
        raise pytest.UsageError("RSNA_FAIL_WITHOUT=cuda, but torch sees no GPU")
    for item in items:
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="full size: bin/test.sh --slow"))
        if "needs_cuda" in item.keywords and without_cuda:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))
