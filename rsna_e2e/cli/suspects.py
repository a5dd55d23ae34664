"""The verb that finds labels which are probably wrong: suspects."""

import argparse
from contextlib import closing
from pathlib import Path

from rsna_e2e.cli.arguments import at_least_one
from rsna_e2e.cli.verbs import Verbs, add_task, add_verb, given_task, task_of_store, tell


def add_suspects(verbs: Verbs) -> None:
    """Add `rsna-e2e suspects`."""
    verb = add_verb(
        verbs,
        "suspects",
        _suspects,
        "Rank the labels of a store by how probably they are wrong: predictions of models that did not learn from them "
        "say otherwise, and so do neighbouring slices. Writes a table, and a page with pictures of the first.",
        "rsna-e2e suspects store fold0.csv fold1.csv --run runs/fold0 --run runs/fold1 --out suspects",
        "rsna-e2e suspects store baseline.csv --out suspects   # without --run: that it is out of fold is up to you",
    )
    verb.add_argument("store", type=Path, metavar="STORE", help="a store made by prepare, with labels")
    verb.add_argument(
        "submissions",
        type=Path,
        nargs="+",
        metavar="SUBMISSION",
        help="predictions of images that the model did not learn from, as predict --split validation writes them; of "
        "an image in several the mean counts",
    )
    verb.add_argument(
        "--run",
        dest="runs",
        type=Path,
        action="append",
        default=[],
        metavar="RUN",
        help="what made each SUBMISSION, in the same order, to check that it did not learn from them; repeatable",
    )
    verb.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for suspects.csv and suspects.html"
    )
    verb.add_argument("--top", type=at_least_one, default=20, help="how many to show with pictures (default 20)")
    add_task(verb, of_store=True)


def _suspects(options: argparse.Namespace) -> None:
    from rsna_e2e.evaluation.suspects.find import find_suspects
    from rsna_e2e.evaluation.suspects.page import PAGE, TABLE, check_out, write_suspects
    from rsna_e2e.store import Store

    check_out(options.out)
    given = given_task(options)
    with closing(Store.open(options.store, given.name if given else None)) as store:
        task = task_of_store(given, store)
        found = find_suspects(store, options.submissions, task, runs=options.runs)
        write_suspects(found, store, task, out=options.out, n_pictures=options.top)
    if not options.runs:
        tell("not checked whether the models learned from these images: name what made them with --run")
    tell(f"{len(found.suspects)} labels of {found.n_images} images, the most suspicious first")
    tell(f"table: {options.out / TABLE}   page: {options.out / PAGE}")
