"""A task is data: labels with their levels, what the network sees, how label files spell it, what predictions score.

Nothing outside this package knows a label's name or asks for a task's name.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass, replace
from string import Formatter
from typing import Any, ClassVar, Literal

from rsna_e2e.core.errors import UsageError
from rsna_e2e.core.files import as_json
from rsna_e2e.tasks.tree import STRICT, Choice, Some, check_tree

# A field that files of tasks leave out at its default, as those before it did
_LATER: dict[str, bool] = {"later": True}

LARGEST = 1e6  # of the numbers in a task: beyond any weight and any HU, and far from what overflows in float32

Level = Literal["slice", "series"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Labels of one level, in the order of the model's outputs.

    weights: of each in loss and score. any_name: the label that is the logical or of the others. tree: how the labels
    exclude and imply each other, the first group being the root; () where they are independent. notes: columns that
    are stored and split reports, and are never predicted.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = STRICT

    names: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    any_name: str = ""
    tree: tuple[Choice | Some, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name: str) -> int:
        """Position of a label."""
        return self.names.index(name)

    def only(self, names: Sequence[str]) -> "Labels":
        """Return these labels alone, without the tree, which is of all."""
        weight_of = dict(zip(self.names, self.weights, strict=True))
        return replace(
            self,
            names=tuple(names),
            weights=tuple(weight_of[name] for name in names),
            any_name=self.any_name if self.any_name in names else "",
            tree=self.tree if tuple(names) == self.names else (),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What the network sees. windows_hu: (center, width) of each channel (C). mean, std: of the windowed values in
    [0, 1], per channel. values: what windows are of. hu: Hounsfield units, of CT; grey: grey as a radiograph is shown,
    0 (black) to 32767 (white)."""

    __pydantic_config__: ClassVar[dict[str, str]] = STRICT

    windows_hu: tuple[tuple[float, float], ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    values: Literal["hu", "grey"] = field(default="hu", metadata=_LATER)


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxColumns:
    """How tables of boxes are spelled: one row per box, and one without a box for an image that has none.

    image: the column of the image id. place: the columns of x and y of the upper left corner, width and height, in
    pixels, the corner of the image being 0, 0. target: the column that is 1 in a row with a box, 0 in one without.
    class_column: of a further table that says what each image shows, and class_words what stands there for each slice
    label, in their order; "" and () where there is no such table. prediction: the column of a submission, in which
    `score x y width height` of each box follow one another.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = STRICT

    image: str
    place: tuple[str, str, str, str]
    target: str
    class_column: str = ""
    class_words: tuple[str, ...] = ()
    prediction: str

    @property
    def names(self) -> tuple[str, ...]:
        """The columns of a table of boxes."""
        return self.image, *self.place, self.target


@dataclass(frozen=True, slots=True, kw_only=True)
class Csv:
    """How label files and submissions spell rows of one value each.

    columns: of the row's id and of its value. slice_id: of a row for {slice} and {label}. series_id: of a row for
    {study} and {label}; "" where submissions have none for series. box_columns: of tables of boxes, None without such.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = STRICT

    columns: tuple[str, str] = ("ID", "Label")
    slice_id: str = "{slice}_{label}"
    series_id: str = ""
    box_columns: BoxColumns | None = field(default=None, metadata=_LATER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One prediction task.

    slices, series: the labels of each level. series_truth: where labels of series come from. any_slice: the maximum
    over the slices, with the names and weights of `slices`, so that `series` is empty; own: the label file, by study.
    state_of_slices: the branch of the root of `series.tree` that holds exactly where any slice has the headline label.
    headline: the slice label that is balanced, sampled and shown first. score: log_loss: weighted over slices.
    study_log_loss: that of RSNA-STR Pulmonary Embolism 2020, over series and slices at once. boxes: the slice labels of
    which it is known where in the slice they are.

    Raises UsageError where these contradict each other.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = STRICT

    name: str
    title: str
    slices: Labels
    series: Labels = field(default_factory=Labels)
    series_truth: Literal["any_slice", "own"] = "any_slice"
    state_of_slices: str = ""
    headline: str
    inputs: Inputs
    csv: Csv = field(default_factory=Csv)
    score: Literal["log_loss", "study_log_loss"] = "log_loss"
    boxes: tuple[str, ...] = field(default=(), metadata=_LATER)

    def __post_init__(self) -> None:
        for what, is_right in _rules(self):
            if not is_right:
                raise UsageError(f"task {self.name}: {what}")
        for level, labels in (("slices", self.slices), ("series", self.series)):
            check_tree(f"task {self.name}: {level}.tree", labels.names, labels.tree)

    @property
    def headline_index(self) -> int:
        """Position of the headline among the slice labels."""
        return self.slices.index(self.headline)

    @property
    def series_labels(self) -> Labels:
        """What is predicted of a series: its own labels, or those of its slices."""
        return self.series if self.series_truth == "own" else self.slices

    def label_id(self, image_id: str, label_name: str) -> str:
        """Return the id of a row of label files and submissions that is of one slice and label."""
        return self.csv.slice_id.format(slice=image_id, label=label_name)

    def study_label_id(self, study_id: str, label_name: str) -> str:
        """Return the id of a row that is of one study and label."""
        return self.csv.series_id.format(study=study_id, label=label_name)

    def only(self, label_names: Sequence[str]) -> "Task":
        """Return the task with these slice labels alone. Without the headline among them, the first takes its place;
        with fewer than all, no table of what each image shows is of it."""
        headline = self.headline if self.headline in label_names else label_names[0]
        boxes = tuple(name for name in self.boxes if name in label_names)
        csv, columns = self.csv, self.csv.box_columns
        if columns and tuple(label_names) != self.slices.names:
            csv = replace(csv, box_columns=replace(columns, class_column="", class_words=()) if boxes else None)
        return replace(self, slices=self.slices.only(label_names), headline=headline, boxes=boxes, csv=csv)


def first_difference(task: Task, other: Task) -> str:
    """Return the first field in which two tasks differ, with both values, such as "its headline is a, not b"; or ""."""
    mine, others = flat(task), flat(other)
    for name in mine:
        if mine[name] != others[name]:
            return f"its {name} is {mine[name]}, not {others[name]}"
    return ""


def task_sha256(task: Task) -> str:
    """Return the sha256 of a task: of its canonical JSON, keys sorted, without the fields that have their defaults, so
    that a field that is added later leaves it as it is."""
    return hashlib.sha256(as_json(_without_defaults(task), sort_keys=True).encode()).hexdigest()


def _without_defaults(value: Any) -> Any:
    """Return plain data; of a group of a tree, its kind always: it tells one from the other."""
    if isinstance(value, tuple):
        return [_without_defaults(item) for item in value]
    if not is_dataclass(value):
        return value
    held = {one.name: (getattr(value, one.name), _default(one)) for one in fields(value)}
    return {name: _without_defaults(x) for name, (x, default) in held.items() if x != default or name == "kind"}


def _default(one: Field[Any]) -> Any:
    return one.default if one.default_factory is MISSING else one.default_factory()


def plain(value: Any) -> Any:
    """Return a task, or a part of one, as plain data, as files hold it: whole, but for the fields that came later and
    have their defaults."""
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    if not is_dataclass(value):
        return value
    held = ((one, getattr(value, one.name)) for one in fields(value))
    return {one.name: plain(x) for one, x in held if not (one.metadata.get("later") and x == _default(one))}


def flat(task: Task) -> dict[str, Any]:
    """Return the fields of a task by their dotted names, such as slices.names, as plain data."""
    values: dict[str, Any] = {}
    for name, value in asdict(task).items():
        parts = value.items() if isinstance(value, dict) else ()
        values |= {f"{name}.{part}": inner for part, inner in parts} or {name: value}
    return values


def _rules(task: Task) -> list[tuple[str, bool]]:
    """Return what must hold of a task, as what is wrong where it does not."""
    levels, inputs, csv = (task.slices, task.series), task.inputs, task.csv
    names = [name for labels in levels for name in (*labels.names, *labels.notes)]
    is_weighted = all(len(x.weights) == len(x) and all(0 < weight <= LARGEST for weight in x.weights) for x in levels)
    is_state = any(task.state_of_slices in group.branches for group in task.series.tree[:1])
    widths, numbers = (
        [*(w for _, w in inputs.windows_hu), *inputs.std],
        [*(c for c, _ in inputs.windows_hu), *inputs.mean],
    )
    is_scaled = all(1 / LARGEST <= width <= LARGEST for width in widths) and all(abs(x) <= LARGEST for x in numbers)
    return [
        ("name must be lower case letters, digits and _", task.name.isidentifier() and task.name.islower()),
        ("title is empty or of several lines", bool(task.title) and task.title.isprintable()),
        ("slices.names has no label", bool(task.slices.names)),
        ("a label or note stands in it twice", len(set(names)) == len(names)),
        ("labels and notes must be letters, digits and _", all(name.isidentifier() for name in names)),
        (f"weights: each label needs one above 0, up to {LARGEST:g}", is_weighted),
        ("any_name is no label of its level", all(x.any_name in ("", *x.names) for x in levels)),
        (f"headline {task.headline!r} is no slice label", task.headline in task.slices.names),
        ("series_truth own needs series.names, any_slice none", (task.series_truth == "own") == bool(task.series)),
        ("state_of_slices is no branch of the root of series.tree", is_state or not task.state_of_slices),
        ("score study_log_loss needs series_truth own", task.score == "log_loss" or task.series_truth == "own"),
        ("csv.series_id needs series_truth own", not csv.series_id or task.series_truth == "own"),
        (
            "inputs: windows_hu, mean and std must have one entry for each channel",
            len(inputs.windows_hu) == len(inputs.mean) == len(inputs.std) > 0,
        ),
        *_rules_of_boxes(task),
        (f"inputs: widths of windows and std must be above 0, and all numbers up to {LARGEST:g}", is_scaled),
        ("csv.columns must be two names", len({*csv.columns, ""}) == 3),
        ("csv.slice_id needs {slice}, and has no other part than {label}", _fits(csv.slice_id, "slice")),
        ("csv.slice_id needs {label}, for there are several", len(task.slices) == 1 or "{label}" in csv.slice_id),
        (
            "csv.series_id needs {study} and {label}, and has no other part",
            not csv.series_id or (_fits(csv.series_id, "study") and "{label}" in csv.series_id),
        ),
    ]


def _rules_of_boxes(task: Task) -> list[tuple[str, bool]]:
    columns = task.csv.box_columns
    are_labels = len(set(task.boxes)) == len(task.boxes) and set(task.boxes) <= set(task.slices.names)
    rules = [
        ("boxes: a class of boxes is no slice label, or there twice", are_labels),
        ("boxes need csv.box_columns, the columns of tables of boxes", not task.boxes or columns is not None),
    ]
    if columns is None:
        return rules
    names, words = columns.names, columns.class_words
    are_names = len({*names, ""}) == len(names) + 1 and columns.prediction not in ("", columns.image)
    n_words = len(task.slices) if columns.class_column else 0
    return [
        *rules,
        ("csv.box_columns needs one class in boxes", len(task.boxes) == 1),
        ("csv.box_columns must be different names", are_names),
        (
            "csv.box_columns.class_words must be different words, one for each slice label, none without class_column",
            len(words) == len({*words, ""}) - 1 == n_words,
        ),
    ]


def _fits(template: str, needed: str) -> bool:
    """Whether an id's template has {needed} and, beside it, at most {label}."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError:
        return False
    found = [name for _, name, *_ in parts if name is not None]
    is_plain = not any(form or conversion for _, _, form, conversion in parts)
    return is_plain and needed in found and set(found) <= {needed, "label"}
