"""The verbs that look after a store: label; store sets, store verify, store repair."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rsna_e2e.cli.arguments import add_division, add_reading, at_least_one, with_columns
from rsna_e2e.cli.verbs import Verbs, add_verb, tell
from rsna_e2e.tasks.catalogue import get_task

if TYPE_CHECKING:
    from rsna_e2e.store import Damage, Verification
    from rsna_e2e.store.prepare import LabelFacts

MOST_LINES = 50


def add_label(verbs: Verbs) -> None:
    """Add `rsna-e2e label`."""
    verb = add_verb(
        verbs,
        "label",
        _label,
        "Add the labels of a task to a store, or replace them; no DICOM file is read, nothing else in it changed.",
        "rsna-e2e label store labels.csv",
        "rsna-e2e label store corrected.csv --replace",
        "rsna-e2e label store train.csv --task pe   # a second task: its patients keep the folds that they have",
        "rsna-e2e label store stage_2_train_labels.csv --also stage_2_detailed_class_info.csv --task pneumonia",
        "rsna-e2e label store table.csv --columns ID=filename any=Hemorrhage --key ~/keys/study.key",
        "rsna-e2e label store labels.csv --replace --balance any --measure brain   # equally many with and without it",
    )
    verb.add_argument("store", type=Path, metavar="STORE", help="a store made by prepare")
    verb.add_argument("labels", type=Path, metavar="LABELS", help="label CSV, see docs/labels.md")
    add_reading(verb)
    verb.add_argument(
        "--replace",
        action="store_true",
        help="replace the labels of this task that are there; --folds, --holdout and --seed that are not given are "
        "those of the labels that are replaced",
    )
    verb.add_argument("--key", type=Path, metavar="KEYFILE", help="of a store of hashed identifiers: its key")
    _add_cut(verb)
    division = verb.add_argument_group("folds and test split")
    add_division(division, folds=None)
    division.add_argument(
        "--own-folds",
        action="store_true",
        help="divide all patients anew, whatever label sets there are (default: those that another label set divided "
        "keep their fold, or stay in split test, so that a model of one task may start from that of another; a set "
        "that is replaced says how the others are divided)",
    )


def _add_cut(verb: argparse.ArgumentParser) -> None:
    """Let the user cut labels to equally many slices, and have slices measured."""
    verb.add_argument(
        "--balance",
        nargs="?",
        const="",
        metavar="LABEL",
        help="cut the labels to as many slices with LABEL as without (default the task's headline), whole patients as "
        "far as possible, chosen by --seed; other slices get no label",
    )
    verb.add_argument(
        "--measure",
        choices=("brain",),
        help="brain: read all pixels of CT and keep which share of each slice lies in 0 to 80 HU, for "
        "training_filter.min_brain_share",
    )


def add_store(verbs: Verbs) -> None:
    """Add `rsna-e2e store`."""
    description = "List the label sets of a store, check it for damage, and repair it from the raw files."
    group = verbs.add_parser("store", help=description, description=description)
    own: Verbs = group.add_subparsers(metavar="VERB", required=True)
    verb = add_verb(
        own,
        "sets",
        _sets,
        "List the label sets of a store: task, labels, what is labelled and positive, folds, hash.",
        "rsna-e2e store sets store",
    )
    verb.add_argument("store", type=Path, metavar="STORE", help="a store made by prepare")
    verb = add_verb(
        own,
        "verify",
        _verify,
        "Read all of a store and list damaged series and slices; the exit code is 3 if there are any.",
        "rsna-e2e store verify store",
        "rsna-e2e store verify store --out damage.json",
    )
    verb.add_argument("store", type=Path, metavar="STORE", help="a store made by prepare")
    verb.add_argument("--jobs", type=at_least_one, help="threads (default: all cores)")
    verb.add_argument("--json", action="store_true", help="print the result as JSON")
    verb.add_argument("--out", type=Path, metavar="FILE", help="also write the result as JSON")
    verb = add_verb(
        own,
        "repair",
        _repair,
        "Replace damaged slices from the files that the store was made of; nothing else is changed.",
        "rsna-e2e store repair store raw",
    )
    verb.add_argument("store", type=Path, metavar="STORE", help="a store made by prepare")
    verb.add_argument("raw", type=Path, metavar="RAW", help="the folder or zip that it was made from")
    verb.add_argument("--jobs", type=at_least_one, help="processes (default: all cores)")


def _label(options: argparse.Namespace) -> None:
    from rsna_e2e.core.console import field_lines, progress_bar
    from rsna_e2e.store.prepare import Further, label
    from rsna_e2e.store.pseudonyms import load_key

    with ExitStack() as opened:
        further = Further(balance=options.balance)
        if options.measure == "brain":
            progress = opened.enter_context(progress_bar("measure", unit="slices"))
            further = Further(balance=options.balance, measures_brain=True, progress=progress)
        report = label(
            options.store,
            with_columns(options.labels, options.columns, options.also),
            task=get_task(options.task),
            image_ids=options.image_ids,
            n_folds=options.folds,
            holdout=options.holdout,
            seed=options.seed,
            replaces=options.replace,
            own_folds=options.own_folds,
            pseudonyms=None if options.key is None else load_key(options.key),
            further=further,
        )
    tell(*field_lines(report).splitlines())
    warn_of_labels(report, options.task)


def warn_of_labels(report: "LabelFacts", task: str) -> None:
    """Say on stderr what is wrong with labels, or cannot be learned from them. task: what --task names."""
    for text in report.label_warnings(task):
        tell(f"warning: {text}", to=sys.stderr)
    if report.slice_order.looks_shuffled:
        tell(
            f"warning: positive slices are scattered as if the slices were shuffled. {report.order_advice}",
            to=sys.stderr,
        )


def _sets(options: argparse.Namespace) -> None:
    from rsna_e2e.core.console import table
    from rsna_e2e.store.manifest import read_manifest
    from rsna_e2e.store.set_manifest import read_set_manifest, set_names

    store = read_manifest(options.store)
    rows = []
    for name in set_names(options.store):
        one = read_set_manifest(options.store, name)
        held_out = "" if one.holdout is None else f", {one.holdout:g} held out"
        rows.append(
            (
                name,
                ", ".join((*one.slices.names, *one.series.names)),
                f"{one.n_labelled_slices:,} of {store.n_slices:,}",
                f"{one.n_labelled_series:,} of {store.n_series:,}",
                f"{one.n_positive_slices:,} {one.headline}" + (", balanced" if one.balanced_by else ""),
                f"{one.n_folds}{held_out}" + (f", as in {one.folds_of}" if one.folds_of else ""),
                one.labels_hash[:8],
            )
        )
    if not rows:
        tell(f"no label sets. Add one: rsna-e2e label {options.store} LABELS --task TASK")
        return
    head = ("task", "labels", "slices labelled", "series labelled", "positive slices", "folds", "hash")
    tell(*table(head, rows).splitlines())


def _verify(options: argparse.Namespace) -> None:
    from rsna_e2e.core.console import progress_bar
    from rsna_e2e.core.errors import UsageError
    from rsna_e2e.core.files import as_json, is_inside, prepare_file, write_json
    from rsna_e2e.core.process import available_cores
    from rsna_e2e.store import StoreError, verify_store

    if options.out is not None:
        if is_inside(options.out, options.store):
            raise UsageError(f"{options.out}: the result must not lie inside {options.store}. Choose another file")
        prepare_file(options.out, example="damage.json")
    with progress_bar("verify", unit="slices") as progress:
        found = verify_store(options.store, n_threads=options.jobs or available_cores(), progress=progress)
    if options.out is not None:
        write_json(options.out, _as_plain(found))
    if options.json:
        tell(*as_json(_as_plain(found), indent=2).splitlines())
    elif found.is_whole:
        tell(f"intact: {found.n_slices} slices, {found.n_slices / found.elapsed_s:,.0f} slices/s")
    else:
        _show(found.damages)
    if not found.is_whole:
        raise StoreError(f"{options.store}: {_sum_up(found)}")


def _sum_up(found: "Verification") -> str:
    from rsna_e2e.store.layout import PREPARE_AGAIN
    from rsna_e2e.store.set_manifest import label_again

    n_foreign = sum(damage.is_foreign for damage in found.damages)
    sets = sorted({damage.of_set for damage in found.damages} - {""})
    parts = [f"label set {name}: damaged. {label_again(name)}" for name in sets]
    if any(not damage.is_foreign and not damage.of_set for damage in found.damages):
        can_be_mended = not any(damage.is_in_table for damage in found.damages)
        way_out = f"Repair it with: rsna-e2e store repair {found.store} RAW" if can_be_mended else PREPARE_AGAIN
        parts.append(f"damaged, including {found.n_damaged_slices} of {found.n_expected} slices. {way_out}")
    if n_foreign:
        parts.append(f"{n_foreign} files do not belong to the store. Remove them, as listed above")
    return ". ".join(parts)


def _repair(options: argparse.Namespace) -> None:
    from rsna_e2e.core.console import progress_bar
    from rsna_e2e.store import StoreError
    from rsna_e2e.store.prepare import repair

    with progress_bar("repair", unit="done") as progress:
        report = repair(options.store, options.raw, n_jobs=options.jobs, progress=progress)
    tell(f"repaired {report.n_mended_slices} slices; {report.n_mended_shards} shards are intact again")
    if report.left:
        _show(report.left)
        raise StoreError(f"{options.store}: {len(report.left)} faults could not be repaired; the table above says why")


def _as_plain(found: "Verification") -> dict[str, object]:
    return {"is_whole": found.is_whole, **asdict(found)} | {"store": found.store.name}


def _show(damages: Sequence["Damage"]) -> None:
    from rsna_e2e.core.console import table
    from rsna_e2e.store import by_series

    rows = by_series(damages)
    tell(*table(("file", "series", "slices", "damage"), rows[:MOST_LINES]).splitlines())
    if len(rows) > MOST_LINES:
        tell(f"and {len(rows) - MOST_LINES} more lines")
