"""A step of a plan, and where its plan works."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rsna_e2e.config import RunConfig
from rsna_e2e.tasks.task import Task
from rsna_e2e.training.pipeline import Part

Verb = Literal["synth", "prepare", "train", "embed", "predict", "smooth", "merge", "bag"]
JOINING: tuple[Verb, ...] = ("merge", "bag")  # of submissions, in next to no time

PREPARE = "prepare"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStep:
    """One command: `rsna-e2e VERB arguments`, and what it leaves at `output`.

    settings: of a training run; they are saved and given to it. depends: names of earlier steps. facts: all that the
    result depends on beside settings, data, earlier steps and inputs, as plain values. inputs: files from elsewhere.
    scale: number of passes over its slices of the store. spent: a run whose kept epochs, gigabytes of them, can be
    removed when this step is done. section: under which the plan's configuration has the settings, such as images.
    task: that the command is given, where it is not of a run.
    """

    name: str
    part: Part
    verb: Verb
    arguments: tuple[str, ...]
    output: Path
    settings: RunConfig | None = None
    depends: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[Path, ...] = ()
    scale: int = 1
    spent: Path | None = None
    section: str = ""
    task: Task | None = None

    @property
    def file_name(self) -> str:
        """Its name, for files of it."""
        return self.name.replace("/", "-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Folders:
    """Where things are: raw DICOM files, if they are to be prepared, their labels, the store, and what is made.

    labels: their file, or "folders", which are called like them. columns: names of columns of the labels by what they
    hold, where their header does not say so.
    """

    raw: Path | None
    labels: Path | Literal["folders"] | None
    store: Path
    out: Path
    columns: tuple[tuple[str, str], ...] = ()

    def settings(self, step: PlannedStep) -> Path:
        """Where a training step finds its settings."""
        return self.out / "settings" / f"{step.file_name}.yaml"

    def task(self, step: PlannedStep) -> Path:
        """Where a step finds a task that is a user's own."""
        return self.settings(step).with_suffix(".task.yaml")
