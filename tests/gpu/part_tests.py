"""Parts that run the tests of this folder on the device; in a rehearsal they are collected, and a few that compute the
same on the CPU are run in their place."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from context import Context, MissingError
from packing import ROOT

from rsna_e2e.loader.kernels import dali_plugin

SAVED_EVERY_S = 5.0  # what has been found by then is not lost with the process
N_SHOWN = 400  # characters of what a test that fails says
OPTIONS = ("-W", "default", "-p", "no:cacheprovider", "-q")
WITHOUT_DALI = ("tests/gpu", "-m", "needs_cuda and not needs_dali", "--ignore=tests/gpu/test_loader_gpu.py")
NO_OPCHECK = ("-k", "not opcheck")  # asks nothing of a device that the CPU does not, and takes long
SANITIZED = ("tests/gpu/test_parity.py", "-k", "(test_sizes and dtype1 and 3-) or test_content_box")
SANITIZERS = {"memcheck": "bad accesses", "racecheck": "races in shared memory"}
SANITIZE_S = 240.0


@dataclass
class Counts:
    """A pytest plugin that counts outcomes and writes them down as they come."""

    context: Context
    name: str
    passed: int = 0
    skipped: int = 0
    failed: list[str] = field(default_factory=list)
    collected: int = 0
    saved_s: float = field(default_factory=time.monotonic)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.collected = len(session.items)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)
            self.context.figure(report.nodeid, {"failed": str(report.longrepr)[-N_SHOWN:]})
        elif report.skipped:
            self.skipped += 1
        elif report.when == "call":
            self.passed += 1
        if time.monotonic() - self.saved_s > SAVED_EVERY_S:
            self.saved_s = time.monotonic()
            self.context.figure(f"{self.name}, so far", self.values())

    def values(self) -> dict[str, Any]:
        return {"passed": self.passed, "n_failed": len(self.failed), "skipped": self.skipped, "of": self.collected}


def parity(context: Context) -> None:
    """The operators on the device give the bits of the CPU: all tests of this folder that need no DALI and no store."""
    _run(
        context,
        "tests of the operators",
        (*WITHOUT_DALI, *NO_OPCHECK),
        instead=("tests/loader/test_torch_ops_sizes.py",),
    )


def dali(context: Context) -> None:
    """DALI's operators on the device."""
    _need_dali()
    loaded = dali_plugin.load()
    context.figure("DALI", {"version": loaded.__version__, "folder": str(Path(loaded.__file__).parent)})
    instead = ("tests/loader/test_dali_ops.py", "-k", "one_size or content")
    _run(context, "tests of DALI's operators", ("tests/gpu/test_dali_gpu.py",), instead=instead, needs="cuda,dali")


def loader(context: Context) -> None:
    """The loader on the device, with DALI and without, and a model that trains on it."""
    _need_dali()
    files = ("tests/gpu/test_loader_gpu.py",)
    _run(
        context,
        "tests of the loader",
        files,
        instead=("tests/loader/test_loader_backends.py", "-k", "every_backend"),
        needs="cuda,dali",
    )


def sanitizers(context: Context) -> None:
    """Bad accesses and races, in a few of the tests that meet every way through the kernels."""
    if context.is_rehearsal:
        context.stand_in("compute-sanitizer")
    for tool, what in SANITIZERS.items():
        context.take(f"{tool}: {what}", lambda tool=tool: _sanitize(tool, context))


def _sanitize(tool: str, context: Context) -> dict[str, Any]:
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        raise MissingError("there is no compute-sanitizer on the PATH")
    command = [
        *(sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable, "-m", "pytest"),
        *(*SANITIZED, *OPTIONS),
    ]
    environment = os.environ | ({} if context.is_rehearsal else {"RSNA_FAIL_WITHOUT": "cuda"})
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SANITIZE_S)
    last = (done.stdout.strip().splitlines() or ["nothing"])[-1]
    if done.returncode != 0:
        raise RuntimeError(f"exit code {done.returncode}: {done.stdout[-1500:]}")
    return {"said": last}


def _need_dali() -> None:
    if not dali_plugin.is_installed():
        raise MissingError("DALI or the plugin for it is not here: was its other half carried, by the first command?")


def _run(context: Context, name: str, files: tuple[str, ...], *, instead: tuple[str, ...], needs: str = "cuda") -> None:
    """Run tests, for a device; in a rehearsal see that they can be read, and run others."""
    os.chdir(ROOT)
    if context.is_rehearsal:
        context.stand_in(f"{name} on a device")
        counts = _pytest(context, f"{name}, collected", (*files, "--collect-only"))
        if counts.collected == 0:
            context.is_good = False
        files = instead
    else:
        os.environ["RSNA_FAIL_WITHOUT"] = needs
    counts = _pytest(context, name, files)
    if counts.failed or counts.passed == 0:
        context.is_good = False


def _pytest(context: Context, name: str, arguments: tuple[str, ...]) -> Counts:
    counts = Counts(context, name)
    code = pytest.main([*arguments, *OPTIONS], plugins=[counts])
    context.figure(name, counts.values())
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        context.is_good = False
    return counts
