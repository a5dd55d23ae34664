"""Reads the headers of a raw folder alone: the index that a store would have, without reading pixels."""

# N slices, L labels

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rsna_e2e.core.process import available_cores
from rsna_e2e.core.records import Column, Float32Array, Progress, Refusal, no_progress
from rsna_e2e.dicom.image_ids import ImageIds
from rsna_e2e.store.prepare.index import (
    OPTIONAL_COLUMNS,
    RECORD_COLUMNS,
    VECTOR_COLUMNS,
    join_labels,
    spread,
)
from rsna_e2e.store.prepare.inputs import Labels, read_inputs
from rsna_e2e.store.prepare.match_labels import match_labels
from rsna_e2e.store.prepare.patients import with_patients
from rsna_e2e.store.prepare.pool import Pool
from rsna_e2e.store.prepare.run import read_headers
from rsna_e2e.store.prepare.series_plan import find_copies, plan_series
from rsna_e2e.store.prepare.store_plan import with_image_ids
from rsna_e2e.store.prepare.tables import read_notes, to_numpy
from rsna_e2e.store.series_order import slice_indices
from rsna_e2e.tasks.task import Task


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
    n_jobs: int | None = None,
    progress: Progress = no_progress,
) -> RawHeaders:
    """Read all headers in `raw`, in parallel.

    Files of one SOP instance UID count as copies, because only pixels could tell otherwise. Raises BadInputError when
    there is nothing at `raw`, or the labels are of other images.
    """
    inputs = read_inputs(raw, None, labels, image_ids, task, "none")
    with TemporaryDirectory(prefix="rsna_e2e-") as folder, Pool(n_jobs or available_cores()) as pool:
        notes = read_headers(inputs, pool, Path(folder), progress)
        headers, refused = read_notes(notes)
        headers = with_patients(headers)
    match = match_labels(headers, refused, inputs.label_ids)
    copies = find_copies(headers)
    digests = dict(zip(copies.tolist(), to_numpy(headers, "sop_uid")[copies].tolist(), strict=True))
    plan, misplaced = plan_series(headers, match.ambiguous, digests=digests)
    headers, further = with_image_ids(headers, plan.rows, match)
    taken = headers.take(plan.rows)
    columns = {name: to_numpy(taken, name) for name in (*RECORD_COLUMNS, *OPTIONAL_COLUMNS)}
    for name, names in VECTOR_COLUMNS.items():
        columns |= spread(to_numpy(taken, name), names)
    columns |= {
        "series_key": plan.series_keys,
        "position_mm": plan.position_mm,
        "slice_index": slice_indices(plan.series_keys),
    }
    labels_NL = join_labels(columns, inputs.labels.taken(match, task).table, further)
    refusals = sorted([*inputs.not_found, *refused, *misplaced], key=lambda refusal: (refusal.path, refusal.reason))
    return RawHeaders(columns=columns, labels=labels_NL, refusals=refusals)
