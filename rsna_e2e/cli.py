"""`rsna-e2e VERB`: parses, calls, prints. Everything heavy is imported inside the verb, so that --help is quick."""

import argparse
import errno
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from rsna_e2e import __version__
from rsna_e2e.arguments import add_device, add_settings, at_least_one, seed
from rsna_e2e.bench.command import add_modes
from rsna_e2e.errors import BadInputError, OutOfResourcesError, RsnaError, UsageError
from rsna_e2e.tasks import TASKS, get_task

RESEARCH_USE = "For research use only. Not a medical device; not for diagnosis."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code: 0 done, 2 usage, 3 bad input, 4 missing capability, 5 out of disk or
    memory, 6 diverged, 130 interrupted."""
    parsed = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], None] = parsed.run
    try:
        _check_names(parsed)
        run(parsed)
    except RsnaError as error:
        print(f"rsna-e2e {parsed.verb}: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:  # a file or folder that the system does not let us use
        print(f"rsna-e2e {parsed.verb}: {error.filename or 'input or output'}: {error.strerror}", file=sys.stderr)
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return (OutOfResourcesError if is_full else BadInputError).exit_code
    except KeyboardInterrupt:
        print(f"rsna-e2e {parsed.verb}: interrupted", file=sys.stderr)
        return 130
    return 0


def _check_names(options: argparse.Namespace) -> None:
    """Parquet and TensorBoard cannot write to a path that is not UTF-8; say so before any work."""
    for value in vars(options).values():
        if isinstance(value, Path) and str(value) != str(value).encode(errors="replace").decode():
            raise UsageError(
                f"{str(value).encode(errors='replace').decode()}: not a UTF-8 name. Rename it or choose another"
            )


def _synth(options: argparse.Namespace) -> None:
    from rsna_e2e.console import field_lines, progress_bar
    from rsna_e2e.synth.simulate import simulate

    if options.preview is not None:
        from rsna_e2e.synth.preview import preview

        preview(options.out, options.preview)
        print(f"contact sheet: {options.preview}")
        return
    with progress_bar("simulate", unit="studies") as progress:
        report = simulate(
            options.out,
            n_studies=options.studies,
            seed=options.seed,
            prevalence=options.prevalence,
            test_fraction=options.test_fraction,
            n_jobs=options.jobs,
            progress=progress,
        )
    print(field_lines(report))


def _prepare(options: argparse.Namespace) -> None:
    from rsna_e2e.console import field_lines, progress_bar
    from rsna_e2e.prepare import prepare

    with progress_bar("prepare", unit="slices") as progress:
        report = prepare(
            options.raw,
            options.store,
            task=get_task(options.task),
            labels=options.labels,
            n_folds=options.folds,
            seed=options.seed,
            n_jobs=options.jobs,
            progress=progress,
        )
    print(field_lines(report))
    if report.refusals:
        print(f"what was not taken and why: {options.store / 'refusals.parquet'}")


def _train(options: argparse.Namespace) -> None:
    from rsna_e2e.config import load_config
    from rsna_e2e.console import progress_bar
    from rsna_e2e.store import Store
    from rsna_e2e.train import train

    config = load_config(options.recipe, options.set)
    with closing(Store.open(options.store)) as store, progress_bar("train", unit="slices") as progress:
        summary = train(
            store, options.out, config, device=options.device, init_from=options.init_from, progress=progress
        )
    print(
        f"trained {summary.steps} steps on {summary.compute} at {summary.slices_per_s:.0f} slices/s, "
        f"{summary.stall_share:.1%} of the time waiting for the loader ({summary.stalls} stalls)"
    )
    if summary.best is not None:
        print(
            f"best epoch {summary.best_epoch}: validation weighted log loss {summary.best.weighted_log_loss:.4f}, "
            f"AUC of any {summary.best.any_auc:.4f}"
        )
    print(f"run: {options.out}   curves: tensorboard --logdir {options.out}")


def _predict(options: argparse.Namespace) -> None:
    from rsna_e2e.console import progress_bar
    from rsna_e2e.predict import predict
    from rsna_e2e.store import Store

    with closing(Store.open(options.store)) as store, progress_bar("predict", unit="slices") as progress:
        done = predict(
            options.model_run,
            store,
            split=options.split,
            out=options.out,
            checkpoint=options.checkpoint,
            device=options.device,
            progress=progress,
        )
    print(f"predicted {done.n_slices} slices of {done.n_series} series with {done.checkpoint}")
    print(f"submission: {done.submission}   table: {done.table}")


def _evaluate(options: argparse.Namespace) -> None:
    from rsna_e2e.evaluate import evaluate
    from rsna_e2e.report import write_report
    from rsna_e2e.store import Store

    evaluation = evaluate(options.submission, options.truth, task=get_task(options.task), seed=options.seed)
    if options.store is None:
        page = write_report(evaluation, out=options.out)
    else:
        with closing(Store.open(options.store)) as store:
            page = write_report(evaluation, out=options.out, store=store)
    print(evaluation.summary())
    print(f"report: {page}")


def _bench(options: argparse.Namespace) -> None:
    from rsna_e2e.console import progress_bar

    with progress_bar(f"bench {options.mode}", unit="rounds") as progress:
        result = options.measure(options, progress)
    print(result)
    if options.out is not None:
        print(f"figures: {options.out}")


def _add_synth(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = _verb(
        verbs,
        "synth",
        _synth,
        "Simulate head CT studies with known truth, as DICOM files in the competition's layout.",
        "rsna-e2e synth raw --studies 40 --seed 1 --prevalence demo",
        "rsna-e2e synth raw --preview sheet.png",
    )
    verb.add_argument("out", type=Path, metavar="OUT", help="folder to write to; with --preview, folder to show")
    verb.add_argument("--studies", type=at_least_one, default=100, help="how many studies (default 100)")
    verb.add_argument("--seed", type=seed, default=0, help="same seed, same bytes (default 0)")
    verb.add_argument(
        "--prevalence",
        choices=("natural", "demo"),
        default="natural",
        help="natural: about as common as in the competition; demo: more bleeds per study",
    )
    verb.add_argument("--test-fraction", type=float, default=0.2, help="share of patients held out (default 0.2)")
    verb.add_argument("--jobs", type=at_least_one, help="processes (default: all cores)")
    verb.add_argument("--preview", type=Path, metavar="PNG", help="draw a contact sheet of studies already in OUT")


def _add_prepare(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = _verb(
        verbs,
        "prepare",
        _prepare,
        "Read a folder of DICOM files once into a study store: HU in geometric order, labels, folds, refusals.",
        "rsna-e2e prepare raw store",
        "rsna-e2e prepare /data/dicom store --labels labels.csv.gz",
    )
    verb.add_argument("raw", type=Path, metavar="RAW", help="folder of DICOM files, nested as you like")
    verb.add_argument("store", type=Path, metavar="STORE", help="folder to make")
    verb.add_argument("--labels", type=Path, help="label CSV with columns ID,Label (default: RAW/*train*.csv[.gz])")
    _add_task(verb)
    verb.add_argument("--folds", type=at_least_one, default=5, help="patient-level folds (default 5)")
    verb.add_argument("--seed", type=seed, default=0, help="seed of the folds (default 0)")
    verb.add_argument("--jobs", type=at_least_one, help="processes (default: all cores)")


def _add_train(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = _verb(
        verbs,
        "train",
        _train,
        "Train backbone and recurrent head jointly on whole series.",
        "rsna-e2e train store runs/demo --recipe demo",
        "rsna-e2e train store runs/big --recipe reference --set loader.slices_per_batch=128",
    )
    verb.add_argument("store", type=Path, metavar="STORE", help="a store made by prepare")
    verb.add_argument("out", type=Path, metavar="RUN", help="run folder to make")
    add_settings(verb)
    verb.add_argument("--init-from", type=Path, metavar="FILE|RUN", help="start from these weights")
    add_device(verb)


def _add_predict(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = _verb(
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
    verb.add_argument("--checkpoint", choices=("auto", "best", "last"), default="auto", help="auto: best, else last")
    add_device(verb)


def _add_evaluate(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = _verb(
        verbs,
        "evaluate",
        _evaluate,
        "Score a submission against the truth; write metrics.json and an HTML report.",
        "rsna-e2e evaluate submission.csv raw/stage_2_test_truth.csv --out report --store store",
    )
    verb.add_argument("submission", type=Path, metavar="SUBMISSION", help="a submission made by predict")
    verb.add_argument("truth", type=Path, metavar="TRUTH", help="label CSV of the same images")
    verb.add_argument("--out", type=Path, required=True, help="folder for the report")
    verb.add_argument("--store", type=Path, help="store with the images, for pictures of example series")
    verb.add_argument("--seed", type=seed, default=0, help="seed of the bootstrap intervals (default 0)")
    _add_task(verb)


def _add_bench(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = _verb(
        verbs,
        "bench",
        _bench,
        "Measure speed: the fused operator beside its peers, the loader, training.",
        "rsna-e2e bench transform",
        "rsna-e2e bench loader store --recipe demo",
        "rsna-e2e bench train store --out train.json",
    )
    add_modes(verb)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rsna-e2e",
        description="Train a CNN and a recurrent head jointly over whole CT series.",
        epilog=f"example: rsna-e2e synth raw --studies 40 && rsna-e2e prepare raw store\n\n{RESEARCH_USE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"rsna-e2e {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for add in (_add_synth, _add_prepare, _add_train, _add_predict, _add_evaluate, _add_bench):
        add(verbs)
    return parser


def _verb(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], None],
    description: str,
    *examples: str,
) -> argparse.ArgumentParser:
    verb = verbs.add_parser(
        name,
        help=description,
        description=description,
        epilog="\n".join(["example:" if len(examples) == 1 else "examples:", *(f"  {line}" for line in examples)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.set_defaults(run=run)
    return verb


def _add_task(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--task", choices=tuple(TASKS), default="ich", help="what is predicted (default ich)")


if __name__ == "__main__":
    sys.exit(main())
