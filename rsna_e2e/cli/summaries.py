"""The verb that lists the layers of a network: summary."""

import argparse
from pathlib import Path

from rsna_e2e.cli.arguments import add_settings, at_least_one
from rsna_e2e.cli.verbs import Verbs, add_verb, tell
from rsna_e2e.core.errors import UsageError


def add_summary(verbs: Verbs) -> None:
    """Add `rsna-e2e summary`."""
    verb = add_verb(
        verbs,
        "summary",
        _summary,
        "List the layers of the network of a run or a recipe: output for one slice, weights, and how many learn.",
        "rsna-e2e summary --recipe demo --set image.size=96",
        "rsna-e2e summary runs/demo",
    )
    verb.add_argument(
        "model_run", type=Path, nargs="?", metavar="RUN", help="a run folder made by train, in place of a recipe"
    )
    add_settings(verb)
    verb.add_argument(
        "--channels",
        type=at_least_one,
        metavar="N",
        help="channels of the images (default: a channel for each window of the task); for a head on embeddings: their "
        "width, which it needs",
    )


def _summary(options: argparse.Namespace) -> None:
    from rsna_e2e.config import load_config, resolve_task
    from rsna_e2e.core.console import table
    from rsna_e2e.model.layers import list_layers
    from rsna_e2e.training.run_folder import read_config, read_task

    if options.model_run is not None:
        if options.overrides:
            raise UsageError("--set is for a recipe: a run is as it was trained. Leave out one of the two")
        config = read_config(options.model_run)
        task = read_task(options.model_run, config)
    else:
        config = load_config(options.recipe, options.overrides)
        task = resolve_task(config)
    if config.model.backbone == "none" and options.channels is None:
        raise UsageError("this network takes stored embeddings: give their width with --channels")
    layers = list_layers(config, task, n_channels=options.channels)
    rows = [
        (layer.name, layer.kind, " x ".join(map(str, layer.shape)), f"{layer.n_weights:,}", f"{layer.n_learned:,}")
        for layer in layers
    ]
    tell(*table(("layer", "kind", "output", "weights", "learned"), rows).splitlines())
    n_weights, n_learned = (sum(getattr(layer, name) for layer in layers) for name in ("n_weights", "n_learned"))
    tell(f"{len(layers)} layers, {n_weights:,} weights: {n_learned:,} learned, {n_weights - n_learned:,} frozen")
