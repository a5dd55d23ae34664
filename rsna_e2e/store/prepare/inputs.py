"""Finds the inputs of a store: files, labels, and a digest that tells whether an interrupted attempt had the same."""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from rsna_e2e import __version__
from rsna_e2e.core.errors import UsageError
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
from rsna_e2e.store.prepare.match_labels import LabelIds
from rsna_e2e.tasks.task import Task

Labels: TypeAlias = "Path | TableFile | Literal['none'] | None"  # a label file, none, or what is found (None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a store is made of. labels: tables that may have its labels. image_ids: their rule. compression: of its
    pixels. digest: of everything that headers and shards depend on, which labels are not."""

    source: Source
    files: Sequence[RawFile]
    not_found: Sequence[Refusal]
    labels: LabelFiles
    image_ids: ImageIds
    task: Task
    compression: Compression
    requires_hu: bool
    refuse_formulas: bool
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
    *,
    requires_hu: bool = False,
    refuse_formulas: bool = False,
) -> Inputs:
    """Find files and labels.

    raw: a folder or a zip archive. store: to be made of them, if any. labels: the label file, or "none"; by default
    what `LabelSearch` finds. image_ids: what slices are called in labels and store; "auto": what the labels call them.
    requires_hu: refuse files that leave the unit unspecified. refuse_formulas: refuse files whose image ids, by
    whichever rule, a spreadsheet would run. Raises BadInputError when `raw` is missing or the labels cannot be read,
    UsageError for a store inside `raw`, MissingCapabilityError without the library that packs pixels.
    """
    check_codec(compression)
    if store is not None and is_inside(store, raw):
        raise UsageError(f"{store}: the store must not lie inside the raw folder {raw}. Choose another place")
    source = open_source(raw)
    found = _find_labels(source, labels, task)  # first, as they may be wrong
    files, not_found = _without_formulas(*source.find()) if refuse_formulas else source.find()
    options = (compression, requires_hu, refuse_formulas, image_ids)
    settings = (__version__, FORMAT_VERSION, CONTENT_FROM_HU, options, decoder_versions())
    return Inputs(
        source=source,
        files=files,
        not_found=not_found,
        labels=found,
        image_ids=image_ids,
        task=task,
        compression=compression,
        requires_hu=requires_hu,
        refuse_formulas=refuse_formulas,
        digest=_digest(source, files, settings),
    )


def _find_labels(source: Source, labels: Labels, task: Task) -> LabelFiles:
    """Return the label file that was named, or those that may be of these images."""
    if labels is None:
        return LabelSearch(source).read(task)
    if labels == "none":
        return LabelFiles()
    file = labels if isinstance(labels, TableFile) else table_at(labels)
    return LabelFiles(files=[read_label_file(file, task)], must_match=True)


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
