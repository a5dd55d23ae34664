"""What all verbs share."""

import argparse
from collections.abc import Callable
from typing import TypeAlias

from rsna_e2e.tasks import TASKS

Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


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


def add_task(verb: argparse.ArgumentParser) -> None:
    """Let the user choose what is predicted."""
    verb.add_argument("--task", choices=tuple(TASKS), default="ich", help="what is predicted (default ich)")
