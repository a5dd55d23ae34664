"""The verb that shows what a trained network sees: explain."""

import argparse
from contextlib import closing
from pathlib import Path

from rsna_e2e.cli.arguments import add_checkpoint, add_device
from rsna_e2e.cli.embeddings import say_damaged, taken
from rsna_e2e.cli.verbs import Verbs, add_verb, tell


def add_explain(verbs: Verbs) -> None:
    """Add `rsna-e2e explain`."""
    verb = add_verb(
        verbs,
        "explain",
        _explain,
        "Show where a trained network sees a label: pictures of slices with its class-activation maps over them.",
        "rsna-e2e explain runs/demo store --series 1f3a9c20 --out maps       # every slice of a series",
        "rsna-e2e explain runs/demo store --image ID_00fbd4e9a --out maps",
        "rsna-e2e explain runs/pe store --series 1f3a9c20 --label LABEL --out maps   # a label of the series",
    )
    verb.add_argument("model_run", type=Path, metavar="RUN", help="a run folder made by train")
    verb.add_argument("store", type=Path, metavar="STORE", help="a store made by prepare")
    of_what = verb.add_mutually_exclusive_group(required=True)
    of_what.add_argument("--series", metavar="KEY", help="hash of a series, as reports and messages show it")
    of_what.add_argument("--image", metavar="ID", help="id of an image, as in the submission")
    verb.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    verb.add_argument("--label", metavar="NAME", help="what to explain (default: the label that the task is headed by)")
    add_checkpoint(verb)
    add_device(verb)


def _explain(options: argparse.Namespace) -> None:
    from rsna_e2e.core.console import progress_bar
    from rsna_e2e.evaluation.explain import NUMBERS, SHEET, explain
    from rsna_e2e.store import Store
    from rsna_e2e.training.run_folder import read_config

    task = read_config(options.model_run).task.name
    with closing(Store.open(options.store, task)) as store, progress_bar("explain", unit="slices") as progress:
        done = explain(
            options.model_run,
            store,
            options.out,
            series=options.series,
            image_id=options.image,
            label=options.label,
            checkpoint=options.checkpoint,
            device=options.device,
            progress=progress,
        )
    say_damaged(done)
    tell(f"{done.label}, a label of the {done.level}, in {done.n_slices} slices, by {taken(done)}")
    tell(f"pictures: {done.folder}   all of them: {done.folder / SHEET}   numbers: {done.folder / NUMBERS}")
