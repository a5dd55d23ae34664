"""Types of command line arguments that several verbs take."""

import argparse
import math
import re


def at_least_one(text: str) -> int:
    """A whole number from 1."""
    return _integer(text, at_least=1)


def checkpoint(text: str) -> str:
    """Which checkpoint of a run: auto, best, last or epoch-N."""
    if not re.fullmatch(r"auto|best|last|epoch-[1-9]\d{0,12}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is not auto, best, last or epoch-N, such as epoch-3")
    return text


def checkpoints(text: str) -> str:
    """The name of a checkpoint, or epochs: the end of every epoch."""
    return text if text == "epochs" else checkpoint(text)


def learning_rate(text: str) -> float:
    """A number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def seed(text: str) -> int:
    """A whole number from 0."""
    return _integer(text, at_least=0)


def add_device(verb: argparse.ArgumentParser) -> None:
    """Let the user choose where to compute."""
    verb.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if there is one"
    )


def add_settings(verb: argparse.ArgumentParser, *, file: str = "a config.yaml") -> None:
    """Let the user choose a recipe and override its values. file: the kind of file that a recipe may be."""
    verb.add_argument("--recipe", default="demo", help=f"demo, reference, or {file} (default demo)")
    verb.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="a.b=VALUE",
        help="override a value of the recipe; repeatable (rsna-e2e settings lists them)",
    )


def _integer(text: str, *, at_least: int) -> int:
    if not text.isdecimal() or int(text) < at_least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {at_least}")
    return int(text)
