"""Training runs in processes of their own, that can be killed, and what they leave compared with one that was not.

Importing torch takes seconds, so a nursery imports once and forks a child for every run; it has no threads by then.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rsna_e2e.config import RunConfig, save_config
from rsna_e2e.training.checkpoint import CheckpointState, find_checkpoint

PATIENCE_S = 120.0  # for a step, or the end, of a tiny run on a machine that others use too
FILES = ("model.safetensors", "optimizer.safetensors", "ema.safetensors")
TIMES = ("slices_per_s", "wait_s", "stalls")  # what no two runs have in common

# Reads a line for every run to start, answers with its number; a line with a number waits for that one's exit status.
_NURSERY = """
import json, os, sys
import rsna_e2e.training.train
from rsna_e2e.cli import main

for line in sys.stdin:
    order = json.loads(line)
    if isinstance(order, int):
        print(os.waitstatus_to_exitcode(os.waitpid(order, 0)[1]), flush=True)
        continue
    child = os.fork()
    if child == 0:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(order["errors"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        raise SystemExit(main(order["arguments"]))
    print(child, flush=True)
"""


def command_line(store: Path, run: Path, config: RunConfig, *words: str) -> list[str]:
    """Arguments of `rsna-e2e` that train with `config`."""
    recipe = run.with_suffix(".yaml")
    save_config(config, path=recipe)
    return ["train", str(store), str(run), "--recipe", str(recipe), "--device", "cpu", *words]


def one_thread() -> dict[str, str]:
    """The environment of a run whose sums are always added in one order."""
    return os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}


class Nursery:
    """Starts runs of `rsna-e2e` as processes."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [sys.executable, "-c", _NURSERY], stdin=pipe, stdout=pipe, text=True, env=one_thread()
        )

    def start(self, arguments: Sequence[str], *, errors: Path) -> "TrainingRun":
        """Start a run in a session of its own; what it says goes to the file `errors`."""
        return TrainingRun(self, self._ask({"arguments": arguments, "errors": str(errors)}), errors)

    def wait(self, process: int) -> int:
        """Return a run's exit code once it has ended: minus the signal, if that ended it."""
        return self._ask(process)

    def close(self) -> None:
        """End the nursery."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _ask(self, order: Any) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


class TrainingRun:
    """A run under way."""

    def __init__(self, nursery: Nursery, process: int, errors: Path) -> None:
        self._nursery, self.process, self._errors = nursery, process, errors

    def wait(self) -> int:
        """Wait for the end; return the exit code."""
        return self._nursery.wait(self.process)

    def kill(self, number: int = signal.SIGKILL) -> int:
        """Send a signal, wait for the end, and return the exit code."""
        os.kill(self.process, number)
        return self.wait()

    @property
    def says(self) -> str:
        """What it has written to its standard error."""
        return self._errors.read_text()

    @property
    def has_ended(self) -> bool:
        """Whether it is no more than an exit code."""
        return Path(f"/proc/{self.process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"

    def until_step(self, run: Path, step: int) -> None:
        """Wait until its log has a step at least that late. Fails when it ends before."""
        self.until(lambda: last_step(run) >= step)

    def until(self, holds: Any) -> None:
        """Wait until `holds()` does, as closely as can be. Fails when the run ends before, or time does."""
        started_s = time.monotonic()
        while not holds():
            assert not self.has_ended, f"ended too early: {self.says}"
            assert time.monotonic() - started_s < PATIENCE_S, self.says
            time.sleep(0.0005)


def last_step(run: Path) -> int:
    """The step of the last whole line of a run's log; 0 without one."""
    metrics = run / "metrics.jsonl"
    lines = metrics.read_bytes().split(b"\n")[:-1] if metrics.exists() else []
    return int(json.loads(lines[-1])["step"]) if lines else 0


def metrics(run: Path) -> list[dict[str, Any]]:
    """A run's log, without times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def last_state(run: Path) -> CheckpointState:
    """What the last checkpoint says of itself, without its time."""
    path = find_checkpoint(run, "last") / "checkpoint.json"
    state = CheckpointState.model_validate(json.loads(path.read_text())["state"])
    return state.model_copy(update={"elapsed_s": 0.0})


def assert_same_end(run: Path, other: Path) -> None:
    """Weights, optimiser and average bitwise the same; the same counters; the same log, without gaps."""
    last, expected = find_checkpoint(run, "last"), find_checkpoint(other, "last")
    assert last.name == expected.name
    for name in FILES:
        assert (last / name).read_bytes() == (expected / name).read_bytes(), name
    assert last_state(run) == last_state(other)
    assert metrics(run) == metrics(other)
    steps = [line["step"] for line in metrics(run) if line["kind"] != "validation"]
    assert steps == list(range(1, len(steps) + 1))
