"""What a run and a benchmark say of the code that they ran."""

import subprocess
from pathlib import Path

import pytest

import rsna_e2e
from rsna_e2e.core import machine

PACKAGE = Path(rsna_e2e.__file__).parent


def test_the_code_is_every_module_and_extension_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    monkeypatch.setattr(machine, "sha256_of", lambda path: read.append(path) or "0")
    machine.code_sha256()
    assert sorted(read) == sorted(path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".so"))
    assert {"cli/program.py", "core/machine.py", "loader/kernels/_C.abi3.so"} <= {
        path.relative_to(PACKAGE).as_posix() for path in read
    }


@pytest.mark.skipif(not (PACKAGE.parent / ".git").exists(), reason="no checkout")
def test_the_commit_is_that_of_the_checkout() -> None:
    words = ["git", "-C", str(PACKAGE.parent), "rev-parse", "HEAD"]
    head = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    described = machine.commit()
    assert described is not None
    assert head.startswith(described.removesuffix("+"))
    assert len(described) >= 7
