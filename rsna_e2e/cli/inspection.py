"""The verbs that report on data: inspect; and quirks, which measures the published pipeline's quirks on it."""

import argparse
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsna_e2e.cli.arguments import add_columns, add_settings, at_least_one, given_labels, seed
from rsna_e2e.cli.verbs import Verbs, add_task, add_verb, given_task, task_of_store, tell
from rsna_e2e.core.errors import UsageError
from rsna_e2e.core.files import is_inside, real_path
from rsna_e2e.tasks.catalogue import DEFAULT_TASK, get_task

if TYPE_CHECKING:
    from rsna_e2e.evaluation.inspection import Named

ALL = "all"


def add_inspect(verbs: Verbs) -> None:
    """Add `rsna-e2e inspect`."""
    verb = add_verb(
        verbs,
        "inspect",
        _inspect,
        "Report on a store or raw files before training: counts, geometry, values, labels, findings; as HTML and JSON.",
        "rsna-e2e inspect store --out report",
        "rsna-e2e inspect raw             # headers and labels alone, before anything is prepared",
        "rsna-e2e inspect store --who 1f3a9c20",
        "rsna-e2e inspect store --who 1f3a9c20 --raw raw --key ~/keys/study.key   # a store of hashed identifiers",
    )
    verb.add_argument("source", type=Path, metavar="STORE|RAW", help="a store made by prepare, or DICOM files")
    verb.add_argument("--out", type=Path, metavar="DIR", help="folder for the report (default: NAME-inspection, here)")
    verb.add_argument(
        "--sample",
        type=_sample,
        default=None,
        metavar="N|all",
        help="slices of a store whose pixels are read (default 1000)",
    )
    verb.add_argument("--seed", type=seed, help="seed that draws these slices and the series shown (default 0)")
    verb.add_argument("--labels", type=Path, help="raw files only: label CSV (default: RAW/*train*.csv[.gz])")
    add_columns(verb)
    verb.add_argument("--jobs", type=at_least_one, help="raw files only: processes (default: all cores)")
    add_task(verb, of_store=True)
    verb.add_argument(
        "--who", metavar="HASH", help="instead of a report, print the identifiers behind the hash of a series"
    )
    verb.add_argument(
        "--raw", type=Path, help="with --who and a store of hashed identifiers: the files it was prepared from"
    )
    verb.add_argument("--key", type=Path, metavar="KEYFILE", help="with --raw: the key the store was prepared with")


def _sample(text: str) -> int | str:
    return text if text == ALL else at_least_one(text)


def _inspect(options: argparse.Namespace) -> None:
    _check_usage(options)
    if options.who is not None:
        tell(*str(_who(options)).splitlines())
        return
    from rsna_e2e.core.console import progress_bar
    from rsna_e2e.evaluation.inspection import N_SAMPLED, check_out, inspect_raw, inspect_store, write_inspection
    from rsna_e2e.store import Store, is_store

    out: Path = options.out or Path(f"{real_path(options.source).name or 'root'}-inspection")
    if is_inside(out, options.source):
        raise UsageError(f"{out}: the report must not lie inside {options.source}. Choose another folder with --out")
    check_out(out)
    with progress_bar("inspect", unit="slices") as progress:
        if is_store(options.source):
            given = given_task(options)
            with closing(Store.open(options.source, given.name if given else None)) as store:
                task = task_of_store(given, store)
                n_sampled = None if options.sample == ALL else options.sample or N_SAMPLED
                content, slices = inspect_store(
                    store, task=task, n_sampled=n_sampled, seed=options.seed or 0, progress=progress
                )
                page = write_inspection(content, slices, out=out)
        else:
            content, slices = inspect_raw(options.source, **_raw(options), progress=progress)
            page = write_inspection(content, slices, out=out)
    counts = content["counts"]
    tell(", ".join(f"{counts[name]:,} {name}" for name in ("patients", "studies", "series", "slices")))
    for finding in content["findings"]:
        tell(f"{finding['level']}: {finding['title']}. {finding['text']}")
    tell(f"report: {page}   numbers: {page.with_suffix('.json')}")


def _check_usage(options: argparse.Namespace) -> None:
    from rsna_e2e.store import is_store

    if options.who is None and (options.raw or options.key):
        raise UsageError("--raw and --key go with --who: they resolve a hash of a store")
    if is_store(options.source) and options.who is None and (options.labels or options.columns or options.jobs):
        raise UsageError(
            f"{options.source}: a store, which holds its labels; --labels, --columns and --jobs are for raw files"
        )
    is_sampled = options.sample is not None or options.seed is not None
    if options.who is not None and (options.out or is_sampled):
        raise UsageError("--out, --sample and --seed are for a report; --who prints names and makes none")
    if not is_store(options.source) and options.who is None and is_sampled:
        raise UsageError(f"{options.source}: no store; --sample and --seed choose slices of a store")


def _who(options: argparse.Namespace) -> "Named":
    from rsna_e2e.evaluation.inspection import who_is, who_was
    from rsna_e2e.store import StoreFiles, is_store
    from rsna_e2e.store.prepare import read_raw
    from rsna_e2e.store.pseudonyms import load_key

    if not is_store(options.source):
        return who_is(read_raw(options.source, **_raw(options)).columns, options.who, where=options.source)
    store = StoreFiles.open(options.source)  # names are in the index, whatever became of the pixels
    if not store.key_check:
        return who_is(store.index, options.who, where=store.path)
    if not (options.raw and options.key):
        raise UsageError(
            f"{store.path}: holds hashed names. Give --raw, the files it was prepared from, and --key, its key file"
        )
    pseudonyms = load_key(options.key)
    how = _raw(options) | {"labels": given_labels(options) or "none", "image_ids": store.manifest.image_ids}
    how["modality"] = "xr" if store.manifest.values == "grey" else "ct"
    return who_was(store, options.who, read_raw(options.raw, **how).columns, pseudonyms)


def _raw(options: argparse.Namespace) -> dict[str, Any]:
    return {"task": get_task(options.task or DEFAULT_TASK), "labels": given_labels(options), "n_jobs": options.jobs}


def add_quirks(verbs: Verbs) -> None:
    """Add `rsna-e2e quirks`."""
    verb = add_verb(
        verbs,
        "quirks",
        _quirks,
        "Measure the effect of each quirk of the published pipeline: grey levels, crops, folds, order, padding.",
        "rsna-e2e quirks store --recipe reference",
    )
    verb.add_argument("store", type=Path, metavar="STORE", help="a store made by prepare")
    add_settings(verb)
    verb.add_argument("--series", type=at_least_one, default=16, help="series whose pixels are compared (default 16)")


def _quirks(options: argparse.Namespace) -> None:
    from rsna_e2e.config import load_config
    from rsna_e2e.core.console import progress_bar, table
    from rsna_e2e.evaluation.quirks import measure_quirks
    from rsna_e2e.store import Store

    config = load_config(options.recipe, options.overrides)
    with (
        closing(Store.open(options.store, config.task.name)) as store,
        progress_bar("quirks", unit="series") as progress,
    ):
        quirks = measure_quirks(store, config, n_series=options.series, progress=progress)
    rows = [(quirk.name, quirk.measure, quirk.published, quirk.default) for quirk in quirks]
    tell(*table(("quirk", "measured", "published", "default"), rows).splitlines())
