"""Runs the study: on each kind of data all ways and seeds, each step a command in a process of its own."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from rsna_e2e.store import Store
from rsna_e2e.tools.study.design import Design
from rsna_e2e.tools.study.plan import Member, Simulated, StudyPlan
from rsna_e2e.training.pipeline import PARTS
from rsna_e2e.training.pipeline.planned_step import Folders
from rsna_e2e.training.pipeline.run import Execute, Pipeline

N_FOLDS = 2  # of simulated data: each half is embedded by a classifier that learned from the other


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
        plan = StudyPlan(design, folders, n_folds=N_FOLDS, simulated=one)
        parts.append(Part(name=one.context, folders=folders, plan=plan))
    return parts


def part_of_store(design: Design, out: Path, store: Path) -> Part:
    """Plan the study on a store, whose split test is predicted. Raises what opening the store raises."""
    with closing(Store.open(store, design.joint.task.name)) as opened:
        n_folds = len({span.fold for span in opened.series if span.split == "train"})
    folders = Folders(raw=None, labels=None, store=store, out=out / "given")
    plan = StudyPlan(design, folders, n_folds=n_folds, simulated=None)
    return Part(name="given", folders=folders, plan=plan)


def run_parts(
    parts: Sequence[Part], *, device: str = "auto", execute: Execute | None = None, say: Callable[[str], None]
) -> None:
    """Run what is not done yet. Raises what `Pipeline.run` raises."""
    for number, part in enumerate(parts, 1):
        say(f"data {number} of {len(parts)}: {part.name}")
        Pipeline(part.plan.steps, part.folders, device=device).run(PARTS, execute=execute, say=say)
