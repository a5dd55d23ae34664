"""Runs the commands of steps in processes of their own: alone at the terminal, or side by side with a log for each."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rsna_e2e.core.files import make_folder
from rsna_e2e.training.launch import noted_signals, supervise
from rsna_e2e.training.pipeline.planned_step import PlannedStep

_LINES_SHOWN = 10  # of what a command printed that failed


def run_command(step: PlannedStep, command: Sequence[str], environment: Mapping[str, str] = os.environ) -> int:
    """Run a step's command and return its exit code; training on everything that this machine has."""
    return supervise(_words(step, command), _suited(step, environment))


@contextmanager
def side_by_side(logs: Path, say: Callable[[str], None]) -> Iterator[Callable[[PlannedStep, Sequence[str]], int]]:
    """Give a function like `run_command` for threads: what a command prints goes to logs/STEP.log.

    Of one that fails, the last lines are said too. SIGTERM and SIGUSR1 are passed on to all commands that run.
    """
    make_folder(logs)

    def execute(step: PlannedStep, command: Sequence[str]) -> int:
        path = logs / f"{step.file_name}.log"
        with path.open("ab") as log:
            words = _words(step, command)
            code = supervise(words, _suited(step, os.environ), is_told_to_end=is_told_to_end, log=log)
        if code:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-_LINES_SHOWN:]
            for line in (f"the end of {path}:", *lines):
                say(line)
        return code

    with noted_signals() as is_told_to_end:
        yield execute


def _words(step: PlannedStep, command: Sequence[str]) -> list[str]:
    if step.verb == "train":
        return [sys.executable, "-m", "rsna_e2e.training.launch", *command[2:]]
    return [str(Path(sys.executable).parent / command[0]), *command[1:]]


def _suited(step: PlannedStep, environment: Mapping[str, str]) -> Mapping[str, str]:
    """A head on embeddings is trained by one process: ranks share a backbone's work, but each does all of a head's."""
    is_head = step.settings is not None and step.settings.model.backbone == "none"
    return {**environment, "NPROC": "1"} if is_head else environment
