"""The verb that compares runs which differ in a few settings: compare."""

import argparse
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from rsna_e2e.cli.arguments import add_device, add_settings, seed
from rsna_e2e.cli.verbs import Verbs, add_verb, tell
from rsna_e2e.core.errors import PreemptedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rsna_e2e.config import RunConfig


def add_compare(verbs: Verbs) -> None:
    """Add `rsna-e2e compare`."""
    verb = add_verb(
        verbs,
        "compare",
        _compare,
        "Train one run for each value of some settings, predict the same slices with all, and tabulate their scores. "
        "What is done already is kept: the same command goes on where it stopped, and may list more values.",
        "rsna-e2e compare store compared --recipe demo --vary optimizer.weight_decay=0,0.01",
        "rsna-e2e compare store compared --recipe demo --vary image.size=96,128 --vary ema_decay=null,0.99 --grid",
    )
    verb.add_argument("store", type=Path, metavar="STORE", help="a store made by prepare")
    verb.add_argument("out", type=Path, metavar="OUT", help="folder of the runs, their predictions, table and page")
    add_settings(verb)
    verb.add_argument(
        "--vary",
        dest="varied",
        action="append",
        default=[],
        metavar="a.b=X,Y",
        help="a setting and its values, one run for each, with the others as in the recipe; repeatable",
    )
    verb.add_argument("--grid", action="store_true", help="one run for each combination of the values")
    verb.add_argument(
        "--split",
        choices=("validation", "test"),
        default="validation",
        help="what is predicted and scored (default validation, the fold that the runs hold out; test: what prepare "
        "--holdout put there)",
    )
    verb.add_argument("--seed", type=seed, default=0, help="seed of the bootstrap intervals (default 0)")
    add_device(verb)


def _compare(options: argparse.Namespace) -> None:
    from rsna_e2e.config import resolve_task
    from rsna_e2e.core.console import progress_bar
    from rsna_e2e.evaluation.compare.page import NUMBERS, TABLE, check_out, write_comparison
    from rsna_e2e.evaluation.compare.run import run_variants
    from rsna_e2e.evaluation.compare.table import score_runs
    from rsna_e2e.evaluation.compare.variants import Varied, make_variants
    from rsna_e2e.store import Store
    from rsna_e2e.training.preemption import stop_requests

    if not options.varied:
        raise UsageError("nothing to compare: name a setting and its values, such as --vary image.size=96,128")
    varied = [Varied.parse(text) for text in options.varied]
    variants = make_variants(options.recipe, options.overrides, varied, is_grid=options.grid)
    _check_comparable([one.config for one in variants], options.split)
    task = variants[0].config.task
    check_out(options.out)
    with (
        stop_requests() as is_stopping,
        closing(Store.open(options.store, task.name)) as store,
        progress_bar("compare", unit="slices") as progress,
    ):
        try:
            facts = run_variants(
                *(store, options.out, variants),
                split=options.split,
                device=options.device,
                is_stopping=is_stopping,
                progress=progress,
                say=lambda text: tell(f"compare: {text}", to=sys.stderr),
            )
        except PreemptedError:
            raise PreemptedError("stopped by a signal; all is saved. The same command continues") from None
    compared = score_runs(options.out, facts, resolve_task(variants[0].config), seed=options.seed)
    page = write_comparison(compared, out=options.out, split=options.split)
    _say(compared[0].evaluation.task.headline, [one.row() for one in compared])
    tell(f"page: {page}   table: {options.out / TABLE}   numbers: {options.out / NUMBERS}")


def _check_comparable(configs: "Sequence[RunConfig]", split: str) -> None:
    """Raise UsageError for runs that do not predict the same labels of the same slices."""
    for config in configs:
        config.model.check_predicts_labels("compare")
    if any(config.task != configs[0].task for config in configs):
        raise UsageError("--vary task: runs for different tasks cannot be compared")
    if split == "validation" and len({(config.folds, config.validation_fold) for config in configs}) > 1:
        raise UsageError("--vary folds, validation_fold: runs that hold out other patients cannot be compared by them")


def _say(headline: str, rows: list[dict[str, object]]) -> None:
    """Print the main columns of the table."""
    from rsna_e2e.core.console import table

    columns = {"true_positives": "TP", "false_negatives": "FN", "false_positives": "FP", "true_negatives": "TN"}
    columns |= {"f1": "F1", "sensitivity": "sens", "specificity": "spec", "auc": "AUC", "seconds": "s"}

    def text(value: object) -> str:
        return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)

    lines = [[str(row["run"]), *(text(row[name]) for name in columns)] for row in rows]
    tell(*table((headline, *columns.values()), lines).splitlines())
