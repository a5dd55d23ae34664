"""The verbs that train: train, and find-lr, which suggests a learning rate."""

import argparse
import os
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from rsna_e2e.cli.arguments import add_device, add_settings, at_least_one, learning_rate
from rsna_e2e.cli.embeddings import add_embeddings, add_out_of_fold, open_embeddings
from rsna_e2e.cli.verbs import Verbs, add_verb, tell

if TYPE_CHECKING:
    from rsna_e2e.training.train import TrainSummary


def add_train(verbs: Verbs) -> None:
    """Add `rsna-e2e train`."""
    verb = add_verb(
        verbs,
        "train",
        _train,
        "Train backbone and recurrent head jointly on whole series. Epochs of a slice_phase (demo: 8) come on top.",
        "rsna-e2e train store runs/demo --recipe demo",
        "rsna-e2e train store runs/short --recipe demo --set slice_phase.epochs=1 --set epochs=1",
        "rsna-e2e train store runs/big --recipe reference --set loader.slices_per_batch=128",
        "rsna-e2e train store runs/big --recipe reference --resume auto     # bin/train.sh: on all GPUs",
        "rsna-e2e train store runs/own --set task=own.yaml --init-backbone runs/demo",
    )
    verb.add_argument("store", type=Path, metavar="STORE", help="a store made by prepare")
    verb.add_argument("out", type=Path, metavar="RUN", help="run folder to make, or with --resume auto to continue")
    add_settings(verb)
    add_embeddings(verb)
    add_out_of_fold(verb)
    _add_initial_weights(verb)
    verb.add_argument(
        "--resume",
        choices=("auto", "never"),
        default="never",
        help="auto: continue from the last checkpoint of RUN, if there is one (default never)",
    )
    add_device(verb)


def add_find_lr(verbs: Verbs) -> None:
    """Add `rsna-e2e find-lr`."""
    verb = add_verb(
        verbs,
        "find-lr",
        _find_lr,
        "Suggest a learning rate by a range test: train while it grows, and find where the loss falls fastest.",
        "rsna-e2e find-lr store rates --recipe demo --phase slices",
        "rsna-e2e find-lr store rates --recipe reference --init-from runs/first",
    )
    verb.add_argument("store", type=Path, metavar="STORE", help="a store made by prepare")
    verb.add_argument("out", type=Path, metavar="OUT", help="folder to write lr.csv and lr.png to")
    add_settings(verb)
    verb.add_argument(
        "--phase",
        choices=("slices", "series"),
        default="series",
        help="train on single slices or on whole series (default series)",
    )
    _add_initial_weights(verb)
    verb.add_argument("--steps", type=at_least_one, default=100, help="steps, 10 or more (default 100)")
    verb.add_argument(
        "--lowest", type=learning_rate, default=1e-7, help="learning rate of the first step (default 1e-7)"
    )
    verb.add_argument("--highest", type=learning_rate, default=1.0, help="learning rate of the last step (default 1)")
    add_device(verb)


def _add_initial_weights(verb: argparse.ArgumentParser) -> None:
    either = verb.add_mutually_exclusive_group()
    either.add_argument(
        "--init-from",
        type=Path,
        metavar="FILE|RUN",
        help="start from the weights of this file, or of this run for the same labels",
    )
    either.add_argument(
        "--init-backbone", type=Path, metavar="RUN", help="start from the backbone of this run, for whatever task"
    )


def _train(options: argparse.Namespace) -> None:
    from rsna_e2e.config import load_config
    from rsna_e2e.core.console import progress_bar
    from rsna_e2e.core.device import choose_device_type
    from rsna_e2e.core.records import no_progress
    from rsna_e2e.store import Store
    from rsna_e2e.training.distributed import joined
    from rsna_e2e.training.preemption import stop_requests
    from rsna_e2e.training.train import train

    config = load_config(options.recipe, options.overrides)
    with (
        stop_requests() as is_stopping,
        closing(Store.open(options.store, config.task.name)) as store,
        joined(os.environ, choose_device_type(options.device), timeout_s=config.distributed.timeout_s) as ranks,
        progress_bar("train", unit="slices") as progress,
    ):
        summary = train(
            store,
            options.out,
            config,
            embeddings=open_embeddings(options.embeddings, store, out_of_fold=options.out_of_fold, folds=config.folds),
            device=options.device,
            init_from=options.init_from,
            init_backbone=options.init_backbone,
            resume=options.resume == "auto",
            ranks=ranks,
            is_stopping=is_stopping,
            progress=progress if ranks.is_main else no_progress,
            say=lambda text: tell(f"train: {text}", to=sys.stderr),
        )
    if ranks.is_main:
        _say_trained(summary, options.out, headline=config.task.headline)


def _say_trained(summary: "TrainSummary", run: Path, *, headline: str) -> None:
    tell(
        f"trained {summary.steps} steps on {summary.compute} at {summary.slices_per_s:.0f} slices/s, "
        f"{summary.stall_share:.1%} of the time waiting for the loader ({summary.stalls} steps waited), "
        f"{summary.save_share:.1%} saving"
    )
    if summary.elapsed_s is not None and summary.peak_mib is not None:
        took = timedelta(seconds=round(summary.elapsed_s))
        tell(f"in {took} h, with at most {summary.peak_mib / 1024:.1f} GiB of memory")
    if summary.skipped:
        tell(f"{summary.skipped} steps were skipped, because their loss or gradient was not finite")
    if summary.best is not None:
        tell(f"best epoch {summary.best_epoch}: {summary.best.describe(headline)}")
    tell(f"run: {run}   curves: tensorboard --logdir {run}")


def _find_lr(options: argparse.Namespace) -> None:
    from rsna_e2e.config import load_config
    from rsna_e2e.core.console import progress_bar
    from rsna_e2e.core.files import make_folder
    from rsna_e2e.evaluation.report.learning_rate import write_lr_figure
    from rsna_e2e.store import Store
    from rsna_e2e.training.lr_range import find_learning_rate
    from rsna_e2e.training.lr_sweep import write_csv

    config = load_config(options.recipe, options.overrides)
    make_folder(options.out)
    with (
        closing(Store.open(options.store, config.task.name)) as store,
        progress_bar("find-lr", unit="steps") as progress,
    ):
        sweep = find_learning_rate(
            store,
            config,
            phase=options.phase,
            lowest=options.lowest,
            highest=options.highest,
            n_steps=options.steps,
            device=options.device,
            init_from=options.init_from,
            init_backbone=options.init_backbone,
            progress=progress,
        )
    write_csv(sweep, options.out / "lr.csv")
    what = "whole series" if options.phase == "series" else "single slices"
    write_lr_figure(sweep, options.out / "lr.png", title=f"Learning rate range test: {config.recipe}, {what}")
    tell(*str(sweep).splitlines())
    tell(f"figure: {options.out / 'lr.png'}   every step: {options.out / 'lr.csv'}")
