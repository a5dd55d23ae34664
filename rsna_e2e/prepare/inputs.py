"""What a store is made of: files, labels, and a digest by which an interrupted attempt knows its own."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np

from rsna_e2e import __version__
from rsna_e2e.errors import BadInputError, UsageError
from rsna_e2e.labels import LabelTable, read_labels
from rsna_e2e.records import RawFile, Refusal
from rsna_e2e.sources import Source, open_source
from rsna_e2e.store import FORMAT_VERSION
from rsna_e2e.tasks import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a store is made of. digest: of all that headers and pixels depend on."""

    source: Source
    files: Sequence[RawFile]
    not_found: Sequence[Refusal]
    labels: LabelTable
    task: Task
    digest: str


def read_inputs(raw: Path, store: Path | None, labels: Path | None, task: Task, *, rules: object) -> Inputs:
    """Find files and labels. store: what is to be made of them, if anything. rules: how they are cut into jobs and
    shards, which the digest includes.

    Raises BadInputError when there is nothing, or the labels are of other images, UsageError for a store inside `raw`.
    """
    if store is not None and store.resolve().is_relative_to(raw.resolve()):
        raise UsageError(f"{store}: the store must not lie inside the raw folder {raw}. Choose another place")
    source = open_source(raw)
    table = _read_label_table(raw, labels, task)
    files, not_found = source.find()
    settings = (__version__, FORMAT_VERSION, task.windows_hu, rules)
    digest = hashlib.sha256(repr(settings).encode())
    for raw_file in files:
        digest.update(repr(raw_file).encode("utf-8", "backslashreplace"))
    digest.update("\0".join(table.image_ids).encode())
    if labels is not None and files:
        stems = {PurePath(raw_file.name).stem for raw_file in files}
        if stems.isdisjoint(table.image_ids):
            raise BadInputError(f"{labels}: names none of the images in {raw}. Check that it belongs to them")
    return Inputs(source=source, files=files, not_found=not_found, labels=table, task=task, digest=digest.hexdigest())


def find_labels(raw: Path) -> Path | None:
    """Return the file `*train*.csv` or `*train*.csv.gz` in `raw`, if there is one. Raises BadInputError for several."""
    found = sorted([*raw.glob("*train*.csv"), *raw.glob("*train*.csv.gz")])
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise BadInputError(f"{raw}: several files could hold the labels ({names}). Name one with --labels")
    return found[0] if found else None


def _read_label_table(raw: Path, labels: Path | None, task: Task) -> LabelTable:
    labels = labels or find_labels(raw)
    if labels is None:
        return LabelTable(image_ids=[], values=np.empty((0, len(task.label_names))), n_repeated_rows=0)
    return read_labels(labels, task)
