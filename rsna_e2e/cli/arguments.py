"""Types of command line arguments that several verbs take."""

import argparse
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rsna_e2e.cli.verbs import add_task
from rsna_e2e.core.records import ID_RULES, N_FOLDS

if TYPE_CHECKING:
    from rsna_e2e.core.table_files import TableFile

SEED = 0  # of what is drawn once
# Named here too, because loading them takes longer than a --help may
RECIPES_OF_LABELS = (
    "demo, reference, ich_fastai, pe, pe_demo, xray_classify, xray_classify_demo, xray_transfer, xray_transfer_demo"
)
RECIPES_OF_RUNS = (
    f"{RECIPES_OF_LABELS}, xray_boxes, xray_boxes_demo, xray_masks, xray_segment, xray_segment_demo"  # of boxes
)


def at_least_one(text: str) -> int:
    """A whole number from 1."""
    return _integer(text, at_least=1)


def n_days(text: str) -> int:
    """A whole number of days from 1, a hundred years at most: dates end with the year 9999."""
    return _integer(text, at_least=1, at_most=36_500)


def n_rows(text: str) -> int:
    """A whole number of rows of a table from 1, a million at most."""
    return _integer(text, at_least=1, at_most=1_000_000)


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
    return _number(text, below=math.inf, what="a number above 0")


def share(text: str) -> float:
    """A number between 0 and 1, both left out."""
    return _number(text, below=1.0, what="a share between 0 and 1, such as 0.2")


def clip(text: str) -> float:
    """The least distance of a probability from 0 and 1."""
    return _number(text, below=0.5, what="a number between 0 and 0.5")


def seed(text: str) -> int:
    """A whole number from 0."""
    return _integer(text, at_least=0)


def add_raw(verb: "argparse._ActionsContainer", *, writes_boxes: bool = False) -> None:
    """Let the user say whether the values of a submission are made to obey the rules of the task.

    writes_boxes: and whether boxes of a low score are left out.
    """
    of_boxes = ", and of boxes those of at least the score that was best on the held-out fold" if writes_boxes else ""
    group = verb.add_mutually_exclusive_group()
    group.add_argument(
        "--consistent",
        dest="is_raw",
        action="store_false",
        default=False,
        help="write the nearest values that obey the rules of the task, where it has rules on which labels go "
        f"together{of_boxes} (the default; the tables beside the submission keep what was predicted)",
    )
    group.add_argument("--raw", dest="is_raw", action="store_true", help="write the values as they were predicted")


def add_columns(verb: "argparse._ActionsContainer") -> None:
    """Let the user say which columns of a label table hold what."""
    verb.add_argument(
        "--columns",
        type=_column,
        nargs="+",
        action="extend",
        default=[],
        metavar="ID|LABEL=COLUMN",
        help="of a label table whose columns have other names: ID=filename any=Hemorrhage (see docs/labels.md)",
    )


def add_also(verb: "argparse._ActionsContainer") -> None:
    """Let the user name a table that is joined to a label table."""
    verb.add_argument(
        "--also",
        type=Path,
        metavar="TABLE",
        help="a further label table of the same images, such as one that says in a word what each shows",
    )


def add_reading(verb: "argparse._ActionsContainer") -> None:
    """Let the user say what is read of a label table: the task, its columns, what its IDs are, and a further table."""
    add_columns(verb)
    add_also(verb)
    verb.add_argument(
        "--image-ids",
        choices=("auto", *ID_RULES),
        default="auto",
        help="what IDs are, in the labels and then in submissions: file names, paths in RAW, or SOP Instance UIDs "
        "(default: whichever matches most of the labels; without labels, file names)",
    )
    add_task(verb)


def add_division(verb: "argparse._ActionsContainer", *, folds: int | None) -> None:
    """Let the user say how patients are divided. folds: how many by default; None: a label set that is replaced, or an
    earlier one, may say how."""
    default = f"{N_FOLDS}, or as in the set that is replaced or an earlier one" if folds is None else folds
    seed_default, as_before = (None, ", or as in the set that is replaced") if folds is None else (SEED, "")
    verb.add_argument("--folds", type=at_least_one, default=folds, help=f"patient-level folds (default {default})")
    verb.add_argument(
        "--holdout",
        type=share,
        metavar="SHARE",
        help="put about this share of the labelled slices, by whole patients, into split test, where nothing is "
        "trained on; their labels are kept, for evaluate (default: only series without labels are split test"
        f"{as_before})",
    )
    verb.add_argument(
        "--seed",
        type=seed,
        default=seed_default,
        help=f"seed of the folds and of what --holdout chooses (default {SEED}{as_before})",
    )


def given_labels(options: argparse.Namespace) -> "TableFile | Literal['none', 'folders'] | None":
    """Return the table that `--labels` names, if any, or "none" or "folders". Raises UsageError for columns of none."""
    from rsna_e2e.core.errors import UsageError

    word = None if options.labels is None else str(options.labels)
    if options.columns and word in (None, "none", "folders"):
        raise UsageError("--columns: of which table? Name it with --labels")
    also = getattr(options, "also", None)  # of verbs that take a second table
    if also and word in (None, "none", "folders"):
        raise UsageError("--also: beside which table? Name it with --labels")
    if word == "none":
        return "none"
    if word == "folders":
        return "folders"
    return with_columns(options.labels, options.columns, also) if options.labels else None


def with_columns(path: Path, columns: "list[tuple[str, str]]", also: Path | None = None) -> "TableFile":
    """Return the label table at `path`, with what `--columns` says of it, and the table of `--also`. Raises UsageError
    for a name given twice."""
    from rsna_e2e.core.errors import UsageError
    from rsna_e2e.core.table_files import table_at

    names = [name for name, _ in columns]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"--columns: {twice[0]} is given twice. Keep the right one")
    return replace(table_at(path, dict(columns)), also=table_at(also) if also else None)


def add_checkpoint(verb: argparse.ArgumentParser) -> None:
    """Let the user choose a checkpoint of a run."""
    verb.add_argument(
        "--checkpoint",
        type=checkpoint,
        default="auto",
        metavar="auto|best|last|epoch-N",
        help="auto: best, else last; epoch-N: end of epoch N, if the run has checkpoint.keep_epochs=true",
    )


def add_device(verb: argparse.ArgumentParser) -> None:
    """Let the user choose where to compute."""
    verb.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if there is one"
    )


def add_settings(verb: argparse.ArgumentParser, *, file: str = "a config.yaml", recipes: str = RECIPES_OF_RUNS) -> None:
    """Let the user choose a recipe and override its values. file: the kind of file that a recipe may be."""
    verb.add_argument("--recipe", default="demo", help=f"{recipes}, or {file} (default demo)")
    verb.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="a.b=VALUE",
        help="override a value of the recipe; repeatable (rsna-e2e settings lists them)",
    )


def _column(text: str) -> tuple[str, str]:
    name, _, column = text.partition("=")
    if not name or not column:
        raise argparse.ArgumentTypeError(f"{text!r} is not ID=COLUMN or LABEL=COLUMN, such as any=Hemorrhage")
    return name, column


def _number(text: str, *, below: float, what: str) -> float:
    """A number above 0. what: it is, for the message."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value < below:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return value


def _integer(text: str, *, at_least: int, at_most: int | None = None) -> int:
    if not text.isdecimal() or int(text) < at_least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {at_least}")
    if at_most is not None and int(text) > at_most:
        raise argparse.ArgumentTypeError(f"{text!r} is more than {at_most}, the most there may be")
    return int(text)
