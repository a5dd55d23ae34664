"""Runs the commands of steps in processes of their own: alone at the terminal, or side by side with a log for each."""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from types import FrameType

from rsna_e2e.core.files import make_folder
from rsna_e2e.training.launch import supervise
from rsna_e2e.training.pipeline.planned_step import PlannedStep

_LINES_SHOWN = 10  # of what a command printed that failed


def run_command(step: PlannedStep, command: Sequence[str], environment: Mapping[str, str] = os.environ) -> int:
    """Run a step's command and return its exit code; training on everything that this machine has."""
    return supervise(_words(step, command), _suited(step, environment))


@contextmanager
def side_by_side(logs: Path, say: Callable[[str], None]) -> Iterator[Callable[[PlannedStep, Sequence[str]], int]]:
    """Give a function like `run_command` for threads: what a command prints goes to logs/STEP.log.

    Of one that fails, the last lines are said too. SIGTERM and SIGUSR1 are passed on to all commands that run;
    SIGINT comes from a terminal, to all processes at once.
    """
    is_told_to_end = Event()
    make_folder(logs)

    def execute(step: PlannedStep, command: Sequence[str]) -> int:
        path = logs / f"{step.name.replace('/', '-')}.log"
        with path.open("ab") as log:
            words = _words(step, command)
            code = supervise(words, _suited(step, os.environ), is_told_to_end=is_told_to_end, log=log)
        if code:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-_LINES_SHOWN:]
            for line in (f"the end of {path}:", *lines):
                say(line)
        return code

    def note(number: int, frame: FrameType | None) -> None:
        if number != signal.SIGINT:
            is_told_to_end.set()

    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    previous = {number: signal.signal(number, note) for number in numbers}
    try:
        yield execute
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _words(step: PlannedStep, command: Sequence[str]) -> list[str]:
    if step.verb == "train":
        return [sys.executable, "-m", "rsna_e2e.training.launch", *command[2:]]
    return [str(Path(sys.executable).parent / command[0]), *command[1:]]


def _suited(step: PlannedStep, environment: Mapping[str, str]) -> Mapping[str, str]:
    """A head on embeddings is trained by one process: ranks share a backbone's work, but each does all of a head's."""
    is_head = step.settings is not None and step.settings.model.backbone == "none"
    return {**environment, "NPROC": "1"} if is_head else environment
