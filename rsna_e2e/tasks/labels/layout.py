"""Tells by its header how a label file is laid out: its delimiter, its form, and which column holds what."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.records import printable, some
from rsna_e2e.core.table_files import TableFile
from rsna_e2e.tasks.catalogue import TASKS
from rsna_e2e.tasks.task import Task

LONG_COLUMNS = ("ID", "Label")
NONE = ("no", "non", "none", "not", "negative", "normal", "0")  # words that say that no label holds
DELIMITERS = (",", ";", "\t")

# Columns that name an image in a wide table, the first that is there. Case, spaces and punctuation make no difference.
IMAGE_COLUMNS = ("ID", "SOPInstanceUID", "Path", "FilePath", "File", "FileName", "Image", "ImageID", "ImageName")
# Columns that name several images at once: taken only where no other does
SERIES_COLUMNS = ("SeriesInstanceUID", "StudyInstanceUID", "PatientID")

# Columns of a table of boxes, and of one that says what each image shows
PLACE = ("x", "y", "width", "height")
TARGET, CLASS, PREDICTION = "Target", "class", "PredictionString"

STUDY = "StudyInstanceUID"  # of tasks whose series have labels of their own, which the table has by study

Form = Literal["long", "wide", "boxes", "classes", "predictions"]

some_columns = partial(some, most=12)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where a label file holds what: columns by `ID` and `Label` in the long form; in a wide table by `ID`, `STUDY` and
    names of labels and notes; of boxes, by `ID`, `PLACE` and `TARGET`; of classes, by `ID` and `CLASS`; in submissions
    of boxes, by `ID` and `PREDICTION`. header: all its columns."""

    file: TableFile
    delimiter: str
    header: Sequence[str]
    columns: Mapping[str, str] = field(default_factory=dict)
    form: Form = "wide"

    def line_of(self, row: int) -> int:
        """Return the line of the file on which data row `row` ends."""
        return self.file.line_of(row, self.delimiter)

    @property
    def unused(self) -> tuple[str, ...]:
        """The columns that hold neither IDs nor labels."""
        return tuple(printable(word) for word in self.header if word not in self.columns.values())


def has_label_columns(file: TableFile) -> bool:
    """Whether a table's first line is that of a label file, of any task. Raises OSError when it cannot be read."""
    return task_of_header(file) is not None


def task_of_header(file: TableFile) -> Task | None:
    """Return the first task of this package whose label files have a first line such as this table's; None where none
    has. Raises OSError when it cannot be read."""
    fitting = (task for task in TASKS.values() if any(layout.columns for layout in _layouts(file, task)))
    return next(fitting, None)


def is_label_file(file: TableFile) -> bool:
    """Whether a table's first line is that of a label file; False also for one that is no table.

    Raises BadInputError for one that its archive does not give out.
    """
    try:
        return has_label_columns(file)
    except OSError:
        return False


def find_layout(file: TableFile, task: Task) -> Layout:
    """Return how a label file of `task` is laid out.

    Raises UsageError for mapped columns that `task` does not have, BadInputError when columns are missing or there
    twice, or name series of a task without labels of series, OSError when the file cannot be read.
    """
    of_boxes = (*PLACE, TARGET, CLASS) if task.csv.box_columns else ()
    targets = (*LONG_COLUMNS, *list(_wide_columns(task))[1:], *of_boxes)
    for target, column in file.columns.items():
        if target not in targets:
            raise UsageError(
                f"--columns {target}={column}: nothing is called {target}. Known are: {', '.join(targets)}"
            )
    if twice := [column for column, n in Counter(file.columns.values()).items() if n > 1]:
        raise UsageError(f"--columns: {twice[0]} is named twice. A column holds one thing")
    layouts = _layouts(file, task)
    layout = next((layout for layout in layouts if layout.columns), None)
    if layout is None:
        whole = max(layouts, key=lambda layout: len(layout.header))
        raise BadInputError(_of_another_task(file, task) or _not_found(whole, task))
    for target, column in layout.columns.items():
        same = [word for word in layout.header if plain_name(word) == plain_name(column)]
        if layout.header.count(column) > 1:
            raise BadInputError(f"{file}, line 1: several columns are called {column}. Keep the right one")
        if len(same) > 1 and target not in file.columns and layout.form != "long":
            raise BadInputError(
                f"{file}, line 1: several columns could be {target}: {some_columns(same)}. Keep one; or, of labels and "
                f"truth, name one: --columns {target}={column}"
            )
    if not task.series and plain_name(layout.columns["ID"]) in map(plain_name, _columns_of_series(task)):
        raise BadInputError(_of_series(file, layout.columns["ID"], task))
    for labels, target, of in ((task.slices, "ID", "slices"), (task.series, STUDY, "studies")):
        if target not in layout.columns and (found := [name for name in labels.names if name in layout.columns]):
            raise BadInputError(
                f"{file}, line 1: it has labels of {of} ({some_columns(found)}), but no column is known to hold the "
                f"IDs of {of}. Found columns: {some_columns(layout.header)}. Call it {target}; or, of labels and "
                f"truth: --columns {target}=COLUMN. See docs/labels.md"
            )
    return layout


def _wide_columns(task: Task) -> dict[str, tuple[str, ...]]:
    """Return what a wide table of a task may hold, `ID` first, and the columns that may be called so."""
    labels = (task.slices, task.series)
    names = {name: (name,) for level in labels for name in (*level.names, *level.notes)}
    own = (task.csv.box_columns.image,) if task.csv.box_columns else ()
    if task.series:
        return {"ID": (*IMAGE_COLUMNS, *own), STUDY: (STUDY,), **names}
    return {"ID": (*IMAGE_COLUMNS, *own, *_columns_of_series(task)), **names}


def _columns_of_series(task: Task) -> list[str]:
    """Return `SERIES_COLUMNS`, without those that the task's own tables call the IDs of images."""
    own = {task.csv.columns[0], *([task.csv.box_columns.image] if task.csv.box_columns else [])}
    return [name for name in SERIES_COLUMNS if plain_name(name) not in map(plain_name, own)]


def _layouts(file: TableFile, task: Task) -> list[Layout]:
    """Return the layout that a file has with each delimiter; one without columns is that of no label file."""
    headers = [(delimiter, file.header(delimiter)) for delimiter in DELIMITERS]
    found = [(delimiter, header, *_columns(header, file.columns, task)) for delimiter, header in headers]
    return [
        Layout(file=file, delimiter=delimiter, header=header, columns=columns, form=form)
        for delimiter, header, form, columns in found
    ]


def _columns(header: Sequence[str], mapped: Mapping[str, str], task: Task) -> tuple[Form, dict[str, str]]:
    """Return the form of a label file and its columns by what they hold, none where the header is not that of one."""
    words = {word.strip(): word for word in header}
    if not all(column in words for column in mapped.values()):
        return "wide", {}
    candidates = _wide_columns(task)
    if LONG_COLUMNS[1] in mapped or not any(name in mapped for name in candidates if name not in ("ID", STUDY)):
        for form, spelled in _forms(task).items():
            columns = {target: words.get(mapped.get(target, name), "") for target, name in spelled.items()}
            if all(columns.values()):
                return form, columns
    free = {plain_name(word): word for word in header if word.strip() not in mapped.values()}
    columns = {
        target: words[mapped[target]]
        if target in mapped
        else next(filter(None, map(free.get, map(plain_name, names))), "")
        for target, names in candidates.items()
    }
    columns = {target: column for target, column in columns.items() if column}
    return "wide", columns if {"ID", STUDY} & columns.keys() and columns.keys() - {"ID", STUDY} else {}


def _forms(task: Task) -> dict[Form, dict[str, str]]:
    """Return the forms in which all columns are needed, with the names of these by what they hold."""
    forms: dict[Form, dict[str, str]] = {}
    if own := task.csv.box_columns:
        forms["boxes"] = {"ID": own.image, **dict(zip(PLACE, own.place, strict=True)), TARGET: own.target}
        if own.class_column:
            forms["classes"] = {"ID": own.image, CLASS: own.class_column}
        forms["predictions"] = {"ID": own.image, PREDICTION: own.prediction}
    return {**forms, "long": dict(zip(LONG_COLUMNS, task.csv.columns, strict=True))}


def _not_found(layout: Layout, task: Task) -> str:
    """Return the message for a table of another layout: what it has, what is needed, and the way out."""
    file, words = layout.file, {word.strip() for word in layout.header}
    ids_column, value_column = task.csv.columns
    found = set(map(plain_name, words))
    names_images = not found.isdisjoint(map(plain_name, IMAGE_COLUMNS))
    series_columns = set(map(plain_name, _columns_of_series(task)))
    of_series = [word.strip() for word in layout.header if plain_name(word) in series_columns]
    of_boxes = f"; or one row per box: {','.join(task.csv.box_columns.names)}" if task.csv.box_columns else ""
    id_column = file.columns.get("ID") or next(iter(() if names_images else of_series), "")
    absent = [column for column in file.columns.values() if column not in words]
    labels = [name for name in task.slices.names if plain_name(name) in found or name in file.columns]
    if not words:
        return f"{file}: empty. Needed: a header and rows, see docs/labels.md"
    if absent:
        what = f"no column is called {printable(absent[0])}, which --columns names"
    elif id_column in of_series and not task.series:
        return _of_series(file, id_column, task)
    elif labels:
        found_labels = some_columns(labels)
        what = f"this looks like a wide table (it has columns for {found_labels}), but no column is known to hold IDs"
    elif value_column in words:
        what = f"no column is called {ids_column}"
    elif "ID" in file.columns or names_images:
        what = f"no column is called {value_column} or like a label"
    else:
        what = "no column is known to hold IDs, none to hold labels"
    return (
        f"{file}, line 1: {what}. Found columns: {some_columns(layout.header)}. Needed: {ids_column},{value_column} "
        "with one row per image and label; or one row per image, with a column ID and one per label "
        f"({', '.join(task.slices.names)}){of_boxes}. Rename columns of other names; or, of labels and truth: "
        f"--columns ID=COLUMN {task.headline}=COLUMN. See docs/labels.md"
    )


def _of_another_task(file: TableFile, task: Task) -> str:
    """Return the message for a table that has the columns of another task of this package, "" for others."""
    other = task_of_header(file)
    if other is None:
        return ""
    return (
        f"{file}, line 1: has the columns of a label file of task {other.name}, not of {task.name}. If it is one: "
        f"--task {other.name} (pipeline: --set task={other.name}). Needed: {','.join(task.csv.columns)}, or a column "
        "for each label; of labels and truth, name yours: --columns ID=COLUMN Label=COLUMN. See docs/labels.md"
    )


def _of_series(file: TableFile, column: str, task: Task) -> str:
    """Return the message for a table whose IDs, in `column`, are not those of slices."""
    return (
        f"{file}, line 1: its IDs are those of studies, series or patients ({printable(column)}). The task {task.name} "
        "learns from labels of slices and has none of series: a label of a whole study does not say which of its "
        "slices show it. If another column names the slices, call it ID; or, of labels and truth: --columns ID=COLUMN. "
        "See docs/labels.md"
    )


def plain_name(name: str) -> str:
    """Return what of a column's name counts: its letters and digits, whatever their case."""
    return re.sub(r"[\W_]", "", name.casefold())
