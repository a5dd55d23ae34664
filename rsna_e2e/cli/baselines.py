"""The verb that predicts from headers alone: baseline."""

import argparse
import math
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from rsna_e2e.cli.arguments import add_raw, seed
from rsna_e2e.cli.predictions import say_truth
from rsna_e2e.cli.verbs import Verbs, add_task, add_verb, given_task, task_of_store, tell
from rsna_e2e.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rsna_e2e.evaluation.header_baseline import LabelBaseline


def add_baseline(verbs: Verbs) -> None:
    """Add `rsna-e2e baseline`."""
    verb = add_verb(
        verbs,
        "baseline",
        _baseline,
        "Predict from headers and positions alone, without any pixel: what a model has to exceed. Writes a submission "
        "and its tables, as predict does.",
        "rsna-e2e baseline store baseline.csv                        # split test, learned from all of train",
        "rsna-e2e baseline store baseline.csv --split validation --fold 1    # by the other folds",
        "rsna-e2e baseline store baseline.csv --split train          # every fold, learned from the others",
    )
    verb.add_argument("store", type=Path, metavar="STORE", help="a store made by prepare, with labels")
    verb.add_argument("out", type=Path, metavar="OUT.csv", help="submission to write, .csv or .csv.gz")
    add_task(verb, of_store=True)
    verb.add_argument(
        "--split",
        choices=("train", "validation", "test"),
        default="test",
        help="what is predicted (default test), by a random forest that is fitted on other patients of split train; "
        "validation: one fold, by the other folds; train: every fold by the others",
    )
    verb.add_argument("--fold", type=seed, metavar="K", help="of --split validation: which fold (default 0)")
    add_raw(verb)
    verb.add_argument("--seed", type=seed, default=0, help="seed of the forests and of what is shuffled (default 0)")


def _baseline(options: argparse.Namespace) -> None:
    from rsna_e2e.evaluation.header_baseline import header_baseline
    from rsna_e2e.store import Store

    if options.fold is not None and options.split != "validation":
        raise UsageError("--fold: of --split validation alone. Leave it out, or add that")
    given = given_task(options)
    with closing(Store.open(options.store, given.name if given else None)) as store:
        task = task_of_store(given, store)
        done = header_baseline(
            store,
            task,
            split=options.split,
            out=options.out,
            fold=options.fold or 0,
            seed=options.seed,
            is_raw=options.is_raw,
        )
    tell(f"submission: {done.submission}   predicted {done.n_slices} slices of {done.n_series} series without pixels")
    if done.missing.reasons:
        tell(str(done.missing))
    _say_scores(done.labels)
    say_truth(options.out, done.truth, task=options.task or task.name)


def _say_scores(labels: "Sequence[LabelBaseline]") -> None:
    from rsna_e2e.core.console import table

    if not labels:
        tell("no scores: the store has no labels of what is predicted")
        return
    rows = [
        (
            one.label,
            f"{one.n_positive:,} of {one.n:,}",
            _number(one.auc),
            f"{_number(sum(one.shuffled) / len(one.shuffled))} ({_number(min(one.shuffled))} to "
            f"{_number(max(one.shuffled))})",
            f"{one.log_loss:.4f}",
            f"{one.constant_log_loss:.4f}",
        )
        for one in labels
    ]
    head = ("label", "positive", "AUC", "AUC, labels shuffled", "log loss", "of the constant")
    tell(*table(head, rows).splitlines())
    _say_views([one for one in labels if one.within])
    if off := [one.label for one in labels if not one.is_at_chance]:
        tell(
            f"warning: forests of shuffled labels are not at chance for {', '.join(off)}: what is predicted may say "
            "more of how data were divided than of patients. Compare folds and splits",
            to=sys.stderr,
        )


def _say_views(labels: "Sequence[LabelBaseline]") -> None:
    from rsna_e2e.core.console import table

    views = sorted({view for one in labels for view, area in one.within.items() if not math.isnan(area)})
    if not views:
        return
    rows = [
        (one.label, _number(one.view_auc), *(_number(one.within.get(view, math.nan)) for view in views))
        for one in labels
    ]
    head = ("label", "AUC of the view alone", *(f"AUC in {view or 'no view'}" for view in views))
    tell(*table(head, rows).splitlines())


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
