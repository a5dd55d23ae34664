"""Finds the inputs of a store: files, labels, and a digest that tells whether an interrupted attempt had the same."""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from rsna_e2e import __version__
from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.files import is_inside
from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import Float64Array, RawFile, Refusal, printable
from rsna_e2e.core.table_files import TableFile, table_at
from rsna_e2e.dicom.elements import RefusedError
from rsna_e2e.dicom.image_ids import may_be_formula, names_of
from rsna_e2e.dicom.sources.files import Source, open_source
from rsna_e2e.dicom.syntaxes import SYNTAXES, decoder_version, readable_syntax
from rsna_e2e.store import FORMAT_VERSION, Compression, check_codec
from rsna_e2e.store.prepare.find_labels import FoundLabels, LabelSearch, file_names, names_any
from rsna_e2e.tasks.labels import LabelTable, read_labels
from rsna_e2e.tasks.task import Task

Labels: TypeAlias = "Path | TableFile | Literal['none'] | None"  # a label file, none, or what is found (None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a store is made of. label_file: of the labels, "none" without any; passed_over: then tables that look like
    labels, and why they were not taken. compression: of its pixels. digest: of everything that headers and shards
    depend on."""

    source: Source
    files: Sequence[RawFile]
    not_found: Sequence[Refusal]
    labels: LabelTable
    label_file: str
    passed_over: Mapping[str, str]
    task: Task
    compression: Compression
    requires_hu: bool
    digest: str


def read_inputs(
    raw: Path,
    store: Path | None,
    labels: Labels,
    task: Task,
    compression: Compression,
    *,
    requires_hu: bool = False,
    refuse_formulas: bool = False,
    rules: tuple[object, ...] = (),
) -> Inputs:
    """Find files and labels. store: to be made of them, if any. requires_hu: refuse files that leave the unit
    unspecified. refuse_formulas: refuse files whose image ids a spreadsheet would run. rules: how files are divided
    into jobs and shards, which the digest includes.

    Raises BadInputError when `raw` is missing or the labels are of other images, UsageError for a store inside `raw`,
    MissingCapabilityError without the library that packs pixels.
    """
    check_codec(compression)
    if store is not None and is_inside(store, raw):
        raise UsageError(f"{store}: the store must not lie inside the raw folder {raw}. Choose another place")
    source = open_source(raw)
    found, files, not_found = _find(source, labels, task, refuse_formulas=refuse_formulas)
    table = found.table or LabelTable(image_ids=[], values=_no_labels(task), n_repeated_rows=0)
    settings = (__version__, FORMAT_VERSION, task.windows_hu, compression, (*rules, requires_hu), decoder_versions())
    return Inputs(
        source=source,
        files=files,
        not_found=not_found,
        labels=table,
        label_file=str(found.file or "none"),
        passed_over=found.passed_over,
        task=task,
        compression=compression,
        requires_hu=requires_hu,
        digest=_digest(source, files, table, settings),
    )


def _find(
    source: Source, labels: Labels, task: Task, *, refuse_formulas: bool
) -> tuple[FoundLabels, Sequence[RawFile], Sequence[Refusal]]:
    """Return the labels, the files, and what cannot be taken for a file. Labels come first, as they may be wrong."""
    if labels is None:
        search = LabelSearch(source)
        found = search.read_inside(task)
    else:
        search, found = None, FoundLabels() if labels == "none" else _read_given(labels, task)
    files, not_found = _without_formulas(*source.find()) if refuse_formulas else source.find()
    if search is None and found.table and files and not names_any(found.table.image_ids, files):
        raise BadInputError(f"{labels}: names none of the images in {source.path}. Check that it belongs to them")
    if search is not None and found.file is None:
        found = search.read_others(task, files)
    return found, files, not_found


def _read_given(labels: Path | TableFile, task: Task) -> FoundLabels:
    file = labels if isinstance(labels, TableFile) else table_at(labels)
    return FoundLabels(file=file, table=read_labels(file, task))


def with_labels(refusals: Sequence[Refusal], inputs: Inputs) -> list[Refusal]:
    """Return refusals with `has_label` set where a label names their file."""
    labelled = file_names(inputs.labels.image_ids) if refusals else set()
    return [replace(refusal, has_label=not labelled.isdisjoint(names_of(refusal.path))) for refusal in refusals]


def _without_formulas(
    files: Sequence[RawFile], refusals: Sequence[Refusal]
) -> tuple[Sequence[RawFile], Sequence[Refusal]]:
    why = (Reason.FORMULA_NAME, "a spreadsheet would run its image id (--refuse-formulas)")
    refused = [Refusal(printable(file.name), *why) for file in files if may_be_formula(file.name)]
    return [file for file in files if not may_be_formula(file.name)], [*refusals, *refused]


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
