"""One part of a check of a GPU, in this process: python part.py NAME --journal FILE [--device cpu --scale tiny] ...

Exit code 0: all is well, 1: something failed, 4: what it needs is not here.
"""

import argparse
import importlib
import sys
from pathlib import Path

from context import Context, MissingError
from journal import Journal
from runner import MISSING

FAILED = 1
# Part -> the module that has it as a function. What one part needs, another may do without.
MODULES = {
    "unpack": "part_setup",
    "extension": "part_setup",
    "parity": "part_tests",
    "sanitizers": "part_tests",
    "dali": "part_tests",
    "loader": "part_tests",
    "kernel": "part_kernel",
    "counters": "part_kernel",
    "step": "part_step",
    "more_steps": "part_step",
    "compiled_step": "part_step",
    "lifetimes": "part_loading",
    "store": "part_store",
    "end_to_end_dali": "part_store",
    "end_to_end_torch": "part_store",
    "memory": "part_store",
}


def parse(arguments: list[str] | None = None) -> Context:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=MODULES)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--scale", choices=("full", "tiny"), default="full")
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--pack", type=Path)
    chosen = parser.parse_args(arguments)
    return Context(chosen.part, Journal(chosen.journal), chosen.device, chosen.scale, chosen.scratch, chosen.pack)


def main(arguments: list[str] | None = None) -> int:
    context = parse(arguments)
    run = getattr(importlib.import_module(MODULES[context.part]), context.part)
    try:
        run(context)
    except MissingError as error:
        context.figure("missing", {"failed": str(error)})
        return MISSING
    return 0 if context.is_good else FAILED


if __name__ == "__main__":
    sys.exit(main())
