"""The verb that trains: train."""

import argparse
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
    )
    verb.add_argument("store", type=Path, metavar="STORE", help="a store made by prepare")
    verb.add_argument("out", type=Path, metavar="RUN", help="run folder to make")
    add_settings(verb)
    verb.add_argument("--init-from", type=Path, metavar="FILE|RUN", help="start from these weights")
    add_device(verb)


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
