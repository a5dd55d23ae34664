"""Finds the label file in or beside a raw folder or archive."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePath
from typing import BinaryIO

import numpy as np

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.files import real_path
from rsna_e2e.core.records import RawFile, printable
from rsna_e2e.core.table_files import TableFile
from rsna_e2e.dicom.elements import RefusedError
from rsna_e2e.dicom.sources.files import RawFolder, Source
from rsna_e2e.store.prepare.match_labels import Match, TableIds
from rsna_e2e.tasks.labels import (
    LabelTable,
    has_label_columns,
    is_label_file,
    read_image_ids,
    read_labels,
    read_patients,
)
from rsna_e2e.tasks.task import Task

LABEL_WORD = "train"  # in the name of a label file, as in the competition's stage_2_train.csv

_NameRule = Callable[[str], bool]


def _is_plain(name: str) -> bool:
    return LABEL_WORD in name and name.lower().endswith((".csv", ".csv.gz"))


def _is_other(name: str) -> bool:
    """Spelled in capitals, or packed by Kaggle's client: these count only if they hold labels."""
    return LABEL_WORD in name.lower() and not _is_plain(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFile:
    """A table that may have labels of the images. table: None where it is no valid label file. patients: by image id,
    where it names those of X-rays, which may have no other."""

    ids: TableIds
    table: LabelTable | None
    patients: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFiles:
    """Tables that may have labels of the images, in the order in which they are tried. must_match: the first has to
    have. passed_over: other tables that look like labels, and why they are not taken."""

    files: Sequence[LabelFile] = ()
    must_match: bool = False
    passed_over: Mapping[str, str] = field(default_factory=dict)

    def taken(self, match: Match, task: Task) -> "FoundLabels":
        """Return the labels that were found to be of the images."""
        if match.table is None:
            others = {file.ids.file: "(names none of the images)" for file in self.files}
            return FoundLabels(
                file="none", table=no_labels(task), match=match, passed_over={**self.passed_over, **others}
            )
        file = self.files[match.table]
        assert file.table is not None, "others have a problem, which is raised"
        patients = [file.patients.get(file.table.image_ids[row], "") for row in match.rows] if file.patients else ()
        table = file.table.taken(match.rows, match.ids)
        return FoundLabels(file=file.ids.file, table=table, match=match, patients=patients)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundLabels:
    """The labels of the images. file: where they are from, "none" without any; passed_over: then tables that look like
    labels, and why they were not taken. table: with image ids by the rule of `match`. patients: of each of its images,
    "" where it names none; () where it names none at all."""

    file: str
    table: LabelTable
    match: Match
    patients: Sequence[str] = ()
    passed_over: Mapping[str, str] = field(default_factory=dict)

    def check_copies(self, further: Mapping[str, Sequence[int]]) -> None:
        """Raise BadInputError where the labels of two copies of an image differ. further: of `further_labels`."""
        for rows in further.values():
            for row in rows[1:]:
                if not np.array_equal(self.table.values[row], self.table.values[rows[0]], equal_nan=True):
                    one, other = (self.table.image_ids[i] for i in (rows[0], row))
                    raise BadInputError(
                        f"{self.file}: rows of the IDs {one!r} and {other!r} differ, but these are copies of one "
                        "image. Keep the right one and remove the other"
                    )


class LabelSearch:
    """Looks for labels in and beside a source, whose tables it lists once: a table with "train" in its name.

    It lies at the top of the folder or archive, else one folder down, else beside it; in the latter two it counts only
    if it has the columns of a label file. Names in capitals and `.csv.zip` come after others, and each alone. Several
    others in one of these places are a BadInputError. Raises what `Source.find` raises.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._tables = source.find_tables(depth=1)

    def inside(self, rule: _NameRule) -> TableFile | None:
        """Return the table in the source whose name fits and that may hold labels; one at the top comes first."""
        top = [table for table in self._tables if "/" not in table[0].name]
        deeper = [table for table in self._tables if "/" in table[0].name]
        at_top = _only_one(self._source, top, rule, needs_columns=False)
        return at_top or _only_one(self._source, deeper, rule, needs_columns=True)

    def beside(self, rule: _NameRule) -> TableFile | None:
        """Return the table beside the source whose name fits and that has the columns of a label file."""
        folder = RawFolder(real_path(self._source.path).parent)
        return _only_one(folder, folder.find_tables(depth=0), rule, needs_columns=True)

    def read(self, task: Task, *, has_patients: bool = False) -> LabelFiles:
        """Read the plain label file in the source, or else those that lie beside it or have an unusual name, which may
        be of other images. Raises BadInputError when the former cannot be read."""
        if file := self.inside(_is_plain):
            return LabelFiles(files=[read_label_file(file, task, has_patients=has_patients)], must_match=True)
        others = (self.beside(_is_plain), self.inside(_is_other), self.beside(_is_other))
        files = [_read_if_any(file, task, has_patients=has_patients) for file in others if file]
        return LabelFiles(files=files, passed_over=self._look_like_labels())

    def _look_like_labels(self) -> dict[str, str]:
        """Tables in the source that look like labels, by their columns or their name, and why they are not taken."""
        found = {}
        for table, problem in self._tables:
            file, is_named = _table_file(self._source, table, problem), LABEL_WORD in PurePath(table.name).name.lower()
            why_not = _why_no_labels(file)
            if not why_not:
                found[file.name] = "(one of several)" if is_named else f"(no {LABEL_WORD!r} in its name)"
            elif is_named:
                found[file.name] = f"({why_not})"
        return found


def read_label_file(file: TableFile, task: Task, *, has_patients: bool = False) -> LabelFile:
    """Read a label file, and patients too if it may name them. Raises BadInputError when it is not a valid one."""
    table = read_labels(file, task)
    name = f"{file} and {file.also}" if file.also else file.name
    ids = TableIds(file=name, image_ids=table.image_ids, study_ids=table.study_ids, unused=table.unused)
    return LabelFile(ids=ids, table=table, patients=read_patients(file, task) if has_patients else {})


def no_labels(task: Task) -> LabelTable:
    """Return a table without labels."""
    return LabelTable(image_ids=[], values=np.empty((0, len(task.slices.names))), n_repeated_rows=0)


def _only_one(
    source: Source, tables: Sequence[tuple[RawFile, str]], rule: _NameRule, *, needs_columns: bool
) -> TableFile | None:
    """Return the one table whose name fits. needs_columns: only if it has the columns of a label file."""
    found = [_table_file(source, *table) for table in tables if rule(PurePath(table[0].name).name)]
    if rule is _is_other:  # their names are weaker evidence: in doubt they are passed over
        found = [file for file in found if not _why_no_labels(file)]
        return found[0] if len(found) == 1 else None
    if needs_columns:
        found = [file for file in found if is_label_file(file)]
    if len(found) > 1:
        names = ", ".join(PurePath(file.name).name for file in found)
        raise BadInputError(f"{source.path}: several files could hold the labels ({names}). Name one with --labels")
    return found[0] if found else None


def _table_file(source: Source, table: RawFile, problem: str) -> TableFile:
    return TableFile(printable(str(source.path / table.name)), partial(_open_table, source, table, problem))


def _open_table(source: Source, table: RawFile, problem: str) -> AbstractContextManager[BinaryIO]:
    try:
        if problem:
            raise BadInputError(f"{source.path}, {printable(table.name)}: {problem}. Name another file with --labels")
        return source.open(table)
    except RefusedError as error:
        raise BadInputError(
            f"{source.path}, {printable(table.name)}: {error.detail}. Copy the archive again, or give --labels"
        ) from None


def _read_if_any(file: TableFile, task: Task, *, has_patients: bool) -> LabelFile:
    """Read a table that may belong to other images, such as those to train on, and then may hold anything."""
    try:
        return read_label_file(file, task, has_patients=has_patients)
    except BadInputError as error:
        problem = str(error)
    try:
        image_ids = sorted(set(read_image_ids(file, task)))
    except BadInputError:
        image_ids = []
    return LabelFile(ids=TableIds(file=file.name, image_ids=image_ids, problem=problem), table=None)


def _why_no_labels(file: TableFile) -> str:
    """Return why a table cannot hold labels, empty where it has their columns."""
    try:
        return "" if has_label_columns(file) else "no columns of IDs and labels"
    except (OSError, BadInputError) as error:
        return f"cannot be read: {error}"
