"""The verb that chains whole trainings, pipeline, and those that combine predictions: bag, merge, smooth."""

import argparse
from pathlib import Path

from rsna_e2e.cli.arguments import RECIPES_OF_LABELS, add_columns, add_raw, add_settings, at_least_one, clip, seed
from rsna_e2e.cli.plan import run_pipeline
from rsna_e2e.cli.predictions import say_truth
from rsna_e2e.cli.verbs import Verbs, add_task, add_verb, tell
from rsna_e2e.core.limits import CLIP
from rsna_e2e.tasks.catalogue import get_task
from rsna_e2e.training.pipeline import PARTS
from rsna_e2e.training.pipeline.devices import DEVICES


def add_pipeline(verbs: Verbs) -> None:
    """Add `rsna-e2e pipeline`."""
    verb = add_verb(
        verbs,
        "pipeline",
        run_pipeline,
        "Train and predict from DICOM files to a submission; run again, it continues where it stopped.",
        "rsna-e2e pipeline full --data raw --recipe demo --dry-run",
        "rsna-e2e pipeline joint --dry-run --slices 874035 --test-slices 121232 --device v100 --recipe reference",
        "rsna-e2e pipeline fast --data raw --embeddings published/emb_fold0_epoch*",
        "rsna-e2e pipeline full --data raw --recipe reference --set two_stage.match_reference=true --part images",
        "rsna-e2e pipeline full --data raw --recipe pe_demo",
    )
    verb.add_argument(
        "mode",
        choices=("full", "single", "fast", "joint"),
        help="full: all folds and crops in two stages; single: one model on all the data, in two stages; joint: the "
        "same end to end; fast: recurrent heads on stored embeddings",
    )
    verb.add_argument(
        "--out", type=Path, default=Path("out"), help="folder for everything (default out); OUT/store serves all modes"
    )
    verb.add_argument("--data", type=Path, metavar="RAW", help="folder or zip of DICOM files, or a store of them")
    verb.add_argument("--labels", type=Path, help="label CSV, or folders (default: RAW/*train*.csv[.gz])")
    add_columns(verb)
    recipes = f"of mode joint {RECIPES_OF_LABELS}; of the other modes demo, reference, pe_reference, pe_demo"
    add_settings(verb, file="a YAML file", recipes=recipes)
    verb.add_argument(
        "--part", action="append", choices=PARTS, help="run this part only; repeatable (default: all that is not done)"
    )
    verb.add_argument(
        "--embeddings",
        type=Path,
        nargs="+",
        metavar="FOLDER",
        help="mode fast: folders of embeddings (default: those of OUT/full or OUT/single)",
    )
    _add_forecast(verb)


def _add_forecast(verb: argparse.ArgumentParser) -> None:
    group = verb.add_argument_group(
        "planning", "What the steps take: slices, disk, memory and time. Exit code 5 when it is not there."
    )
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="only show the plan: what it takes, then, measured for a few minutes, how long",
    )
    group.add_argument("--no-probe", action="store_true", help="with --dry-run: do not measure times")
    verb.add_argument(
        "--device",
        type=str.lower,
        choices=("auto", "cpu", "cuda", *DEVICES),
        default="auto",
        help="default: a GPU if there is one. With --dry-run also a GPU that is not here: published and modelled times",
    )
    group.add_argument(
        "--gpus", type=at_least_one, metavar="N", help="with a GPU that is not here: how many (default 1)"
    )
    group.add_argument(
        "--slices", type=at_least_one, metavar="N", help="with --dry-run: forecast for so many slices instead of --data"
    )
    group.add_argument(
        "--series", type=at_least_one, metavar="N", help="with --slices: in how many series (default: 34.6 slices each)"
    )
    group.add_argument(
        "--test-slices",
        type=seed,
        metavar="N",
        help="with --slices: how many are in split test and predicted (default 0)",
    )


def add_bag(verbs: Verbs) -> None:
    """Add `rsna-e2e bag`."""
    verb = add_verb(
        verbs,
        "bag",
        _bag,
        "Average submissions of the same slices, and write a manifest of what was averaged.",
        "rsna-e2e bag predictions/*.csv.gz --out submission.csv.gz",
    )
    verb.add_argument("submissions", type=Path, nargs="+", metavar="SUBMISSION", help="made by predict")
    verb.add_argument("--out", type=Path, required=True, help="submission file, .csv or .csv.gz")
    verb.add_argument("--clip", type=clip, default=CLIP, help=f"least distance from 0 and 1 (default {CLIP})")
    add_raw(verb)
    add_task(verb)


def add_merge(verbs: Verbs) -> None:
    """Add `rsna-e2e merge`."""
    verb = add_verb(
        verbs,
        "merge",
        _merge,
        "Join two submissions of the same slices: the slices of the first, and the series of the second.",
        "rsna-e2e merge slices.csv.gz series.csv.gz --out submission.csv.gz --task pe",
    )
    verb.add_argument("of_slices", type=Path, metavar="SLICES", help="made by predict or bag: the slices are taken")
    verb.add_argument("of_series", type=Path, metavar="SERIES", help="the same, with a series table: that is taken")
    verb.add_argument("--out", type=Path, required=True, help="submission file, .csv or .csv.gz")
    add_raw(verb)
    add_task(verb)


def add_smooth(verbs: Verbs) -> None:
    """Add `rsna-e2e smooth`."""
    verb = add_verb(
        verbs,
        "smooth",
        _smooth,
        "Average each slice's prediction with its neighbours', weighted 0.6, 1.8, 0.6: a baseline for recurrent heads.",
        "rsna-e2e smooth submission.csv --out smoothed.csv",
    )
    verb.add_argument("submission", type=Path, metavar="SUBMISSION", help="made by predict, with its table beside it")
    verb.add_argument("--out", type=Path, required=True, help="submission file, .csv or .csv.gz")
    add_raw(verb)
    add_task(verb)


def _bag(options: argparse.Namespace) -> None:
    from rsna_e2e.inference.average import bag
    from rsna_e2e.inference.predictions import without_notes

    how = {"task": get_task(options.task), "out": options.out, "is_raw": options.is_raw}
    done = bag(without_notes(options.submissions), clip=options.clip, **how)
    tell(f"mean of {done.n_members} submissions of {done.n_slices} slices; what it is made of: {done.manifest}")
    if 0 < done.n_with_series < done.n_members:
        tell(f"no series table is written: {done.n_with_series} of {done.n_members} submissions have one, not all")
    tell(f"submission: {done.submission}")
    say_truth(done.submission, done.truth, task=options.task)


def _merge(options: argparse.Namespace) -> None:
    from rsna_e2e.inference.merge import merge

    how = {"task": get_task(options.task), "out": options.out, "is_raw": options.is_raw}
    done = merge(options.of_slices, options.of_series, **how)
    tell(f"joined {done.n_slices} slices and {done.n_series} series", f"submission: {options.out}")
    say_truth(options.out, done.truth, task=options.task)


def _smooth(options: argparse.Namespace) -> None:
    from rsna_e2e.inference.average import smooth

    done = smooth(options.submission, task=get_task(options.task), out=options.out, is_raw=options.is_raw)
    tell(f"smoothed {done.n_slices} slices", f"submission: {options.out}")
    say_truth(options.out, done.truth, task=options.task)
