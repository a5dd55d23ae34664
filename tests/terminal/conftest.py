"""One store and two models for all tests of the console."""

import consoles
import pytest


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> consoles.Made:
    return consoles.make(tmp_path_factory.mktemp("console"))
