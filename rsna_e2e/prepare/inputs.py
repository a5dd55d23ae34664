"""What a store is made of: files, labels, and a digest by which an interrupted attempt knows its own."""

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import BinaryIO

import numpy as np

from rsna_e2e import __version__
from rsna_e2e.dicom.syntaxes import SYNTAXES, decoder_version, readable_syntax
from rsna_e2e.elements import RefusedError
from rsna_e2e.errors import BadInputError, UsageError
from rsna_e2e.image_ids import names_of
from rsna_e2e.labels import LabelTable, has_label_columns, read_ids, read_labels
from rsna_e2e.records import Float64Array, RawFile, Refusal, printable
from rsna_e2e.sources import RawFolder, Source, open_source
from rsna_e2e.store import FORMAT_VERSION, Compression, check_codec
from rsna_e2e.table_files import TableFile
from rsna_e2e.tasks import Task

LABEL_WORD = "train"  # in the name of a label file, as in the competition's stage_2_train.csv


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a store is made of. label_file: where the labels are from, "none" without any. compression: of its pixels.
    digest: of all that headers and shards depend on."""

    source: Source
    files: Sequence[RawFile]
    not_found: Sequence[Refusal]
    labels: LabelTable
    label_file: str
    task: Task
    compression: Compression
    digest: str


def read_inputs(
    raw: Path, store: Path | None, labels: Path | None, task: Task, *, compression: Compression, rules: object
) -> Inputs:
    """Find files and labels. store: what is to be made of them, if anything. rules: how they are cut into jobs and
    shards, which the digest includes.

    Raises BadInputError when there is nothing, or the labels are of other images, UsageError for a store inside `raw`,
    MissingCapabilityError without what packs pixels.
    """
    check_codec(compression)
    if store is not None and store.resolve().is_relative_to(raw.resolve()):
        raise UsageError(f"{store}: the store must not lie inside the raw folder {raw}. Choose another place")
    source = open_source(raw)
    file = labels or _labels_inside(source)
    table = read_labels(file, task) if file else None
    files, not_found = source.find()
    if labels is not None and table and files and not _names_any(table.image_ids, files):
        raise BadInputError(f"{labels}: names none of the images in {raw}. Check that it belongs to them")
    if file is None and (beside := _labels_beside(source)):
        table = _read_if_ours(beside, task, files)
        file = beside if table else None
    table = table or LabelTable(image_ids=[], values=_no_labels(task), n_repeated_rows=0)
    settings = (__version__, FORMAT_VERSION, task.windows_hu, compression, rules, decoder_versions())
    digest = _digest(source, files, table, settings)
    return Inputs(
        source=source,
        files=files,
        not_found=not_found,
        labels=table,
        label_file=str(file or "none"),
        task=task,
        compression=compression,
        digest=digest,
    )


def find_labels(raw: Path) -> TableFile | None:
    """Return the file `*train*.csv` or `*train*.csv.gz` that belongs to `raw`, if there is one.

    It lies at the top of the folder or archive, else one folder down, else beside it; in the latter two it counts only
    if it has the columns of a label file. Raises BadInputError for several in one of these places.
    """
    source = open_source(raw)
    return _labels_inside(source) or _labels_beside(source)


def _labels_inside(source: Source) -> TableFile | None:
    tables = source.find_tables(LABEL_WORD, depth=1)
    top = _only_one(source, [table for table in tables if "/" not in table.name], among_others=False)
    return top or _only_one(source, [table for table in tables if "/" in table.name], among_others=True)


def _labels_beside(source: Source) -> TableFile | None:
    folder = RawFolder(source.path.resolve().parent)
    return _only_one(folder, folder.find_tables(LABEL_WORD, depth=0), among_others=True)


def _only_one(source: Source, tables: Sequence[RawFile], *, among_others: bool) -> TableFile | None:
    """Return the one table; it must have the columns of a label file if it lies `among_others`."""
    found = [_label_file(source, table) for table in tables]
    if among_others:
        found = [file for file in found if has_label_columns(file)]
    if len(found) > 1:
        names = ", ".join(PurePath(file.name).name for file in found)
        raise BadInputError(f"{source.path}: several files could hold the labels ({names}). Name one with --labels")
    return found[0] if found else None


def _label_file(source: Source, table: RawFile) -> TableFile:
    return TableFile(printable(str(source.path / table.name)), partial(_open_table, source, table))


def _open_table(source: Source, table: RawFile) -> AbstractContextManager[BinaryIO]:
    try:
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
        if _names_any(image_ids, files):
            raise
        return None
    return table if _names_any(table.image_ids, files) else None


def _names_any(image_ids: Sequence[str], files: Sequence[RawFile]) -> bool:
    """Whether an image id is of one of the files, or of a frame in one."""
    labelled = {*image_ids, *(image_id.rpartition("_")[0] for image_id in image_ids)}
    return any(not labelled.isdisjoint(names_of(raw_file.name)) for raw_file in files)


def _no_labels(task: Task) -> Float64Array:
    return np.empty((0, len(task.label_names)))


def decoder_versions() -> list[tuple[str, str]]:
    """Return the transfer syntaxes that need a decoder and have it here, and its version."""
    found = []
    for uid in SYNTAXES:
        with suppress(RefusedError):
            if (decoder := readable_syntax(uid).decoder) is not None:
                found.append((uid, decoder_version(decoder)))
    return found


def _digest(source: Source, files: Sequence[RawFile], table: LabelTable, settings: tuple[object, ...]) -> str:
    digest = hashlib.sha256(repr((*settings, source.stamp)).encode())
    for raw_file in files:
        digest.update(repr(raw_file).encode("utf-8", "backslashreplace"))
    digest.update("\0".join(table.image_ids).encode())
    return digest.hexdigest()
