"""The verb that shows the calibration of a run or fits it anew, calibrate, and the option of predict that uses it."""

import argparse
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from rsna_e2e.cli.arguments import add_device
from rsna_e2e.cli.embeddings import add_embeddings, open_embeddings
from rsna_e2e.cli.verbs import Verbs, add_verb, tell
from rsna_e2e.core.errors import BadInputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rsna_e2e.training.calibration import LabelCalibration, RunCalibration


def add_calibrate(verbs: Verbs) -> None:
    """Add `rsna-e2e calibrate`."""
    verb = add_verb(
        verbs,
        "calibrate",
        _calibrate,
        "Show the calibration that a run keeps of each label, and what it changes; with --data, fit it anew.",
        "rsna-e2e calibrate runs/demo",
        "rsna-e2e calibrate runs/demo --data store     # to the fold that the run held out; of runs that have none",
        "rsna-e2e calibrate runs/all --data store --out-of-fold runs/fold0 runs/fold1   # to those of runs like it",
        "rsna-e2e calibrate runs/demo --data store --predictions views.csv   # to predictions with several views",
    )
    verb.add_argument(
        "model_run", type=Path, metavar="RUN", help="a run folder made by train, which keeps what is fitted"
    )
    verb.add_argument(
        "--data",
        type=Path,
        metavar="STORE",
        help="fit it anew, to what RUN predicts of the fold that it held out of this store, which it was trained on",
    )
    _add_fitted_to(verb)
    add_embeddings(verb)
    add_device(verb)


def _add_fitted_to(verb: argparse.ArgumentParser) -> None:
    fitted_to = verb.add_mutually_exclusive_group()
    fitted_to.add_argument(
        "--out-of-fold",
        type=Path,
        nargs="+",
        default=[],
        metavar="RUN",
        help="runs of other folds: fit to what each predicts of the fold that it held out, in place of RUN",
    )
    fitted_to.add_argument(
        "--predictions",
        type=Path,
        nargs="+",
        default=[],
        metavar="SUBMISSION",
        help="fit to these predictions by RUN, made by predict or bag, with the labels of STORE; images of its split "
        "test, and those that RUN was trained on, are refused",
    )


def add_calibrated(verb: argparse.ArgumentParser) -> None:
    """Let the user ask predict for calibrated probabilities."""
    verb.add_argument(
        "--calibrated",
        nargs="?",
        const="default",
        choices=("default", "platt", "temperature"),
        metavar="platt|temperature",
        help="write calibrated probabilities, by the maps that the run keeps (rsna-e2e calibrate RUN shows them): by "
        "default whichever suits how many patients a label was fitted to (default: as they are predicted)",
    )


def _calibrate(options: argparse.Namespace) -> None:
    from rsna_e2e.training.calibration import read_calibration
    from rsna_e2e.training.run_folder import read_config, read_task

    config = read_config(options.model_run)
    config.model.check_predicts_labels("calibrate")
    _check_used(options)
    if options.data is not None:
        _say(_fit(options, config.task.name))
        return
    calibration = read_calibration(options.model_run, read_task(options.model_run, config))
    if calibration is None:
        raise BadInputError(
            f"{options.model_run}: has no calibration, as runs have that held a fold out. Fit one with --data STORE"
        )
    _say(calibration)


def _check_used(options: argparse.Namespace) -> None:
    """Raise UsageError for options that would change nothing."""
    is_predicting = options.embeddings is not None or options.device != "auto"
    if options.data is None and (is_predicting or options.out_of_fold or options.predictions):
        raise UsageError("--data: is needed to fit a calibration. Give the store that the run was trained on")
    if options.predictions and is_predicting:
        raise UsageError("--predictions: nothing is predicted anew. Leave out --embeddings and --device")


def _fit(options: argparse.Namespace, task: str) -> "RunCalibration":
    from rsna_e2e.core.console import progress_bar
    from rsna_e2e.inference.recalibrate import recalibrate, recalibrate_by_tables
    from rsna_e2e.store import Store

    with closing(Store.open(options.data, task)) as store, progress_bar("calibrate", unit="slices") as progress:
        if options.predictions:
            return recalibrate_by_tables(options.model_run, store, options.predictions)
        return recalibrate(
            options.model_run,
            store,
            out_of_fold=options.out_of_fold,
            embeddings=open_embeddings(options.embeddings, store),
            device=options.device,
            progress=progress,
        )


def _say(calibration: "RunCalibration") -> None:
    from rsna_e2e.core.console import table

    of = "by hand" if calibration.epoch is None else f"to the fold that was held out, in epoch {calibration.epoch}"
    tell(f"fitted {of}: {calibration.n_patients} patients")
    head = ("label", "positive", "applied", "temperature", "slope", "intercept", "ECE before", "after", "change")
    for what, labels in (("slices", calibration.slices), ("series", calibration.series)):
        if labels:
            tell(f"labels of {what}", *table(head, _rows(labels)).splitlines())
    tell(
        "ECE: expected calibration error; after: each half of the patients calibrated by the other; change: with its "
        "95 % interval over patients"
    )


def _rows(labels: "Mapping[str, LabelCalibration]") -> list[tuple[str, ...]]:
    return [
        (
            name,
            f"{one.n_positives:,} of {one.n_samples:,}",
            f"{one.applied}{f': {one.reason}' if one.reason else ''}",
            f"{one.temperature:.3f}",
            f"{one.slope:.3f}",
            f"{one.intercept:+.3f}",
            _number(one.ece_before),
            _number(one.ece_after),
            f"{_number(one.ece_change, '+.4f')} [{_number(one.ece_change_low, '+.4f')}, "
            f"{_number(one.ece_change_high, '+.4f')}]",
        )
        for name, one in labels.items()
    ]


def _number(value: float | None, form: str = ".4f") -> str:
    return "-" if value is None else format(value, form)
