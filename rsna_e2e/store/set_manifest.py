"""The manifest of a label set, `tasks/NAME/set.json`: whose labels they are, and how patients were divided."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from rsna_e2e.config import Frozen
from rsna_e2e.core.errors import UsageError
from rsna_e2e.core.files import as_json, read_json, sealed, unsealed
from rsna_e2e.core.records import IdRule, some
from rsna_e2e.store.layout import (
    BOXES,
    FORMAT_VERSION,
    LABEL_AGAIN,
    SERIES,
    SET_FORMAT,
    SET_MANIFEST,
    SETS,
    SLICES,
    StoreError,
)
from rsna_e2e.store.manifest import MOST_BYTES, SEAL, Count, Hash, Positive, Text, is_plain_file
from rsna_e2e.tasks.catalogue import task_option
from rsna_e2e.tasks.task import Labels, Task, flat
from rsna_e2e.tasks.tree import check_tree

# Fields of a task, as of `flat`, by which its labels are known: a set of one task is no set of another.
IDENTITY = (
    "series_truth",
    "boxes",
    *(f"{level}.{name}" for level in ("slices", "series") for name in ("names", "tree", "notes")),
)


def _check_labels(labels: Labels) -> Labels:
    names = (*labels.names, *labels.notes)
    if not all(name.isidentifier() for name in names) or len(set(names)) < len(names):
        raise ValueError("names of labels are no identifiers, or there twice")
    try:
        check_tree("of the set", labels.names, labels.tree)
    except UsageError as error:
        raise ValueError(str(error)) from None
    return labels


def _is_name(name: str) -> bool:
    return name.isidentifier() and name.islower() and len(name) <= 100


def _check_name(name: str) -> str:
    if not _is_name(name):
        raise ValueError("is no name of a task")
    return name


_Name = Annotated[Text, AfterValidator(_check_name)]
_Labels = Annotated[Labels, AfterValidator(_check_labels)]


class SetManifest(Frozen):
    """The content of set.json.

    number: 1 for the first set of a store, and so on. slices, series: the labels of each level, without weights, which
    do not concern a store; boxes: the labels that have boxes, n_boxes in all. headline: the label that is counted.
    image_ids: the rule of the image ids in the table of slices. n_folds, seed, holdout: how patients were divided,
    holdout None where none were held out; folds_of: the set whose patients kept their fold, empty where all were
    divided anew. refused_with_label: rows of the store's refusals that a label names. n_labelled_slices,
    n_positive_slices: with any label, and with the headline; n_labelled_series: with labels of their own, or with
    labelled slices. balanced_by: the label that as many slices have as have not, empty where the set was not cut so.
    measured: what the table of slices holds of their pixels. pixels_hash: of the store that the set is of.
    """

    model_config = ConfigDict(extra="ignore")  # the seal, and what a later program of this version may add

    format: Literal["rsna_e2e label set"] = SET_FORMAT
    format_version: Literal[4] = FORMAT_VERSION
    created_by: Text = ""
    number: Positive
    task: _Name
    slices: _Labels
    series: _Labels
    series_truth: Literal["any_slice", "own"]
    boxes: tuple[Text, ...] = ()
    n_boxes: Count = 0
    headline: Text
    image_ids: IdRule
    n_folds: Positive
    seed: Annotated[int, Field(strict=True, ge=0)]
    holdout: Annotated[float, Field(strict=True, gt=0, lt=1)] | None
    folds_of: _Name | Literal[""]
    refused_with_label: tuple[Count, ...]
    n_labelled_slices: Count
    n_labelled_series: Count
    n_positive_slices: Count
    balanced_by: Text = ""
    measured: tuple[Literal["brain_share"], ...] = ()
    pixels_hash: Hash
    labels_hash: Hash
    files: dict[str, Hash]

    @model_validator(mode="after")
    def _is_consistent(self) -> "SetManifest":
        further = {SERIES: self.has_own_series, BOXES: bool(self.boxes)}
        if set(self.files) != {SLICES, *(name for name, is_there in further.items() if is_there)}:
            raise ValueError("names other files than the tables of a label set")
        if not {self.headline, *self.boxes, self.balanced_by or self.headline} <= set(self.slices.names):
            raise ValueError("its headline, what has boxes, or what it is balanced by, is no label")
        return self

    @property
    def has_own_series(self) -> bool:
        """Whether there is a table of labels of series."""
        return self.series_truth == "own"

    def to_json(self) -> str:
        """Return the text of set.json."""
        without = set() if self.boxes else {"boxes", "n_boxes"}
        without |= {name for name in ("balanced_by", "measured") if not getattr(self, name)}
        return as_json(sealed(self.model_dump(exclude=without), key=SEAL), indent=1) + "\n"

    def difference(self, task: Task) -> str:
        """Return the first thing in which the labels are not those of a task, such as "its headline is a, not b"."""
        mine: dict[str, Any] = {"series_truth": self.series_truth, "boxes": self.boxes}
        for level in ("slices", "series"):
            mine |= {f"{level}.{name}": value for name, value in asdict(getattr(self, level)).items()}
        its = flat(task)
        differing = (f"its {name} is {mine[name]}, not {its[name]}" for name in IDENTITY if mine[name] != its[name])
        return next(differing, "")


def set_names(store: Path) -> list[str]:
    """Return the tasks that a store has label sets of, sorted; damaged sets are among them."""
    if not (store / SETS).is_dir():
        return []
    return sorted(place.name for place in (store / SETS).iterdir() if _is_name(place.name) and place.is_dir())


def choose_set(store: Path, task: str | None) -> str | None:
    """Return the label set of a task, or, where none is named, the only one; None of a store without sets.

    Raises UsageError where there are several and none is named, StoreError where there are others than that of `task`.
    """
    names = set_names(store)
    if task is None and len(names) > 1:
        raise UsageError(f"{store}: has label sets of several tasks: {', '.join(names)}. Choose one with --task")
    if task is None or not names:
        return names[0] if names else None
    if task not in names:
        raise StoreError(
            f"{store}: has no labels of task {task:.100}, only of {some(names, most=12)}. Add them with: "
            f"rsna-e2e label {store} LABELS {task_option(task)}"
        )
    return task


def read_set_manifest(store: Path, name: str) -> SetManifest:
    """Read the manifest of a label set. Raises StoreError when it is missing, damaged, or that of another task."""
    place = store / SETS / name / SET_MANIFEST
    try:
        is_elsewhere = place.parent.is_symlink() or place.parent.parent.is_symlink()
        if is_elsewhere or not is_plain_file(place) or place.stat().st_size > MOST_BYTES:
            raise ValueError("missing")
        manifest = SetManifest.model_validate(unsealed(read_json(place), key=SEAL))
        if manifest.task != name:
            raise ValueError("of another task")
        return manifest
    except (ValueError, OSError, RecursionError):
        raise StoreError(f"{place}: missing or damaged. {label_again(name)}") from None


def label_again(name: str) -> str:
    """Return what to do about a damaged set, for the end of a message."""
    return LABEL_AGAIN.format(task=task_option(name))


def plain(labels: Labels) -> Labels:
    """Return labels as a set names them: without weights, which do not concern a store."""
    return Labels(names=labels.names, any_name=labels.any_name, tree=labels.tree, notes=labels.notes)


def as_fields(task: Task) -> dict[str, Any]:
    """Return the fields of a manifest that say which labels a set is of."""
    return {
        "task": task.name,
        "slices": plain(task.slices),
        "series": plain(task.series),
        "series_truth": task.series_truth,
        "boxes": task.boxes,
        "headline": task.headline,
    }


def label_columns(labels: Labels) -> Sequence[str]:
    """Return the columns of a table of a set that hold labels and notes, in their order."""
    return (*labels.names, *labels.notes)
