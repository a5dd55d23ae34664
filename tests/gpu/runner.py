"""Runs the parts of a check one after the other, each in a process of its own with a limit of its own.

A part that raises, hangs or takes its process down (an error that CUDA never recovers from) ends alone.
"""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from journal import Journal, Line

MISSING = 4  # exit code of a part that lacks what it needs
GRACE_S = 3.0  # between the request to end and the end
LEAST_S = 10.0  # a process that imports torch begins to be of use after this
_PR_SET_PDEATHSIG = 1  # prctl(2)

Status = Literal["passed", "failed", "overran", "died", "missing", "left out", "done before"]
GOOD = ("passed", "done before")


@dataclass(frozen=True)
class Part:
    """A command and the most time it may take, s; with less than `least_s` left it is not begun.

    prepares: others need what it leaves on this machine, so that it is run whatever was done before.
    """

    name: str
    command: tuple[str, ...]
    limit_s: float
    least_s: float = LEAST_S
    prepares: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a part ended, after how many seconds."""

    name: str
    status: Status
    elapsed_s: float
    detail: str = ""

    @property
    def is_good(self) -> bool:
        return self.status in GOOD

    def __str__(self) -> str:
        return f"{self.name}: {self.status}, {self.elapsed_s:.1f} s{f' ({self.detail})' if self.detail else ''}"


def run_parts(
    parts: Sequence[Part],
    journal: Journal,
    *,
    budget_s: float,
    log: Path,
    environment: Mapping[str, str],
    again: Sequence[str] = (),
    say: Callable[[str], None] = lambda message: None,
) -> list[Outcome]:
    """Run parts in their order, the most valuable first, within `budget_s` in all; those that no time is left for are
    left out, and those that the journal knows as passed are not run again unless named in `again`.

    Output of the parts goes to `log`. What they wrote into the journal is said as soon as they end.
    """
    ends_s = time.monotonic() + budget_s
    before = {line["part"] for line in journal.lines("part") if line["status"] == "passed"} - set(again)
    outcomes = []
    for part in parts:
        n_known = len(journal.lines())
        left_s = ends_s - time.monotonic()
        if part.name in before and not part.prepares:
            outcome = Outcome(part.name, "done before", 0.0)
        elif left_s < min(part.least_s, part.limit_s):
            outcome = Outcome(part.name, "left out", 0.0, f"{max(left_s, 0):.0f} s are left")
        else:
            outcome = _run(part, limit_s=min(part.limit_s, left_s), log=log, environment=environment)
        for line in journal.lines()[n_known:]:
            say(describe(line))
        if outcome.status != "done before":
            values = {"status": outcome.status, "elapsed_s": round(outcome.elapsed_s, 2), "detail": outcome.detail}
            journal.append("part", part=part.name, **values)
        say(str(outcome))
        outcomes.append(outcome)
    return outcomes


def describe(line: Line) -> str:
    """A line of a journal for the terminal."""
    rest = {key: value for key, value in line.items() if key not in ("kind", "utc", "part", "name")}
    shown = ", ".join(f"{key} {_short(value)}" for key, value in rest.items())
    return f"  {line.get('part', line['kind'])}: {line.get('name', '')}: {shown}"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _run(part: Part, *, limit_s: float, log: Path, environment: Mapping[str, str]) -> Outcome:
    began_s = time.monotonic()
    with log.open("ab") as output:
        output.write(f"\n===== {part.name} =====\n".encode())
        output.flush()
        process = subprocess.Popen(
            part.command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        try:
            code = process.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end_group(process)
    return _outcome(part.name, code, time.monotonic() - began_s, limit_s)


def _outcome(name: str, code: int | None, elapsed_s: float, limit_s: float) -> Outcome:
    if code is None:
        return Outcome(name, "overran", elapsed_s, f"stopped after {limit_s:.0f} s")
    if code < 0:
        return Outcome(name, "died", elapsed_s, f"of {signal.Signals(-code).name}")
    if code == MISSING:
        return Outcome(name, "missing", elapsed_s, "what it needs is not here; the log says what")
    return Outcome(name, "failed" if code else "passed", elapsed_s, f"exit code {code}" if code else "")


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it started: first by request, so that pytest and profilers can put away."""
    for how, wait_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, GRACE_S)):
        try:
            os.killpg(process.pid, how)
        except ProcessLookupError:
            break
        ends_s = time.monotonic() + wait_s
        while process.poll() is None and time.monotonic() < ends_s:
            time.sleep(0.02)
    process.wait()


def _die_with_parent() -> None:
    """Ask Linux to kill this process when the one that started it is gone: no part may hold the GPU after that."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
