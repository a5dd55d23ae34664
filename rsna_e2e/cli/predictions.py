"""The verb that applies trained runs: predict."""

import argparse
import shlex
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsna_e2e.cli.arguments import add_device, add_raw, checkpoints
from rsna_e2e.cli.calibration import add_calibrated
from rsna_e2e.cli.embeddings import add_embeddings, open_embeddings, say_damaged, taken, views
from rsna_e2e.cli.verbs import Verbs, add_verb, tell
from rsna_e2e.core.errors import UsageError
from rsna_e2e.core.table_files import table_at
from rsna_e2e.tasks.catalogue import TASKS

if TYPE_CHECKING:
    from rsna_e2e.inference.missing import MissingImages
    from rsna_e2e.inference.predict_epochs import EpochMean
    from rsna_e2e.inference.truth import TruthFile
    from rsna_e2e.store import Store


def add_predict(verbs: Verbs) -> None:
    """Add `rsna-e2e predict`."""
    verb = add_verb(
        verbs,
        "predict",
        _predict,
        "Predict every slice of a split; write a submission, and beside it a table of predictions and, where the store "
        "has labels, the truth.",
        "rsna-e2e predict runs/demo store --split test --out submission.csv",
        "rsna-e2e predict runs/demo store --split validation --out validation.csv   # what the run held out",
        "rsna-e2e predict runs/demo store --views plain,hflip --out submission.csv   # mean of an image and its mirror",
        "rsna-e2e predict runs/demo store --out submission.csv --calibrated   # by the calibration that the run keeps",
        "rsna-e2e predict runs/a store --with runs/b runs/c --out submission.csv   # an ensemble of three runs",
    )
    verb.add_argument(
        "model_run", type=Path, metavar="RUN", help="a run folder made by train, or a bundle made by export"
    )
    verb.add_argument("store", type=Path, metavar="STORE", help="a store made by prepare")
    _add_others(verb)
    verb.add_argument(
        "--split",
        choices=("train", "validation", "test"),
        default="test",
        help="which series (default test); validation: the fold of train that RUN held out",
    )
    verb.add_argument("--out", type=Path, default=Path("submission.csv"), help="submission file, .csv or .csv.gz")
    verb.add_argument(
        "--checkpoint",
        type=checkpoints,
        default="auto",
        metavar="auto|best|last|epoch-N|epochs",
        help="auto: best, else last; epoch-N: the end of epoch N, of a run with checkpoint.keep_epochs; epochs: the "
        "mean of what all of these predict",
    )
    _add_views(verb)
    add_raw(verb, writes_boxes=True)
    add_calibrated(verb)
    add_embeddings(verb)
    add_device(verb)


def _add_others(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--with",
        dest="others",
        type=Path,
        nargs="+",
        default=[],
        metavar="RUN",
        help="further runs for the same labels, whose probabilities are averaged with those of the first",
    )


def _add_views(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--views",
        type=views,
        default=("plain",),
        metavar="VIEW,VIEW",
        help="views of every image, whose probabilities are averaged: plain, hflip, transpose (default plain)",
    )


def _predict(options: argparse.Namespace) -> None:
    from rsna_e2e.core.console import progress_bar
    from rsna_e2e.core.files import prepare_file
    from rsna_e2e.inference.predict import predict
    from rsna_e2e.inference.predict_epochs import predict_epochs
    from rsna_e2e.inference.submission import prepare_submission
    from rsna_e2e.store import Store
    from rsna_e2e.training.run_folder import read_config
    from rsna_e2e.training.run_layout import TASK

    is_mean = options.checkpoint == "epochs"
    _open_bundles(options)
    prepare_file(options.out, example="submission.csv")  # first: it may be wrong
    task = read_config(options.model_run).task
    named = task.name if task.name in TASKS else str(options.model_run / TASK)
    prepare_submission(options.out, task, example="submission.csv")
    with (
        closing(Store.open(options.store, task.name)) as store,
        progress_bar("predict", unit="epochs" if is_mean else "slices") as progress,
    ):
        what: dict[str, Any] = {"split": options.split, "out": options.out, "device": options.device}
        what |= {"views": options.views, "calibrated": options.calibrated, "progress": progress}
        what |= {"is_raw": options.is_raw}
        if options.others:
            _predict_ensemble(options, store, named, **what)
            return
        what |= {"embeddings": open_embeddings(options.embeddings, store)}
        if is_mean:
            mean = predict_epochs(options.model_run, store, **what)
            _say_mean(mean)
            say_truth(options.out, mean.truth, task=named)
            return
        done = predict(options.model_run, store, checkpoint=options.checkpoint, **what)
    say_damaged(done)
    series_table = f"   series table: {done.series_table}" if done.series_table else ""
    tell(f"submission: {done.submission}   table: {done.table}{series_table}")
    _say_missing(done.missing)
    tell(f"predicted {done.n_slices} slices of {done.n_series} series with {taken(done)}")
    say_truth(options.out, done.truth, task=named)


def _open_bundles(options: argparse.Namespace) -> None:
    """Put the runs that bundles hold in their place. Raises UsageError for a checkpoint that none holds."""
    from rsna_e2e.inference.bundle import runs_of

    given = [options.model_run, *options.others]
    if any(path.is_file() for path in given) and options.checkpoint not in ("auto", "last"):
        raise UsageError("--checkpoint: a bundle holds one of each run. Leave it out")
    options.model_run, *options.others = (run for path in given for run in runs_of(path))


def _predict_ensemble(options: argparse.Namespace, store: "Store", named: str, **what: Any) -> None:
    from rsna_e2e.inference.predict_runs import predict_runs

    if options.checkpoint == "epochs" or options.embeddings:
        raise UsageError(
            "a mean of several runs is of such that read images, by one checkpoint each: leave out --embeddings and "
            "epochs"
        )
    runs = [options.model_run, *options.others]
    mean = predict_runs(runs, store, checkpoint=options.checkpoint, **what)
    say_damaged(mean)
    tell(f"mean of {mean.n_runs} runs   submission: {mean.submission}   of what: {mean.manifest}")
    _say_missing(mean.missing)
    say_truth(options.out, mean.truth, task=named)


def _say_mean(mean: "EpochMean") -> None:
    for member in mean.members:
        if member.log_loss is not None:
            tell(
                f"epoch {member.epoch}: validation weighted log loss {member.log_loss:.4f}, "
                f"of the mean up to it {member.mean_log_loss:.4f}"
            )
    tell(f"mean of {len(mean.members)} epochs   submission: {mean.submission}   of what: {mean.manifest}")
    _say_missing(mean.missing)


def _say_missing(missing: "MissingImages") -> None:
    if missing.reasons:
        tell(str(missing))


def say_truth(submission: Path, truth: "TruthFile | None", *, task: str) -> None:
    """Name the command that scores a submission against the truth beside it, and what the scores leave out. task: as
    --task takes it."""
    from rsna_e2e.tasks.labels import task_of_header

    if truth is None:
        return
    words = ["rsna-e2e", "evaluate", str(submission), str(truth.path), "--out", "report"]
    if n_left := truth.n_predicted - truth.n_slices:
        tell(f"without truth: {n_left} of {truth.n_predicted} slices, whose labels the store does not have, or not all")
        words.append("--allow-missing")
    told = task_of_header(table_at(submission))
    if told is None or told.name != task:
        words += ["--task", task]
    tell(f"to score it: {shlex.join(words)}")
