"""Reads the headers of a raw folder alone: the index that a store would have, without reading pixels."""

# N slices, L labels

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from rsna_e2e.core.process import available_cores
from rsna_e2e.core.records import Column, Float32Array, Modality, Progress, Refusal, no_progress
from rsna_e2e.dicom.image_ids import ImageIds, names_of
from rsna_e2e.store.layout import XRAY_COLUMNS
from rsna_e2e.store.prepare.index import (
    OPTIONAL_COLUMNS,
    RECORD_COLUMNS,
    VECTOR_COLUMNS,
    spread,
)
from rsna_e2e.store.prepare.inputs import Inputs, Labels, read_inputs
from rsna_e2e.store.prepare.match_labels import file_names, match_labels
from rsna_e2e.store.prepare.patients import with_patients
from rsna_e2e.store.prepare.pool import Pool
from rsna_e2e.store.prepare.reading import Reading, modality_of
from rsna_e2e.store.prepare.run import read_headers
from rsna_e2e.store.prepare.series_plan import find_copies, plan_series
from rsna_e2e.store.prepare.sets import join
from rsna_e2e.store.prepare.store_plan import with_image_ids
from rsna_e2e.store.prepare.tables import XRAY_PREFIX, read_notes, to_numpy
from rsna_e2e.store.series_order import slice_indices
from rsna_e2e.tasks.task import Task

OF_PIXELS = ("low_grey", "high_grey")
_SAMPLE = 1000  # files whose headers are read where names do not tell which have labels


@dataclass(frozen=True, slots=True, kw_only=True)
class RawHeaders:
    """The slices that `prepare` would take, judged by their headers.

    columns: of the store's index by name [N], in its order, except those that depend on pixels, folds or shards.
    labels: [N, L], NaN where there is none. refusals: of all other files.
    """

    columns: dict[str, Column]
    labels: Float32Array
    refusals: Sequence[Refusal]


def read_raw(
    raw: Path,
    *,
    task: Task,
    labels: Labels = None,
    image_ids: ImageIds = "auto",
    modality: Modality | None = None,
    n_jobs: int | None = None,
    progress: Progress = no_progress,
) -> RawHeaders:
    """Read all headers in `raw`, in parallel. modality: by default that of the task.

    Files of one SOP instance UID count as copies, because only pixels could tell otherwise. Raises BadInputError when
    there is nothing at `raw`, or the labels are of other images.
    """
    reading = Reading(modality=modality or modality_of(task))
    inputs = read_inputs(raw, None, labels, image_ids, task, "none", reading)
    return _read(inputs, n_jobs or available_cores(), progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawCounts:
    """Files in a raw folder, and how many of them have labels. tables: that were looked at, in the order of preference.
    is_estimate: by the headers of some."""

    n_files: int
    n_labelled: int
    tables: Sequence[str]
    is_estimate: bool = False


def count_raw(raw: Path, *, task: Task, labels: Labels = None) -> RawCounts:
    """Count the files in `raw`, and those that have labels: by their names, or, where labels name none, by headers.

    Raises what `read_raw` raises.
    """
    inputs = read_inputs(raw, None, labels, "auto", task, "none")
    n_files, tables = len(inputs.files), [file.ids.file for file in inputs.labels.files]
    if inputs.source.has_shards:
        labels_NL = _read(inputs, available_cores(), no_progress).labels
        n_labelled = int((~np.isnan(labels_NL)).any(axis=1).sum())
        return RawCounts(n_files=len(labels_NL), n_labelled=n_labelled, tables=tables)
    for file in inputs.labels.files:
        labelled = file_names(file.ids.image_ids)
        if n := sum(not labelled.isdisjoint(names_of(raw_file.name)) for raw_file in inputs.files):
            return RawCounts(n_files=n_files, n_labelled=n, tables=tables)
    if not tables or not n_files:
        return RawCounts(n_files=n_files, n_labelled=0, tables=tables)
    sample = inputs.files[:: -(-n_files // _SAMPLE)]
    found = _read(replace(inputs, files=sample), available_cores(), no_progress)
    n_labelled = int((~np.isnan(found.labels)).any(axis=1).sum())
    return RawCounts(
        n_files=n_files,
        n_labelled=round(n_files * n_labelled / max(len(found.labels), 1)),
        tables=tables,
        is_estimate=True,
    )


def _read(inputs: Inputs, n_jobs: int, progress: Progress) -> RawHeaders:
    """Read the headers of the files of a store to be made."""
    task = inputs.task
    with TemporaryDirectory(prefix="rsna_e2e-") as folder, Pool(n_jobs) as pool:
        notes = read_headers(inputs, pool, Path(folder), progress)
        headers, refused = read_notes(notes)
        headers = with_patients(headers)
    match = match_labels(headers, refused, inputs.label_ids)
    copies = find_copies(headers)
    digests = dict(zip(copies.tolist(), to_numpy(headers, "sop_uid")[copies].tolist(), strict=True))
    plan, misplaced = plan_series(headers, digests=digests)
    headers, further = with_image_ids(headers, plan.rows, match)
    taken = headers.take(plan.rows)
    columns = {name: to_numpy(taken, name) for name in (*RECORD_COLUMNS, *OPTIONAL_COLUMNS)}
    if inputs.reading.modality == "xr":
        columns |= {name: to_numpy(taken, f"{XRAY_PREFIX}{name}") for name in XRAY_COLUMNS if name not in OF_PIXELS}
    for name, names in VECTOR_COLUMNS.items():
        columns |= spread(to_numpy(taken, name), names)
    columns |= {
        "series_key": plan.series_keys,
        "position_mm": plan.position_mm,
        "slice_index": slice_indices(plan.series_keys),
    }
    labels_NL = join(columns, inputs.labels.taken(match, task).table, further, task).labels
    refusals = sorted([*inputs.not_found, *refused, *misplaced], key=lambda refusal: (refusal.path, refusal.reason))
    return RawHeaders(columns=columns, labels=labels_NL, refusals=refusals)
