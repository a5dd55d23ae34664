"""What all verbs share: their parser, and printing that escapes control characters."""

import argparse
import importlib.util
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn, TextIO, TypeAlias

from rsna_e2e.core.errors import MissingCapabilityError, UsageError
from rsna_e2e.core.records import printable
from rsna_e2e.tasks.catalogue import DEFAULT_TASK, TASKS, get_task
from rsna_e2e.tasks.task import Task

if TYPE_CHECKING:
    from rsna_e2e.store import Store

Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def tell(*lines: str, to: TextIO | None = None) -> None:
    """Print lines with control characters escaped, so that text from files cannot change the terminal.

    to: stdout by default. Everything that the command line prints goes through here.
    """
    print("\n".join(map(printable, lines)), file=to or sys.stdout, flush=True)


class _OnStderr(logging.Handler):
    """Shows log messages as the verbs show their own warnings."""

    def emit(self, record: logging.LogRecord) -> None:
        tell(f"{record.levelname.lower()}: {record.getMessage()}", to=sys.stderr)


@contextmanager
def one_line_warnings() -> Iterator[None]:
    """Show warnings and log messages of the package on stderr, each in one line, without the source line."""

    def in_one_line(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        return printable(f"{filename}:{lineno}: {category.__name__}: {message}") + "\n"

    before, warnings.formatwarning = warnings.formatwarning, in_one_line
    logger, handler = logging.getLogger("rsna_e2e"), _OnStderr()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        warnings.formatwarning = before


class Parser(argparse.ArgumentParser):
    """A parser whose error message is one line, with control characters of the arguments escaped."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the error, and exit with 2."""
        self.print_usage(sys.stderr)
        tell(f"{self.prog}: error: {message}", to=sys.stderr)
        self.exit(2)


def need(libraries: Sequence[str], *, extra: str, instead: str = "") -> None:
    """Raise MissingCapabilityError where a library of an extra is not installed. instead: what else helps."""
    missing = [name for name in libraries if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingCapabilityError(
            f"{' and '.join(missing)}: not installed; install with: pip install 'rsna_e2e[{extra}]'{instead}"
        )


def add_verb(
    verbs: Verbs,
    name: str,
    run: Callable[[argparse.Namespace], None],
    description: str,
    *examples: str,
) -> argparse.ArgumentParser:
    """Return the parser of a new verb, which calls `run`; its help is `description` and `examples` of command lines."""
    verb = verbs.add_parser(
        name,
        help=description,
        description=description,
        epilog="\n".join(["example:" if len(examples) == 1 else "examples:", *(f"  {line}" for line in examples)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.set_defaults(run=run)
    return verb


def add_task(verb: "argparse._ActionsContainer", *, of_store: bool = False) -> None:
    """Let the user choose what is predicted. of_store: by default, what the only label set of a store is of."""
    default = f"that of the store's labels, without any {DEFAULT_TASK}" if of_store else DEFAULT_TASK
    verb.add_argument(
        "--task",
        default=None if of_store else DEFAULT_TASK,
        metavar="NAME|FILE",
        help=f"what is predicted: {', '.join(TASKS)}, or the YAML file of a task of your own (default {default})",
    )


def given_task(options: argparse.Namespace) -> Task | None:
    """Return the task that `--task` names; None where it was left to the labels of the store."""
    return None if options.task is None else get_task(options.task)


def task_of_store(given: Task | None, store: "Store") -> Task:
    """Return the task that was given, or the one of this package that a store was opened with the labels of."""
    name = store.task_name or DEFAULT_TASK
    if given is None and name not in TASKS:
        raise UsageError(
            f"{store.path}: has labels of task {name:.100}. Give the YAML file of that task with --task FILE"
        )
    return given or TASKS[name]
