"""Whether commands and settings inside sentences are ones of the program: its verbs, options, choices and settings.

Such a command may leave arguments out, and words in capitals stand for something.
"""

import argparse
import re
import shlex
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from command_rules import RULES, Context, program
from documents import ROOT
from workshop import Workshop

from rsna_e2e.config import load_config, load_two_stage
from rsna_e2e.core.errors import RsnaError

# The verb behind a script that hands its options on
BEHIND = {"bin/train.sh": "train", "bin/pipeline.sh": "pipeline"}

# What a script calls: other scripts, programs of the tests, and the launcher of training with what reads its variables
CALLED = re.compile(r"\b(\w+\.sh|tests/gpu/\w+\.py|rsna_e2e\.training\.launch)\b")
LAUNCHER = ("rsna_e2e/training/launch.py", "rsna_e2e/training/meeting.py")

SET_FOR_SCRIPT = re.compile(r"((?:\b[A-Z][A-Z_]*=\S+\s+)+)((?:bin|docker)/\w+\.sh)")

LOADERS: tuple[tuple[Callable[..., object], str], ...] = tuple(
    (load, recipe) for load in (load_config, load_two_stage) for recipe in ("demo", "reference")
)


def wrong_code(code: str) -> str | None:
    """What is wrong with code inside a sentence; None where it is right or no command."""
    try:
        words = [word.rstrip(",") for word in shlex.split(code)]
    except ValueError:  # an apostrophe
        return None
    if "…" in code or "..." in code or not words:
        return None
    if wrong := wrong_variables(code):
        return wrong
    while "=" in words[0] and words[0].split("=")[0].isupper() and len(words) > 1:
        words = words[1:]
    if words[0] == "rsna-e2e":
        return wrong_verb(words[1:])
    if words[0] in subparsers(program()) and any(word.startswith("--") for word in words):
        return wrong_verb(words)
    if re.fullmatch(r"(bin|docker)/\w+\.sh", words[0]):
        return _wrong_script(words)
    if words[:2] == ["pip", "install"]:
        return _wrong_install(words[1:])
    settings = [following for word, following in pairwise(words) if word == "--set"]
    if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+=\S+", code):
        settings.append(code)
    return _wrong_settings(settings)


def wrong_verb(words: list[str]) -> str | None:
    """What of a verb and its options the program's parser does not have."""
    parser = program()
    while words and (below := subparsers(parser)) and not words[0].startswith("-"):
        if words[0] == "VERB":
            return None
        if words[0] not in below:
            return f"there is no verb {words[0]}"
        parser, words = below[words[0]], words[1:]
    for word, following in pairwise([*words, ""]):
        option, _, value = word.partition("=")
        if not re.match(r"--\w", word):
            continue
        if option not in parser._option_string_actions:
            return f"{parser.prog} has no option {option}"
        choices = parser._option_string_actions[option].choices
        named = (value or following).split("|")
        if choices and named[0].islower() and not set(named) <= set(choices):
            return f"{parser.prog} {option} takes {', '.join(choices)}"
    return _wrong_settings([following for word, following in pairwise(words) if word == "--set"])


def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The verbs below a parser, by name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _wrong_script(words: list[str]) -> str | None:
    """A script that is not there, or an option that neither it nor the verb behind it has."""
    script, *rest = words
    path = ROOT / script
    if not path.is_file():
        return f"there is no {script}"
    own = _with_called(script)
    verb = next((verb for name, verb in BEHIND.items() if name == script or name.split("/")[1] in own), None)
    for option in (word.partition("=")[0] for word in rest if re.match(r"--\w", word)):
        if option not in own and (verb is None or wrong_verb([verb, option])):
            return f"{script} has no option {option}"
    return None


def wrong_variables(text: str) -> str | None:
    """A variable that is set for a script and that neither it nor what it calls reads: a misspelt one has no effect."""
    for variables, script in SET_FOR_SCRIPT.findall(text):
        for name in re.findall(r"\b([A-Z_]+)=", variables):
            if (ROOT / script).is_file() and not re.search(rf"\b{name}\b", _with_called(script)):
                return f"{script} reads no variable {name}"
    return None


def _with_called(script: str) -> str:
    """The text of a script, and of what it calls."""
    texts, left = {}, [script]
    while left:
        name = left.pop()
        texts[name] = (ROOT / name).read_text()
        for called in CALLED.findall(texts[name]) if name.endswith(".sh") else []:
            names = (
                LAUNCHER
                if called.startswith("rsna")
                else (called if "/" in called else f"{Path(name).parent}/{called}",)
            )
            left += [one for one in names if one not in texts and (ROOT / one).is_file()]
    return "".join(texts.values())


def _wrong_install(words: list[str]) -> str | None:
    try:
        RULES["pip"](words, {}, Context(Workshop(ROOT)))
    except AssertionError as error:
        return str(error)
    return None


def _wrong_settings(settings: list[str]) -> str | None:
    """What no recipe has of settings, or a value that it does not take. In capitals, a value stands for something."""
    pairs = [setting.partition("=") for setting in settings if setting != "a.b=value" and not setting.isupper()]
    stands_for = any(value.isupper() for _, _, value in pairs)
    plain = [f"{name}={'null' if value.isupper() else value}" for name, _, value in pairs]
    errors = []
    for load, recipe in LOADERS:
        try:
            load(recipe, plain)
            return None
        except RsnaError as error:
            errors.append(str(error))
    if stands_for and any("there is no" not in error for error in errors):
        return None
    return min(errors, key=lambda error: "there is no section" in error)  # of the kind that has such a section
