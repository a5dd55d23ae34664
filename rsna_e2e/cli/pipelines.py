"""The verb that chains whole trainings, pipeline, and those that combine predictions: bag, smooth."""

import argparse
import math
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from rsna_e2e.cli.arguments import add_device, add_settings
from rsna_e2e.cli.verbs import Verbs, add_task, add_verb, tell
from rsna_e2e.core.errors import UsageError
from rsna_e2e.core.limits import CLIP
from rsna_e2e.tasks.task import get_task
from rsna_e2e.training.pipeline import PARTS

if TYPE_CHECKING:
    from rsna_e2e.config import TwoStageConfig
    from rsna_e2e.training.pipeline.forecast import Forecast
    from rsna_e2e.training.pipeline.run import Pipeline


def add_pipeline(verbs: Verbs) -> None:
    """Add `rsna-e2e pipeline`."""
    verb = add_verb(
        verbs,
        "pipeline",
        _pipeline,
        "Train and predict from DICOM files to a submission; started again, it goes on where it stopped.",
        "rsna-e2e pipeline full --data raw --recipe demo --dry-run",
        "rsna-e2e pipeline fast --data raw --embeddings published/emb_fold0_epoch*",
        "rsna-e2e pipeline full --data raw --recipe reference --set two_stage.match_reference=true --part images",
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
    verb.add_argument("--labels", type=Path, help="label CSV (default: RAW/*train*.csv[.gz])")
    add_settings(verb, file="a YAML file")
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
    verb.add_argument("--dry-run", action="store_true", help="only show the plan: steps, slices, disk, time")
    verb.add_argument(
        "--no-probe", action="store_true", help="with --dry-run: no time, which a short run would measure"
    )
    add_device(verb)


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
    verb.add_argument("--clip", type=_clip, default=CLIP, help=f"least distance from 0 and 1 (default {CLIP})")
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
    add_task(verb)


def _clip(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value < 0.5:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 0.5")
    return value


def _pipeline(options: argparse.Namespace) -> None:
    pipeline = _make(options)
    if options.dry_run:
        from rsna_e2e.training.pipeline.forecast import forecast

        _show(forecast(pipeline, device=options.device, probe=not options.no_probe))
        return
    pipeline.run(options.part or PARTS, say=tell)
    if (last := pipeline.steps[-1].output).exists():
        tell(f"submission: {last}")


def _make(options: argparse.Namespace) -> "Pipeline":
    from rsna_e2e.config import load_config, load_two_stage
    from rsna_e2e.store import is_store
    from rsna_e2e.training.pipeline.checks import check_store
    from rsna_e2e.training.pipeline.plan import Folders, plan_joint, plan_two_stage
    from rsna_e2e.training.pipeline.run import Pipeline

    if options.embeddings and options.mode != "fast":
        raise UsageError("--embeddings are what mode fast learns from; the other modes make their own")
    is_prepared = options.data is not None and is_store(options.data)
    store = options.data if is_prepared else options.out / "store"
    raw = None if is_prepared else options.data
    if raw is None and not store.exists():
        raise UsageError("--data RAW is missing: a folder or zip of DICOM files, or a store made of them by prepare")
    folders = Folders(raw=raw, labels=options.labels, store=store, out=options.out / options.mode)
    if options.mode == "joint":
        steps = plan_joint(load_config(options.recipe, options.overrides), folders)
        return Pipeline(steps, folders, device=options.device, check=lambda store: check_store(store, None))
    config = load_two_stage(options.recipe, options.overrides)
    embeddings = _embeddings(options, config) if options.mode == "fast" else ()
    steps = plan_two_stage(options.mode, config, folders, embeddings=embeddings)
    of_folds = config if options.mode == "full" else None
    return Pipeline(steps, folders, device=options.device, check=lambda store: check_store(store, of_folds))


def _embeddings(options: argparse.Namespace, config: "TwoStageConfig") -> list[Path]:
    """The folders given, or those of the first classifier whose embeddings mode full or single has stored."""
    from rsna_e2e.store.embeddings import MANIFEST
    from rsna_e2e.training.pipeline.plan import classifier_name

    if options.embeddings:
        return list(options.embeddings)
    for mode in ("full", "single"):
        for crop, fold in product(
            config.two_stage.crops, (config.two_stage.folds or ()) if mode == "full" else (None,)
        ):
            who = options.out / mode / "embeddings" / classifier_name(crop, fold)
            folders = [who.with_name(f"{who.name}-epoch{epoch}") for epoch in config.image_epochs]
            if found := [folder for folder in folders if (folder / MANIFEST).is_file()]:
                return found
    raise UsageError(
        f"{options.out}: no embeddings there. Run mode full or single up to --part embeddings, or give --embeddings"
    )


def _show(forecast: "Forecast") -> None:
    from rsna_e2e.core.console import table

    lines = [("step", "state", "slices", "GB", "minutes")]
    for line in forecast.lines:
        state = "to do again" if line.standing.state == "done" and line.standing.is_needed else line.standing.state
        minutes = f"{line.time_s / 60:.1f}" if math.isfinite(line.time_s) else "?"
        lines.append((line.standing.step.name, state, f"{line.n_slices:,}", f"{line.n_bytes / 1e9:.2f}", minutes))
    tell(*table(lines[0], lines[1:]).splitlines())
    total = "time not probed"
    if math.isfinite(forecast.time_s):
        total = f"{forecast.time_s / 3600:.1f} h" if forecast.time_s > 3600 else f"{forecast.time_s / 60:.0f} minutes"
        total += " on this machine, by a probe of some seconds"
    tell(
        "",
        f"to be run: {sum(line.standing.is_needed for line in forecast.lines)} of {len(forecast.lines)} steps, "
        f"{forecast.n_bytes / 1e9:.1f} GB ({forecast.free_bytes / 1e9:.1f} GB are free), {total}",
    )


def _bag(options: argparse.Namespace) -> None:
    from rsna_e2e.inference.average import bag

    done = bag(options.submissions, task=get_task(options.task), out=options.out, clip=options.clip)
    tell(f"mean of {done.n_members} submissions of {done.n_slices} slices; what it is made of: {done.manifest}")
    if 0 < done.n_with_series < done.n_members:
        tell(f"no series table is written: {done.n_with_series} of {done.n_members} submissions have one, not all")
    tell(f"submission: {done.submission}")


def _smooth(options: argparse.Namespace) -> None:
    from rsna_e2e.inference.average import smooth

    n_slices = smooth(options.submission, task=get_task(options.task), out=options.out)
    tell(f"smoothed {n_slices} slices", f"submission: {options.out}")
