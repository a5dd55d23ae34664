"""The verb that writes a store as HDF5 shards: export-shards."""

import argparse
from contextlib import closing
from pathlib import Path

from rsna_e2e.cli.arguments import at_least_one
from rsna_e2e.cli.verbs import Verbs, add_task, add_verb, given_task, task_of_store, tell


def add_export_shards(verbs: Verbs) -> None:
    """Add `rsna-e2e export-shards`."""
    verb = add_verb(
        verbs,
        "export-shards",
        _export_shards,
        "Write the slices of a store as HDF5 files npy-<k>.hdf5, one dataset each; run again, finished files are kept.",
        "rsna-e2e export-shards store shards",
        "rsna-e2e export-shards store shards --labels train.csv   # in the order of its rows, as published",
        "rsna-e2e prepare shards other_store --labels train.csv --task pe   # reads them again",
    )
    verb.add_argument("store", type=Path, metavar="STORE", help="a store made by prepare")
    verb.add_argument("out", type=Path, metavar="OUT", help="folder to make, or to continue")
    verb.add_argument(
        "--slices", type=at_least_one, default=100_000, metavar="N", help="slices of a file (default 100000)"
    )
    verb.add_argument(
        "--labels",
        type=Path,
        metavar="CSV",
        help="write slices in the order in which this label file names them, those that it does not name last "
        "(default: the order of the store)",
    )
    add_task(verb, of_store=True)


def _export_shards(options: argparse.Namespace) -> None:
    from rsna_e2e.core.console import field_lines, progress_bar
    from rsna_e2e.core.table_files import table_at
    from rsna_e2e.store import Store
    from rsna_e2e.store.export_shards import export_shards

    given = given_task(options)
    labels = None if options.labels is None else table_at(options.labels)
    name = given.name if given else None
    with closing(Store.open(options.store, name)) as store, progress_bar("export", unit="slices") as progress:
        report = export_shards(
            store,
            options.out,
            task=task_of_store(given, store),
            slices_per_shard=options.slices,
            labels=labels,
            progress=progress,
        )
    tell(*field_lines(report).splitlines())
