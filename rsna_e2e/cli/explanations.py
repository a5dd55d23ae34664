"""The verb that shows what a trained network sees: explain."""

import argparse
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from rsna_e2e.cli.arguments import add_checkpoint, add_device
from rsna_e2e.cli.embeddings import say_damaged, taken
from rsna_e2e.cli.verbs import Verbs, add_verb, tell
from rsna_e2e.core.errors import UsageError

if TYPE_CHECKING:
    from rsna_e2e.store import Store


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
        "rsna-e2e explain runs/demo store --score masks --out score   # whether maps point where masks say",
    )
    verb.add_argument(
        "model_run", type=Path, metavar="RUN", help="a run folder made by train, or a bundle made by export"
    )
    verb.add_argument("store", type=Path, metavar="STORE", help="a store made by prepare")
    of_what = verb.add_mutually_exclusive_group(required=True)
    of_what.add_argument("--series", metavar="KEY", help="hash of a series, as reports and messages show it")
    of_what.add_argument("--image", metavar="ID", help="id of an image, as in the submission")
    of_what.add_argument(
        "--score",
        type=Path,
        metavar="MASKS",
        help="folder with pictures LABEL/IMAGE.png of where labels are, as synth --masks makes it: how often the maps "
        "of slices that are called to have a label are highest there",
    )
    verb.add_argument("--split", choices=("train", "test"), help="of --score: which series (default test)")
    verb.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    verb.add_argument("--label", metavar="NAME", help="what to explain (default: the label that the task is headed by)")
    verb.add_argument(
        "--target",
        choices=("sum", "slice"),
        default="sum",
        help="what is explained of a label of slices: the sum of its logits over the series (default), or each slice's "
        "own, in as many passes through the head as there are slices",
    )
    add_checkpoint(verb)
    add_device(verb)


def _explain(options: argparse.Namespace) -> None:
    from rsna_e2e.inference.bundle import run_of
    from rsna_e2e.store import Store
    from rsna_e2e.training.run_folder import read_config

    if options.score is None and options.split is not None:
        raise UsageError("--split: is of --score. Leave it out")
    options.model_run = run_of(options.model_run)
    task = read_config(options.model_run).task.name
    with closing(Store.open(options.store, task)) as store:
        (_draw if options.score is None else _score)(options, store)


def _draw(options: argparse.Namespace, store: "Store") -> None:
    from rsna_e2e.core.console import progress_bar
    from rsna_e2e.evaluation.explain import NUMBERS, SHEET, explain

    with progress_bar("explain", unit="slices") as progress:
        done = explain(
            options.model_run,
            store,
            options.out,
            series=options.series,
            image_id=options.image,
            label=options.label,
            checkpoint=options.checkpoint,
            device=options.device,
            target=options.target,
            progress=progress,
        )
    say_damaged(done)
    tell(f"{done.label}, a label of the {done.level}, in {done.n_slices} slices, by {taken(done)}")
    tell(f"pictures: {done.folder}   all of them: {done.folder / SHEET}   numbers: {done.folder / NUMBERS}")


def _score(options: argparse.Namespace, store: "Store") -> None:
    from rsna_e2e.core.console import progress_bar
    from rsna_e2e.evaluation.pointing import AROUND_MM, NEAR_MM, SCORES, play
    from rsna_e2e.evaluation.summary import as_text
    from rsna_e2e.tasks.metrics import DECISION_THRESHOLD

    if options.label is not None:
        raise UsageError("--label: --score is of all labels that have masks. Leave it out")
    with progress_bar("explain", unit="series") as progress:
        game = play(
            options.model_run,
            store,
            options.score,
            options.out,
            split=options.split or "test",
            checkpoint=options.checkpoint,
            device=options.device,
            target=options.target,
            progress=progress,
        )
    tell(f"{game.n_called} of {game.n_pairs} slices and labels with masks are called, of {game.n_series} series")
    if not game.has_thresholds:
        tell(f"called from {DECISION_THRESHOLD:g} on: the run has no thresholds of the epoch that made the maps")
    tell(f"highest in the mask {as_text(game.in_mask, 3)}")
    tell(f"within {NEAR_MM:g} mm of it {as_text(game.near, 3)}   within {AROUND_MM:g} mm {as_text(game.around, 3)}")
    tell(f"of the map within {NEAR_MM:g} mm {as_text(game.energy, 3)}   of the image {as_text(game.area, 3)}")
    tell(f"numbers: {options.out / SCORES}")
