"""Both commands of a check, from packing to the page of figures, on the CPU at tiny size: no part of it is run for the
first time where time is short."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import packing
import pytest
from journal import Line, read
from made_up_pack import copy_checkout, make_site, make_wheels
from packing import PackError, Packing, pack
from plan import COMMANDS, NOT_REHEARSED

WITHIN_S = 300.0  # both commands, of the processor: what others on the same cores do makes no difference to that
PYTHON = f"{sys.version_info.major}{sys.version_info.minor}"
MOST_FILES = 8  # that come back from such a machine
pytestmark = pytest.mark.needs_dali


class Machine:
    """A checkout as it arrives, to which one folder at a time is carried, and a folder for what comes back."""

    def __init__(self, folder: Path, pack_folder: Path) -> None:
        self._pack, self.scratch = pack_folder, folder / "scratch"
        self.checkout = copy_checkout(folder / "checkout")
        self.out = folder / "out"

    def start(self, command: int, *arguments: str) -> "subprocess.Popen[str]":
        """Give a command: nothing of this process's environment leads back to the checkout under test."""
        shutil.rmtree(self.checkout / "gpu_pack", ignore_errors=True)
        shutil.copytree(self._pack / str(command), self.checkout / "gpu_pack" / str(command))
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment |= {"PYTHON": sys.executable, "OUT": str(self.out)}
        given = ["--part", str(command), "--rehearse", "--scratch", str(self.scratch), *arguments]
        return subprocess.Popen(
            ["bash", "bin/check_gpu.sh", *given],
            cwd=self.checkout,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, command: int, *arguments: str) -> str:
        """Give a command, see that it says that all is well, and return what it printed."""
        process = self.start(command, *arguments)
        printed, _ = process.communicate()
        log = self.out / "log.txt"
        assert process.returncode == 0, f"{printed}\n{log.read_text() if log.is_file() else ''}"
        return printed

    @property
    def lines(self) -> list[Line]:
        return list(read(self.out / "figures.jsonl"))

    def statuses(self) -> dict[str, str]:
        """How each part ended, the last time."""
        return {line["part"]: line["status"] for line in self.lines if line["kind"] == "part"}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """With the libraries that are built here, made-up packages, and a made-up half DALI each time."""
    folder = tmp_path_factory.mktemp("rehearsal")
    site = make_site(folder / "installed", b"\0")
    pack(folder / "pack", Packing(python=PYTHON), site=site, fetch=make_wheels, commit="abc1234")
    return Machine(folder, folder / "pack")


def test_both_commands_though_the_first_is_killed(machine: Machine) -> None:
    """Of each command what is quick; all of it in the slow test below, and test_parts.py has each part by itself."""
    few = ("--only", "unpack", "extension", "kernel", "step")
    killed = machine.start(1, *few)
    while not _figures(machine.lines, "step"):
        assert killed.poll() is None, killed.communicate()[0]
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    found = machine.lines
    assert machine.statuses() == dict.fromkeys(("unpack", "extension", "kernel"), "passed")
    assert len(_figures(found, "kernel")) >= 10

    printed = machine.run(1, *few)
    assert machine.lines[: len(found)] == found
    assert "kernel: done before" in printed
    assert "NOT REHEARSED: " + "; ".join(NOT_REHEARSED) in printed
    machine.run(2, "--only", "unpack", "dali")
    check_all(machine, {"unpack", "extension", "kernel", "step", "dali"})
    assert (machine.checkout / "rsna_e2e/loader/kernels/_C.abi3.so").is_file()
    assert (machine.scratch / "site/nvidia/dali/carried.txt").is_file()
    assert (machine.scratch / "site/carried_pydantic.py").read_text() == f"PYTHON = '{PYTHON}'\n"


def test_a_part_that_lacks_something_is_not_passed_over(machine: Machine) -> None:
    out = machine.out.with_name("other")
    process = machine.start(2, "--only", "unpack", "memory", "--out", str(out), "--scratch", str(out))
    printed, _ = process.communicate()
    assert process.returncode == 1
    assert "NOT WELL: memory: missing" in printed
    assert "the part that makes the store has not" in (out / "page.md").read_text()


def check_all(machine: Machine, wanted: set[str]) -> None:
    """Every part passed, no figure failed, no test was skipped, and what stood in for a GPU's own is in the list."""
    lines = machine.lines
    assert machine.statuses() == dict.fromkeys(wanted, "passed")
    assert [line for line in lines if "failed" in line] == []
    assert {line["name"] for line in lines if line["kind"] == "stand_in"} <= set(NOT_REHEARSED)
    counts = [line for line in lines if line.get("name", "").startswith("tests of") and "passed" in line]
    assert all(line["skipped"] == line["n_failed"] == 0 and line["of"] > 0 for line in counts)
    assert sum(line["passed"] for line in counts) >= 10
    assert {line["commit"] for line in lines if line["kind"] == "machine"} == {"abc1234"}
    files = sorted(path.name for path in machine.out.iterdir())
    assert files == ["figures.jsonl", "log.txt", "page.md"]
    assert len(files) <= MOST_FILES
    page = (machine.out / "page.md").read_text()
    assert "**A rehearsal on a CPU, at tiny size: no figure here is one of a GPU.**" in page
    for line in _figures(lines, *wanted):
        assert f"| {line['name']} |" in page


def processor_s() -> float:
    """Seconds of the processor that processes started from here took, so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _figures(lines: list[Line], *parts: str) -> list[Line]:
    return [line for line in lines if line["kind"] == "figure" and line["part"] in parts]


@pytest.fixture(scope="module")
def real_pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is really carried, for this Python; minutes, and wheels from a network."""
    folder = tmp_path_factory.mktemp("packed") / "pack"
    try:
        packing.fetch_wheels(packing.locked(["gast"]), folder / "tried", PYTHON)
    except PackError as error:
        pytest.skip(f"NOT PACKED: {error}")
    command = [sys.executable, "tests/gpu/check_gpu.py", "--pack", str(folder), "--python", PYTHON]
    done = subprocess.run([*command, "--commit", "abc1234"], cwd=packing.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert f"command 2, with the checkout and {folder / '2'}: bin/check_gpu.sh --part 2" in done.stdout
    return folder


@pytest.mark.slow
def test_both_commands_with_all_that_is_carried(real_pack: Path, tmp_path: Path) -> None:
    machine = Machine(tmp_path, real_pack)
    began_s = processor_s()
    machine.run(1)
    machine.run(2, "--sanitize")
    elapsed_s = processor_s() - began_s
    check_all(machine, {one.name for planned in COMMANDS.values() for one in planned} | {"sanitizers"})
    assert {line["name"] for line in machine.lines if line["kind"] == "stand_in"} == set(NOT_REHEARSED)
    (versions,) = [line for line in machine.lines if line.get("name") == "DALI"]
    assert Path(versions["folder"]) == machine.scratch / "site/nvidia/dali"
    assert elapsed_s < WITHIN_S
    _run_carried_dali(machine, tmp_path / "bare")


def _run_carried_dali(machine: Machine, bare: Path) -> None:
    """DALI and the packages as carried, in a Python that has torch and no more of its own: its operator on the CPU."""
    _link_all_but_carried(bare, machine.scratch / "site")
    code = """
import sys, pydantic, pydicom, torch
import dali_runs
from rsna_e2e.loader.kernels import dali_plugin
from rsna_e2e.loader.kernels import torch_ops
dali = dali_plugin.load()
for module in (dali, pydantic, pydicom):
    assert module.__file__.startswith(sys.argv[1]), module.__file__
for shapes in dali_runs.SHAPES.values():
    batch = dali_runs.batch_of(shapes)
    (output,) = dali_runs.run_pipeline([batch])
    assert torch.equal(dali_runs.to_torch(output), dali_runs.expect(batch))
print("the same bits")
"""
    paths = (machine.checkout, machine.checkout / "tests", machine.scratch / "site", bare)
    environment = {"PYTHONPATH": ":".join(map(str, paths)), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-S", "-c", code, str(machine.scratch / "site")]
    done = subprocess.run(command, env=environment, cwd=machine.out, capture_output=True, text=True)
    assert done.stdout == "the same bits\n", done.stderr


def _link_all_but_carried(bare: Path, site: Path) -> None:
    """A folder of packages as installed here, without those that were carried."""
    carried = {path.name for path in site.iterdir()}
    installed = packing.find_dali()
    (bare / "nvidia").mkdir(parents=True)
    for path in installed.iterdir():
        if path.name not in carried and path.suffix != ".pth":
            (bare / path.name).symlink_to(path)
    for path in (installed / "nvidia").iterdir():
        if path.name != "dali":
            (bare / "nvidia" / path.name).symlink_to(path)
