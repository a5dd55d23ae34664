"""The verb that trains: train."""

import argparse
import os
from contextlib import closing
from pathlib import Path

from rsna_e2e.arguments import add_device, add_settings
from rsna_e2e.cli.verbs import Verbs, add_verb


def add_train(verbs: Verbs) -> None:
    """Add `rsna-e2e train`."""
    verb = add_verb(
        verbs,
        "train",
        _train,
        "Train backbone and recurrent head jointly on whole series.",
        "rsna-e2e train store runs/demo --recipe demo",
        "rsna-e2e train store runs/big --recipe reference --set loader.slices_per_batch=128",
        "rsna-e2e train store runs/big --recipe reference --resume auto    (bin/train.sh: on all GPUs)",
    )
    verb.add_argument("store", type=Path, metavar="STORE", help="a store made by prepare")
    verb.add_argument("out", type=Path, metavar="RUN", help="run folder to make")
    add_settings(verb)
    verb.add_argument("--init-from", type=Path, metavar="FILE|RUN", help="start from these weights")
    verb.add_argument(
        "--resume",
        choices=("auto", "never"),
        default="never",
        help="auto: go on from the last checkpoint of RUN, if there is one (default never)",
    )
    add_device(verb)


def _train(options: argparse.Namespace) -> None:
    from rsna_e2e.config import load_config
    from rsna_e2e.console import progress_bar
    from rsna_e2e.device import choose_device_type
    from rsna_e2e.distributed import joined
    from rsna_e2e.preemption import stop_requests
    from rsna_e2e.records import no_progress
    from rsna_e2e.store import Store
    from rsna_e2e.train import train

    config = load_config(options.recipe, options.set)
    with (
        stop_requests() as is_stopping,
        closing(Store.open(options.store)) as store,
        joined(os.environ, choose_device_type(options.device), timeout_s=config.distributed.timeout_s) as ranks,
        progress_bar("train", unit="slices") as progress,
    ):
        summary = train(
            store,
            options.out,
            config,
            device=options.device,
            init_from=options.init_from,
            resume=options.resume == "auto",
            ranks=ranks,
            is_stopping=is_stopping,
            progress=progress if ranks.is_main else no_progress,
        )
    if not ranks.is_main:
        return
    print(
        f"trained {summary.steps} steps on {summary.compute} at {summary.slices_per_s:.0f} slices/s, "
        f"{summary.stall_share:.1%} of the time waiting for the loader ({summary.stalls} stalls)"
    )
    if summary.skipped:
        print(f"{summary.skipped} steps were skipped, because their loss or gradient was not finite")
    if summary.best is not None:
        print(
            f"best epoch {summary.best_epoch}: validation weighted log loss {summary.best.weighted_log_loss:.4f}, "
            f"AUC of any {summary.best.any_auc:.4f}"
        )
    print(f"run: {options.out}   curves: tensorboard --logdir {options.out}")
