"""The verbs that apply a trained model and score it: predict, evaluate."""

import argparse
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsna_e2e.cli.arguments import add_columns, add_device, checkpoints, seed, with_columns
from rsna_e2e.cli.embeddings import add_embeddings, open_embeddings, taken
from rsna_e2e.cli.verbs import Verbs, add_task, add_verb, tell
from rsna_e2e.tasks.task import get_task

if TYPE_CHECKING:
    from rsna_e2e.inference.missing import MissingImages
    from rsna_e2e.inference.predict_epochs import EpochMean


def add_predict(verbs: Verbs) -> None:
    """Add `rsna-e2e predict`."""
    verb = add_verb(
        verbs,
        "predict",
        _predict,
        "Predict every slice of a split; write a submission and a table of predictions beside it.",
        "rsna-e2e predict runs/demo store --split test --out submission.csv",
    )
    verb.add_argument("model_run", type=Path, metavar="RUN", help="a run folder made by train")
    verb.add_argument("store", type=Path, metavar="STORE", help="a store made by prepare")
    verb.add_argument("--split", choices=("train", "test"), default="test", help="which series (default test)")
    verb.add_argument("--out", type=Path, default=Path("submission.csv"), help="submission file, .csv or .csv.gz")
    verb.add_argument(
        "--checkpoint",
        type=checkpoints,
        default="auto",
        metavar="auto|best|last|epoch-N|epochs",
        help="auto: best, else last; epoch-N: the end of epoch N, of a run with checkpoint.keep_epochs; epochs: the "
        "mean of what all of these predict",
    )
    add_embeddings(verb)
    add_device(verb)


def add_evaluate(verbs: Verbs) -> None:
    """Add `rsna-e2e evaluate`."""
    verb = add_verb(
        verbs,
        "evaluate",
        _evaluate,
        "Score a submission against the truth; write metrics.json and an HTML report.",
        "rsna-e2e evaluate submission.csv raw/stage_2_test_truth.csv --out report --store store",
    )
    verb.add_argument("submission", type=Path, metavar="SUBMISSION", help="a submission made by predict")
    verb.add_argument("truth", type=Path, metavar="TRUTH", help="label CSV of the same images")
    add_columns(verb)
    verb.add_argument("--out", type=Path, required=True, help="folder for the report")
    verb.add_argument("--store", type=Path, help="store with the images, for pictures of example series")
    verb.add_argument("--seed", type=seed, default=0, help="seed of the bootstrap intervals (default 0)")
    add_task(verb)


def _predict(options: argparse.Namespace) -> None:
    from rsna_e2e.core.console import progress_bar
    from rsna_e2e.inference.predict import predict
    from rsna_e2e.inference.predict_epochs import predict_epochs
    from rsna_e2e.store import Store

    is_mean = options.checkpoint == "epochs"
    with (
        closing(Store.open(options.store)) as store,
        progress_bar("predict", unit="epochs" if is_mean else "slices") as progress,
    ):
        what: dict[str, Any] = {"split": options.split, "out": options.out, "device": options.device}
        what |= {"embeddings": open_embeddings(options.embeddings, store), "progress": progress}
        if is_mean:
            mean = predict_epochs(options.model_run, store, **what)
            _say_mean(mean)
            return
        done = predict(options.model_run, store, checkpoint=options.checkpoint, **what)
    for problem in done.damaged:
        tell(f"passed over: {problem}")
    series_table = f"   series table: {done.series_table}" if done.series_table else ""
    tell(f"submission: {done.submission}   table: {done.table}{series_table}")
    _say_missing(done.missing)
    tell(f"predicted {done.n_slices} slices of {done.n_series} series with {taken(done)}")


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


def _evaluate(options: argparse.Namespace) -> None:
    from rsna_e2e.evaluation.evaluate import evaluate
    from rsna_e2e.evaluation.report import write_report
    from rsna_e2e.store import Store

    truth = with_columns(options.truth, options.columns)
    evaluation = evaluate(options.submission, truth, task=get_task(options.task), seed=options.seed)
    if options.store is None:
        page = write_report(evaluation, out=options.out)
    else:
        with closing(Store.open(options.store)) as store:
            page = write_report(evaluation, out=options.out, store=store)
    tell(*evaluation.summary().splitlines())
    tell(f"report: {page}")
