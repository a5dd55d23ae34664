"""The verb that scores predictions: evaluate."""

import argparse
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rsna_e2e.cli.arguments import add_also, add_columns, seed, with_columns
from rsna_e2e.cli.paired import say_difference, say_no_series
from rsna_e2e.cli.verbs import Verbs, add_verb, given_task, tell
from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.table_files import table_at
from rsna_e2e.tasks.catalogue import DEFAULT_TASK, TASKS

if TYPE_CHECKING:
    from rsna_e2e.core.records import Column
    from rsna_e2e.evaluation.report.page import MapOf
    from rsna_e2e.evaluation.scores import Evaluation
    from rsna_e2e.store import Store
    from rsna_e2e.tasks.task import Task


def add_evaluate(verbs: Verbs) -> None:
    """Add `rsna-e2e evaluate`."""
    verb = add_verb(
        verbs,
        "evaluate",
        _evaluate,
        "Score predictions, made by predict or by any other program, against the truth; write metrics.json and an HTML "
        "report. Of two submissions, compare both on the same images, and write paired.json.",
        "rsna-e2e evaluate submission.csv raw/stage_2_test_truth.csv --out report --store store",
        "rsna-e2e evaluate mine.csv truth.csv --store store     # any CSV with the columns ID,Label; prints the scores",
        "rsna-e2e evaluate mine.csv truth.csv --series map.csv  # without a store, see docs/evaluation.md",
        "rsna-e2e evaluate first.csv second.csv truth.csv --store store   # which is better, and by chance?",
        "rsna-e2e evaluate boxes.csv stage_2_train_labels.csv --task pneumonia   # patientId,PredictionString",
        "rsna-e2e evaluate mine.csv stage_2_train_labels.csv --also stage_2_detailed_class_info.csv --task pneumonia",
    )
    verb.add_argument(
        "submission",
        type=Path,
        metavar="SUBMISSION",
        help="any CSV with the columns ID,Label: one row per image and label, ID <image>_<label>, Label a probability; "
        "or those of another task, see docs/evaluation.md",
    )
    verb.add_argument(
        "other", type=Path, nargs="?", metavar="OTHER", help="a second submission of the same images, to compare with"
    )
    verb.add_argument("truth", type=Path, metavar="TRUTH", help="label CSV of the same images")
    add_columns(verb)
    add_also(verb)
    verb.add_argument("--out", type=Path, help="folder for the report (default: only print the scores)")
    _add_series_source(verb)
    verb.add_argument(
        "--allow-missing",
        action="store_true",
        help="score the images that are in both files and say how many are left out (default: refuse, because images "
        "that a model failed on may be those left out)",
    )
    verb.add_argument("--seed", type=seed, default=0, help="seed of the bootstrap intervals (default 0)")
    verb.add_argument(
        "--task", metavar="NAME|FILE", help="what is predicted (default: the task that has the columns of SUBMISSION)"
    )


def _add_series_source(verb: argparse.ArgumentParser) -> None:
    of_series = verb.add_mutually_exclusive_group()
    of_series.add_argument(
        "--store",
        type=Path,
        help="store with the images: for pictures of example series, for what position and metadata alone score, and "
        "for intervals and scores of series where no predictions table by predict stands beside SUBMISSION",
    )
    of_series.add_argument(
        "--series",
        type=Path,
        metavar="CSV",
        help="for intervals and scores of series without a store: a CSV with the columns ID (the image) and series",
    )
    verb.add_argument(
        "--facts",
        type=Path,
        metavar="CSV",
        help="what series differ in, to score each part of them: a CSV with the column SeriesInstanceUID or series and "
        "others, numbers or text",
    )
    verb.add_argument(
        "--run",
        type=Path,
        dest="model_run",
        metavar="RUN",
        help="with --out and --store: the run that predicted, whose maps of the headline are shown beside the examples",
    )


def asked_task(options: argparse.Namespace, *files: Path) -> "Task":
    """Return the task that is asked for, or the one that has the columns of the first of these files, or of the next
    where that cannot be read, or else the default."""
    if (given := given_task(options)) is not None:
        return given
    from rsna_e2e.tasks.labels import task_of_header

    if not files[0].exists():
        raise BadInputError(f"{files[0]}: no such submission. Check the path")
    for path in files:
        with suppress(OSError, BadInputError):  # said where it is read
            if (task := task_of_header(table_at(path))) is not None:
                return task
    return TASKS[DEFAULT_TASK]


def _evaluate(options: argparse.Namespace) -> None:
    from rsna_e2e.evaluation.floors import with_floors
    from rsna_e2e.evaluation.parts import with_parts
    from rsna_e2e.evaluation.report import write_report
    from rsna_e2e.evaluation.subgroups import with_subgroups
    from rsna_e2e.evaluation.summary import summary
    from rsna_e2e.evaluation.views import with_views
    from rsna_e2e.store import Store
    from rsna_e2e.tasks.labels import is_box_submission

    task = asked_task(options, options.submission, options.truth)
    with ExitStack() as opened:
        store = None
        if options.store is not None:
            store = opened.enter_context(closing(Store.open(options.store, task.name)))
        if task.csv.box_columns is not None and is_box_submission(table_at(options.submission), task):
            _evaluate_boxes(options, task, store)
            return
        if options.other is not None:
            _refuse(options, "is of one submission, and here are two")
            both = (_evaluated(options, submission, task, store) for submission in (options.submission, options.other))
            say_difference(*both, out=options.out)
            return
        maps = None if options.model_run is None else _maps(options, store)
        evaluation = _evaluated(options, options.submission, task, store)
        if store is not None:
            evaluation = with_views(with_parts(with_floors(evaluation, store, seed=options.seed), store), store)
        evaluation = with_subgroups(evaluation, store, _facts(options, evaluation, store))
        page = None if options.out is None else write_report(evaluation, out=options.out, store=store, map_of=maps)
    tell(*summary(evaluation).splitlines())
    if evaluation.layout is None:
        say_no_series()
    if page is not None:
        tell(f"report: {page}")


def _refuse(options: argparse.Namespace, why: str) -> None:
    given = {"--run": options.model_run, "--facts": options.facts}
    for name in (name for name, value in given.items() if value is not None):
        raise UsageError(f"{name}: {why}. Leave it out")


def _evaluated(options: argparse.Namespace, submission: Path, task: "Task", store: "Store | None") -> "Evaluation":
    from rsna_e2e.evaluation.evaluate import evaluate

    return evaluate(
        submission,
        with_columns(options.truth, options.columns, options.also),
        task=task,
        series_map=options.series,
        store=store,
        allow_missing=options.allow_missing,
        seed=options.seed,
    )


def _facts(options: argparse.Namespace, evaluation: "Evaluation", store: "Store | None") -> "dict[str, Column]":
    from rsna_e2e.evaluation.series_facts import read_series_facts

    if options.facts is None:
        return {}
    if evaluation.layout is None:
        raise UsageError("--facts: nothing says which series the images are of. Give --store or --series, too")
    uids = () if store is None else zip(store.index["series_key"], store.index["series_uid"], strict=True)
    return read_series_facts(table_at(options.facts), evaluation.layout.series_keys, dict(uids))


def _maps(options: argparse.Namespace, store: "Store | None") -> "MapOf":
    """Return what draws the maps of --run."""
    from rsna_e2e.evaluation.example_maps import ExampleMaps
    from rsna_e2e.evaluation.explain import open_run

    if options.out is None or store is None:
        raise UsageError("--run: its maps are part of a report with pictures. Give --out and --store, too")
    return ExampleMaps(open_run(options.model_run, "auto", "auto"), store).data_uri


def _evaluate_boxes(options: argparse.Namespace, task: "Task", store: "Store | None") -> None:
    from rsna_e2e.evaluation.boxes import evaluate_boxes
    from rsna_e2e.evaluation.report import write_box_report
    from rsna_e2e.evaluation.summary import box_summary

    if options.series is not None:
        raise UsageError("--series: boxes are scored image by image. Leave it out")
    if options.other is not None:
        raise UsageError(f"{options.other}: boxes are scored one submission at a time. Leave it out")
    _refuse(options, "is of labels, and these are boxes")
    evaluation = evaluate_boxes(
        options.submission,
        with_columns(options.truth, options.columns, options.also),
        task=task,
        store=store,
        allow_missing=options.allow_missing,
        seed=options.seed,
    )
    page = None if options.out is None else write_box_report(evaluation, out=options.out, store=store)
    tell(*box_summary(evaluation).splitlines())
    if page is not None:
        tell(f"report: {page}")
