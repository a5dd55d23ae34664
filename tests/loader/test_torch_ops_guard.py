"""The built CPU kernels read nothing outside their input: it lies between pages that nobody may read."""

import signal
import subprocess
import sys

import guard_pages
import pytest

from rsna_e2e.loader.kernels import torch_ops


def run(n_cases: int, beyond: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, guard_pages.__file__, str(n_cases), str(beyond)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("n_cases", [40, pytest.param(600, marks=pytest.mark.slow)])
def test_nothing_is_read_beside_the_input(n_cases: int) -> None:
    done = run(n_cases, 0)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == f"{n_cases} cases, {' '.join(torch_ops.cpu_instruction_sets())}\n"


def test_one_value_too_far_is_found() -> None:
    assert run(40, 1).returncode == -signal.SIGSEGV
