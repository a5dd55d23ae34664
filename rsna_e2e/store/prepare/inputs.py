"""Finds the inputs of a store: files, labels, and a digest that tells whether an interrupted attempt had the same."""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from rsna_e2e import __version__
from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.files import is_inside
from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import RawFile, Refusal, printable
from rsna_e2e.core.table_files import TableFile, table_at
from rsna_e2e.dicom.elements import RefusedError
from rsna_e2e.dicom.image_ids import ImageIds, may_be_formula
from rsna_e2e.dicom.sources.files import Source, open_source
from rsna_e2e.dicom.syntaxes import SYNTAXES, decoder_version, readable_syntax
from rsna_e2e.store import FORMAT_VERSION, Compression, check_codec
from rsna_e2e.store.content_box import CONTENT_FROM_HU
from rsna_e2e.store.prepare.find_labels import LabelFiles, LabelSearch, read_label_file
from rsna_e2e.store.prepare.label_folders import labels_of_folders
from rsna_e2e.store.prepare.match_labels import LabelIds
from rsna_e2e.store.prepare.reading import Reading, check_is_about, modality_of
from rsna_e2e.tasks.task import Task

# A label file, none, the names of folders, or what is found (None)
Labels: TypeAlias = "Path | TableFile | Literal['none', 'folders'] | None"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a store is made of. labels: tables that may have its labels. image_ids: their rule. compression: of its
    pixels. reading: how files are read. digest: of everything that headers and shards depend on, which labels are
    not."""

    source: Source
    files: Sequence[RawFile]
    not_found: Sequence[Refusal]
    labels: LabelFiles
    image_ids: ImageIds
    task: Task
    compression: Compression
    reading: Reading
    digest: str

    @property
    def label_ids(self) -> LabelIds:
        """What the labels are found by, once headers are read."""
        return LabelIds(
            raw=self.source.path,
            tables=[file.ids for file in self.labels.files],
            must_match=self.labels.must_match,
            rule=self.image_ids,
            refused=self.not_found,
        )


def read_inputs(
    raw: Path,
    store: Path | None,
    labels: Labels,
    image_ids: ImageIds,
    task: Task,
    compression: Compression,
    reading: Reading | None = None,
) -> Inputs:
    """Find files and labels.

    raw: a folder or a zip archive. store: to be made of them, if any. labels: the label file, "none", or "folders"; by
    default what `LabelSearch` finds. image_ids: what slices are called in labels and store; "auto": what the labels
    call them. reading: by default of the task's modality. Raises BadInputError when `raw` is missing or of HDF5 shards
    for X-rays, or the labels cannot be read, UsageError for a store inside `raw` or labels of a task of the other
    modality, MissingCapabilityError without the library that packs pixels.
    """
    check_codec(compression)
    reading = reading or Reading(modality=modality_of(task))
    if store is not None and is_inside(store, raw):
        raise UsageError(f"{store}: the store must not lie inside the raw folder {raw}. Choose another place")
    source = open_source(raw)
    if source.has_shards and reading.modality == "xr":
        raise BadInputError(f"{raw}: HDF5 shards hold CT. Give the files of the X-rays, or read CT: --modality ct")
    found = _find_labels(source, labels, task, reading)  # first, as they may be wrong
    files, not_found = _without_formulas(*source.find()) if reading.refuse_formulas else source.find()
    if labels == "folders":
        found = LabelFiles(files=[labels_of_folders(raw, files, task)], must_match=True)
    settings = (__version__, FORMAT_VERSION, CONTENT_FROM_HU, compression, reading, image_ids, decoder_versions())
    return Inputs(
        source=source,
        files=files,
        not_found=not_found,
        labels=found,
        image_ids=image_ids,
        task=task,
        compression=compression,
        reading=reading,
        digest=_digest(source, files, settings),
    )


def _find_labels(source: Source, labels: Labels, task: Task, reading: Reading) -> LabelFiles:
    """Return the label file that was named, or those that may be of these images; no labels of folders."""
    has_patients = reading.modality == "xr"
    if labels is None:
        return LabelSearch(source).read(task, has_patients=has_patients)
    if labels != "none":
        check_is_about(task, reading.values, source.path)
    if labels in ("none", "folders"):
        return LabelFiles()
    assert not isinstance(labels, str)
    file = labels if isinstance(labels, TableFile) else table_at(labels)
    return LabelFiles(files=[read_label_file(file, task, has_patients=has_patients)], must_match=True)


def _without_formulas(
    files: Sequence[RawFile], refusals: Sequence[Refusal]
) -> tuple[Sequence[RawFile], Sequence[Refusal]]:
    why = (Reason.FORMULA_NAME, "a spreadsheet would run its image id (--refuse-formulas)")
    refused = [Refusal(printable(file.name), *why) for file in files if may_be_formula(file.name)]
    return [file for file in files if not may_be_formula(file.name)], [*refusals, *refused]


def decoder_versions() -> list[tuple[str, str]]:
    """Return the transfer syntaxes that need a decoder and have it here, and its version."""
    found = []
    for uid in SYNTAXES:
        with suppress(RefusedError):
            if (decoder := readable_syntax(uid).decoder) is not None:
                found.append((uid, decoder_version(decoder)))
    return found


def _digest(source: Source, files: Sequence[RawFile], settings: tuple[object, ...]) -> str:
    digest = hashlib.sha256(repr((*settings, source.stamp)).encode())
    for raw_file in files:
        digest.update(repr(raw_file).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()
