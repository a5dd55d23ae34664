"""`rsna-e2e pipeline`: makes the plan of a mode, checks it, and shows what it takes with --dry-run."""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

from rsna_e2e.cli.arguments import given_labels
from rsna_e2e.cli.verbs import tell
from rsna_e2e.core.errors import UsageError
from rsna_e2e.training.pipeline import PARTS
from rsna_e2e.training.pipeline.devices import DEVICES, GB

if TYPE_CHECKING:
    from rsna_e2e.config import TwoStageConfig
    from rsna_e2e.training.pipeline.forecast import Forecast
    from rsna_e2e.training.pipeline.planned_step import Folders, PlannedStep
    from rsna_e2e.training.pipeline.rates import Basis
    from rsna_e2e.training.pipeline.run import Pipeline, Standing

_MOST_MINUTES, _MOST_HOURS = 90, 72  # what is longer is shown in hours, or days


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """The steps of a mode, where they work, and the configuration whose folds they need, if they need any."""

    steps: "tuple[PlannedStep, ...]"
    folders: "Folders"
    of_folds: "TwoStageConfig | None"


def run_pipeline(options: argparse.Namespace) -> None:
    """Run the steps of a plan that are not done, or show what they take."""
    _check_options(options)
    if options.slices is not None:
        _forecast_elsewhere(options)
        return
    pipeline, standings = _checked(options)
    if options.dry_run:
        _show_all(options, _forecast(pipeline, standings), pipeline.folders, raw=pipeline.folders.raw)
        return
    if any(standing.is_needed for standing in standings):
        from rsna_e2e.training.pipeline.checks import check_weights
        from rsna_e2e.training.pipeline.needs import check_needs, disk_needs

        check_weights(standings)
        check_needs(list(disk_needs(_forecast(pipeline, standings), pipeline.folders)))
    pipeline.run(options.part or PARTS, say=tell)
    if (last := pipeline.steps[-1].output).exists():
        tell(f"submission: {last}")


def _check_options(options: argparse.Namespace) -> None:
    is_elsewhere = options.device in DEVICES
    if not options.dry_run:
        for name, given in (("--slices", options.slices is not None), (f"--device {options.device}", is_elsewhere)):
            if given:
                raise UsageError(f"{name} is for a forecast: add --dry-run")
    if options.gpus is not None and not is_elsewhere:
        raise UsageError(f"--gpus goes with --device {'|'.join(DEVICES)}: a machine that is not here")
    if options.slices is None:
        if options.series is not None or options.test_slices is not None:
            raise UsageError("--series and --test-slices describe data that are not here: give --slices too")
        return
    if options.data is not None or options.embeddings:
        raise UsageError("--slices is for data that are not here: leave out --data and --embeddings")
    for name, value in (("--series", options.series), ("--test-slices", options.test_slices)):
        if value is not None and value > options.slices:
            raise UsageError(f"{name} {value}: more than --slices {options.slices}")


def _checked(options: argparse.Namespace) -> "tuple[Pipeline, list[Standing]]":
    """Return the pipeline, and how far its steps of the chosen parts are, once its data suit it."""
    from rsna_e2e.store import is_store
    from rsna_e2e.training.pipeline.checks import check_folds_to_come, check_store
    from rsna_e2e.training.pipeline.run import Pipeline

    plan = _make(options)
    device = "auto" if options.device in DEVICES else options.device
    pipeline = Pipeline(plan.steps, plan.folders, device=device, check=lambda store: check_store(store, plan.of_folds))
    standings = [standing for standing in pipeline.standings() if standing.step.part in (options.part or PARTS)]
    if any(standing.is_needed for standing in standings):
        pipeline.check_store()
        if plan.of_folds is not None and not is_store(plan.folders.store):
            check_folds_to_come(plan.of_folds)
    return pipeline, standings


def _make(options: argparse.Namespace) -> _Plan:
    from rsna_e2e.config import load_config, load_two_stage
    from rsna_e2e.store import is_store
    from rsna_e2e.training.pipeline.plan import plan_joint, plan_two_stage
    from rsna_e2e.training.pipeline.planned_step import Folders

    if options.embeddings and options.mode != "fast":
        raise UsageError("--embeddings are what mode fast learns from; the other modes make their own")
    is_prepared = options.data is not None and is_store(options.data)
    store = options.data if is_prepared else options.out / "store"
    raw = None if is_prepared else options.data
    if raw is None and not is_store(store):
        raise UsageError("--data RAW is missing: a folder or zip of DICOM files, or a store made of them by prepare")
    if given_labels(options) == "none":
        raise UsageError("--labels none: there is nothing to train on without labels")
    if is_prepared and options.labels is not None:
        raise UsageError(f"{options.data}: a store, which holds its labels; --labels and --columns are for raw files")
    folders = Folders(
        raw=raw,
        labels="folders" if given_labels(options) == "folders" else options.labels,
        store=store,
        out=options.out / options.mode,
        columns=tuple(options.columns),
    )
    if options.mode == "joint":
        steps = plan_joint(load_config(options.recipe, options.overrides), folders)
        return _Plan(steps=steps, folders=folders, of_folds=None)
    config = load_two_stage(options.recipe, options.overrides)
    embeddings = _embeddings(options, config) if options.mode == "fast" else ()
    steps = plan_two_stage(options.mode, config, folders, embeddings=embeddings)
    return _Plan(steps=steps, folders=folders, of_folds=config if options.mode == "full" else None)


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
            made = options.out / mode / "embeddings"
            names = [classifier_name(crop, fold, section) for section in config.image_runs]
            groups = [[made / f"{name}-epoch{epoch}" for name in names] for epoch in config.image_epochs]
            are_there = [group for group in groups if all((folder / MANIFEST).is_file() for folder in group)]
            if are_there:
                return [folder for group in are_there for folder in group]
    raise UsageError(
        f"{options.out}: no embeddings there. Run mode full or single up to --part embeddings, or give --embeddings"
    )


def _forecast(pipeline: "Pipeline", standings: "Sequence[Standing]") -> "Forecast":
    from rsna_e2e.store import is_store
    from rsna_e2e.training.pipeline.data_size import measure_data
    from rsna_e2e.training.pipeline.forecast import forecast
    from rsna_e2e.training.pipeline.model_sizes import ModelSizes

    runs = [step.settings for step in pipeline.steps if step.settings is not None]
    if pipeline.folders.raw is not None and not is_store(pipeline.folders.store):
        _progress(f"counting the files of {pipeline.folders.raw}")
    return forecast(standings, ModelSizes(pipeline.steps), measure_data(pipeline.folders, runs))


def _forecast_elsewhere(options: argparse.Namespace) -> None:
    """Show what a plan takes on data of a given size, of which nothing is done yet."""
    from rsna_e2e.config import load_config, load_two_stage
    from rsna_e2e.training.pipeline.data_size import DataSize
    from rsna_e2e.training.pipeline.forecast import forecast
    from rsna_e2e.training.pipeline.model_sizes import ModelSizes
    from rsna_e2e.training.pipeline.plan import plan_joint, plan_two_stage
    from rsna_e2e.training.pipeline.planned_step import Folders
    from rsna_e2e.training.pipeline.run import Standing

    out = options.out / options.mode
    folders = Folders(raw=Path("DATA"), labels=None, store=options.out / "store", out=out)
    if options.mode == "joint":
        steps = plan_joint(load_config(options.recipe, options.overrides), folders)
    else:  # fast learns from embeddings that mode full has made, of its first crop and fold
        config = load_two_stage(options.recipe, options.overrides).of_mode(options.mode)
        steps = plan_two_stage("full" if options.mode == "fast" else options.mode, config, folders)
    data = DataSize(n_slices=options.slices, n_test=options.test_slices or 0, n_series=options.series)
    parts = options.part or (("sequences", "bag") if options.mode == "fast" else PARTS)
    standings = [
        Standing(step=step, state="to do", is_needed=True, starts_over=False) for step in steps if step.part in parts
    ]
    _show_all(options, forecast(standings, ModelSizes(steps), data), folders, raw=None)


def _show_all(options: argparse.Namespace, forecast: "Forecast", folders: "Folders", *, raw: Path | None) -> None:
    """Show what the steps take, end where it is not there, and then show how long they take."""
    from rsna_e2e.training.pipeline.checks import check_weights
    from rsna_e2e.training.pipeline.needs import Machine, check_needs, needs_of

    bases: tuple[Basis, ...] = ()
    if options.device in DEVICES:
        from rsna_e2e.training.pipeline.rates import bases_of

        machine = Machine.named(options.device, options.gpus or 1)
        bases = bases_of(options.device, machine.n_gpus, forecast.sizes, forecast.data)
    else:
        machine = Machine.here(options.device)
    needs = needs_of(forecast, folders, machine)
    _show(forecast, bases)
    tell(*map(str, needs))
    check_needs(needs)
    check_weights([line.standing for line in forecast.lines], asks_network=machine.is_here)
    if machine.is_here and not options.no_probe and forecast.to_run:
        from rsna_e2e.training.pipeline.probe import Probe

        steps = [line.standing.step for line in forecast.to_run]
        measured = Probe(steps, forecast.sizes, raw=raw, device=options.device, say=_progress).run()
        tell("")
        _show(forecast, (measured,))


def _progress(line: str) -> None:
    tell(line, to=sys.stderr)


def _show(forecast: "Forecast", bases: "Sequence[Basis]") -> None:
    """Show the steps, with their times by each of `bases`, and what is to be run."""
    from rsna_e2e.core.console import table

    data = forecast.data
    series = "" if data.n_series is None else f" in {data.n_series:,} series"
    about = "about " * data.is_estimate
    tell(f"data: {data.n_slices:,} slices{series}; {about}{data.n_test:,} in split test: to predict")
    rows = []
    totals_s = [0.0] * len(bases)
    for line in forecast.lines:
        standing = line.standing
        state = "to do again" if standing.state == "done" and standing.is_needed else standing.state
        row = (standing.step.name, state, f"{line.n_slices:,}", f"{line.n_bytes / GB:.2f}")
        if not standing.is_needed:
            rows.append((*row, *[""] * len(bases)))
            continue
        times_s = [basis.time_s(standing.step, line.n_slices) for basis in bases]
        totals_s = [total + (0.0 if math.isnan(s) else s) for total, s in zip(totals_s, times_s, strict=True)]
        rows.append((*row, *map(time_words, times_s)))
    tell(*table(("step", "state", "slices", "GB", *(basis.name for basis in bases)), rows).splitlines(), "")
    n_steps = len(forecast.to_run)
    tell(f"to be run: {n_steps} of {len(forecast.lines)} steps")
    if bases:
        totals = (f"{time_words(total)} {basis.name}" for total, basis in zip(totals_s, bases, strict=True))
        tell(f"time: {', '.join(totals)}")
        for basis in bases:
            tell(*wrap(basis.note, width=100, initial_indent="  ", subsequent_indent="    "))


def time_words(elapsed_s: float) -> str:
    """A time to plan by: minutes, or hours from 90 minutes on, or days; ? where it is not known."""
    minutes = elapsed_s / 60
    if math.isnan(minutes):
        return "?"
    if minutes < 1:
        return "< 1 min"
    if minutes <= _MOST_MINUTES:
        return f"{minutes:.0f} min"
    hours = minutes / 60
    return f"{hours:.1f} h" if hours <= _MOST_HOURS else f"{hours / 24:.1f} days"
