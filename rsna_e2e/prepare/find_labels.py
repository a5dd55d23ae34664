"""Which of the tables in or beside a raw folder or archive holds its labels."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePath
from typing import BinaryIO

from rsna_e2e.elements import RefusedError
from rsna_e2e.errors import BadInputError
from rsna_e2e.image_ids import names_of
from rsna_e2e.labels import COLUMNS, LabelTable, has_label_columns, read_ids, read_labels
from rsna_e2e.records import RawFile, printable
from rsna_e2e.sources import RawFolder, Source, open_source
from rsna_e2e.table_files import TableFile
from rsna_e2e.tasks import Task

LABEL_WORD = "train"  # in the name of a label file, as in the competition's stage_2_train.csv

_NameRule = Callable[[str], bool]


def _is_plain(name: str) -> bool:
    return LABEL_WORD in name and name.lower().endswith((".csv", ".csv.gz"))


def _is_other(name: str) -> bool:
    """Spelled in capitals, or packed by Kaggle's client: of these it must be seen whether they hold labels."""
    return LABEL_WORD in name.lower() and not _is_plain(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundLabels:
    """The labels and the file that they are from, if there are any. passed_over: else tables that could hold some, and
    why they were not taken."""

    file: TableFile | None = None
    table: LabelTable | None = None
    passed_over: Mapping[str, str] = field(default_factory=dict)


def find_labels(raw: Path) -> TableFile | None:
    """Return the table with "train" in its name that belongs to `raw`, if there is one.

    It lies at the top of the folder or archive, else one folder down, else beside it; in the latter two it counts only
    if it has the columns of a label file. Names in capitals and `.csv.zip` come after others. Raises BadInputError for
    several in one of these places.
    """
    source = open_source(raw)
    for rule in (_is_plain, _is_other):
        if file := _inside(source, rule) or _beside(source, rule):
            return file
    return None


def read_labels_inside(source: Source, task: Task) -> FoundLabels:
    """Read the labels that lie plainly in `source`. Raises BadInputError when they cannot be read."""
    file = _inside(source, _is_plain)
    return FoundLabels(file=file, table=read_labels(file, task)) if file else FoundLabels()


def read_other_labels(source: Source, task: Task, files: Sequence[RawFile]) -> FoundLabels:
    """Read labels that lie beside `source`, where they are of these files, or under another name in it.

    Raises BadInputError when they cannot be read, or there are several in one place.
    """
    passed_over: dict[str, str] = {}
    for rule in (_is_plain, _is_other):
        if rule is _is_other and (file := _inside(source, rule)):
            return FoundLabels(file=file, table=read_labels(file, task))
        if file := _beside(source, rule):
            if table := _read_if_ours(file, task, files):
                return FoundLabels(file=file, table=table)
            passed_over[file.name] = "(names none of the images)"
    return FoundLabels(passed_over=passed_over | _passed_over_inside(source))


def names_any(image_ids: Sequence[str], files: Sequence[RawFile]) -> bool:
    """Whether an image id is of one of the files, or of a frame in one."""
    labelled = file_names(image_ids)
    return any(not labelled.isdisjoint(names_of(raw_file.name)) for raw_file in files)


def file_names(image_ids: Sequence[str]) -> set[str]:
    """Return what files may be called, by `names_of`, of which these are image ids, or those of frames."""
    return {*image_ids, *(image_id.rpartition("_")[0] for image_id in image_ids)}


def _inside(source: Source, rule: _NameRule) -> TableFile | None:
    tables = source.find_tables(depth=1)
    top = [table for table in tables if "/" not in table[0].name]
    deeper = [table for table in tables if "/" in table[0].name]
    return _only_one(source, top, rule, needs_columns=False) or _only_one(source, deeper, rule, needs_columns=True)


def _beside(source: Source, rule: _NameRule) -> TableFile | None:
    folder = RawFolder(source.path.resolve().parent)
    return _only_one(folder, folder.find_tables(depth=0), rule, needs_columns=True)


def _only_one(
    source: Source, tables: Sequence[tuple[RawFile, str]], rule: _NameRule, *, needs_columns: bool
) -> TableFile | None:
    """Return the one table that is called so. needs_columns: only if it has those of a label file."""
    found = [_table_file(source, *table) for table in tables if rule(PurePath(table[0].name).name)]
    if rule is _is_other:
        found = [file for file in found if _columns_of(file)[0]]
    elif needs_columns:
        found = [file for file in found if has_label_columns(file)]
    if len(found) > 1:
        names = ", ".join(PurePath(file.name).name for file in found)
        raise BadInputError(f"{source.path}: several files could hold the labels ({names}). Name one with --labels")
    return found[0] if found else None


def _table_file(source: Source, table: RawFile, problem: str) -> TableFile:
    return TableFile(printable(str(source.path / table.name)), partial(_open_table, source, table, problem))


def _open_table(source: Source, table: RawFile, problem: str) -> AbstractContextManager[BinaryIO]:
    try:
        if problem:
            raise BadInputError(f"{source.path}, {printable(table.name)}: {problem}. Give the labels by themselves")
        return source.open(table)
    except RefusedError as error:
        raise BadInputError(
            f"{source.path}, {printable(table.name)}: {error.detail}. Copy the archive again, or give --labels"
        ) from None


def _read_if_ours(file: TableFile, task: Task, files: Sequence[RawFile]) -> LabelTable | None:
    """Read a table that lies beside the images; None if it belongs to others, such as those to train on, whatever it
    holds. Raises BadInputError when it is of these images, and not as it should be."""
    try:
        table = read_labels(file, task)
    except BadInputError:
        try:
            image_ids = [row_id.rpartition("_")[0] for row_id in read_ids(file)]
        except BadInputError:
            return None
        if names_any(image_ids, files):
            raise
        return None
    return table if names_any(table.image_ids, files) else None


def _passed_over_inside(source: Source) -> dict[str, str]:
    """Tables that lie in `source` and look like labels, by their columns or their name, and why they are none."""
    found = {}
    for table, problem in source.find_tables(depth=1):
        file, is_named = _table_file(source, table, problem), LABEL_WORD in PurePath(table.name).name.lower()
        has_columns, why_not = _columns_of(file)
        if has_columns != is_named:
            found[file.name] = f"(no {LABEL_WORD!r} in its name)" if has_columns else f"({why_not})"
    return found


def _columns_of(file: TableFile) -> tuple[bool, str]:
    """Return whether a table has the columns of a label file, and why it has not."""
    try:
        has_columns = set(COLUMNS) <= set(file.header())
    except (OSError, BadInputError) as error:
        return False, f"cannot be read: {error}"
    return has_columns, "" if has_columns else f"no columns {' and '.join(COLUMNS)}"
