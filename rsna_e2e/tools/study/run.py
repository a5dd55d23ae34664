"""Runs the study: on each kind of data all ways and seeds, each step a command in a process of its own."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsna_e2e.core.errors import UsageError
from rsna_e2e.loader.holdout import series_folds
from rsna_e2e.store import Store, rows_of
from rsna_e2e.tasks.metrics import scorable
from rsna_e2e.tools.study.design import Design
from rsna_e2e.tools.study.plan import N_FOLDS, Member, Simulated, StudyPlan
from rsna_e2e.training.pipeline import PARTS
from rsna_e2e.training.pipeline.planned_step import Folders
from rsna_e2e.training.pipeline.run import Execute, Pipeline

LEAST_SERIES = 2  # in the test: of one alone nothing can be resampled


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The study on one store: what the data are called, and what was trained on them."""

    name: str
    folders: Folders
    plan: StudyPlan

    @property
    def members(self) -> Sequence[Member]:
        """What was trained."""
        return self.plan.members


def simulated_parts(design: Design, out: Path, data: Sequence[Simulated]) -> list[Part]:
    """Plan the study on simulated data, in a folder of `out` for each context."""
    parts = []
    for one in data:
        folder = out / one.context
        folders = Folders(raw=folder / "raw", labels=None, store=folder / "store", out=folder)
        plan = StudyPlan(design, folders, simulated=one)
        parts.append(Part(name=one.context, folders=folders, plan=plan))
    return parts


def part_of_store(design: Design, out: Path, store: Path) -> Part:
    """Plan the study on a store, whose split test is predicted.

    Raises UsageError unless it has two folds and labelled series in split test, and what opening the store raises.
    """
    with closing(Store.open(store, design.joint.task.name)) as opened:
        folds = {
            fold
            for span, fold in zip(opened.series, series_folds(opened, design.joint.folds), strict=True)
            if span.split == "train"
        }
        test = [span for span in opened.series if span.split == "test"]
        labels_NL = opened.labels[rows_of(test)].astype(np.float64)
    again = f"Prepare it with --folds {N_FOLDS} --holdout 0.3"
    if folds != set(range(N_FOLDS)):
        raise UsageError(f"{store}: has folds {sorted(folds)}, and each half is embedded by the other. {again}")
    if len(test) < LEAST_SERIES or not scorable(labels_NL)[0].any():
        raise UsageError(f"{store}: has too few labelled series in split test, on which ways are compared. {again}")
    folders = Folders(raw=None, labels=None, store=store, out=out / "given")
    return Part(name="given", folders=folders, plan=StudyPlan(design, folders, simulated=None))


def run_parts(
    parts: Sequence[Part],
    *,
    device: str = "auto",
    jobs: int = 1,
    execute: Execute | None = None,
    say: Callable[[str], None],
) -> None:
    """Run what is not done yet, `jobs` steps at a time. Raises what `Pipeline.run` raises."""
    for number, part in enumerate(parts, 1):
        say(f"data {number} of {len(parts)}: {part.name}")
        Pipeline(part.plan.steps, part.folders, device=device).run(PARTS, jobs=jobs, execute=execute, say=say)
