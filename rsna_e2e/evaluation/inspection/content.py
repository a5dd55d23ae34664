"""Content of a data report as plain numbers and texts: what `inspection.json` holds and the page shows."""

# N slices

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rsna_e2e import __version__
from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import Progress, Refusal, no_progress
from rsna_e2e.core.table_files import TableFile
from rsna_e2e.evaluation.inspection.findings import find
from rsna_e2e.evaluation.inspection.geometry import describe_geometry
from rsna_e2e.evaluation.inspection.radiographs import describe_radiographs
from rsna_e2e.evaluation.inspection.slices import Rows, Slices
from rsna_e2e.evaluation.inspection.studies import describe_studies
from rsna_e2e.evaluation.inspection.truth import describe_copies, describe_counts, describe_labels
from rsna_e2e.evaluation.inspection.values import describe_values, grey_histogram, histogram
from rsna_e2e.loader.present import check_values
from rsna_e2e.store import Store
from rsna_e2e.store.prepare import NothingTakenError, count_reasons, read_raw
from rsna_e2e.store.prepare.reading import modality_of
from rsna_e2e.store.reader import check_labels
from rsna_e2e.tasks.catalogue import get_task
from rsna_e2e.tasks.task import Task

# How files end that describe images, and are none
_NO_IMAGES = tuple(
    f".{kind}{packed}" for kind in ("csv", "json", "tsv", "txt", "yaml", "yml") for packed in ("", ".gz")
)
N_SAMPLED = 1000  # slices; their histogram differs from that of all by less than can be seen


def inspect_store(
    store: Store,
    *,
    task: Task | None = None,
    n_sampled: int | None = N_SAMPLED,
    seed: int = 0,
    progress: Progress = no_progress,
) -> tuple[dict[str, Any], Slices]:
    """Describe a store: its tables whole, the pixels of `n_sampled` slices (None: all), chosen by `seed`.

    task: by default the one whose labels the store was opened with, needed of a store without labels. Returns the
    content and what it was made of. Raises StoreError when a slice is damaged, BadInputError when the labels are not
    those of the task, UsageError when the images are of another kind.
    """
    task = task or get_task(store.task_name)
    check_values(store, task)
    check_labels(store, task)
    slices = Slices(
        task=task,
        columns=store.index,
        labels=store.labels,
        refusals=store.read_refusals(),
        store=store,
        box_rows=store.boxes.images,
        box_edges=store.boxes.edges,
    )
    n = len(slices) if n_sampled is None else min(n_sampled, len(slices))
    rows = np.sort(np.random.default_rng(seed).choice(len(slices), size=n, replace=False))
    content = _content(slices) | {
        **_histograms(slices, store, rows, progress),
        "copies": describe_copies(slices),
        "data_hash": store.data_hash,
        "is_deidentified": bool(store.key_check),
        "seed": seed,
    }
    return content | {"findings": find(content)}, slices


def inspect_raw(
    raw: Path,
    *,
    task: Task,
    labels: Path | TableFile | None = None,
    n_jobs: int | None = None,
    progress: Progress = no_progress,
) -> tuple[dict[str, Any], Slices]:
    """Describe DICOM files by their headers and labels; no pixel is read and no store made.

    Returns the content and what it was made of. Raises BadInputError where there is none.
    """
    found = read_raw(raw, task=task, labels=labels, n_jobs=n_jobs, progress=progress)
    if not len(found.columns["series_key"]):
        raise NothingTakenError(raw, found.refusals, modality=modality_of(task))
    slices = Slices(task=task, columns=found.columns, labels=found.labels, refusals=found.refusals)
    of_stores = dict.fromkeys(("hu", "grey", "copies", "data_hash", "seed"))
    content = _content(slices) | of_stores | {"is_deidentified": False}
    return content | {"findings": find(content)}, slices


def _content(slices: Slices) -> dict[str, Any]:
    return {
        "made_by": f"rsna_e2e {__version__}",
        "source": "store" if slices.store else "raw",
        "task": slices.task.name,
        "counts": describe_counts(slices),
        "geometry": describe_geometry(slices),
        "values": describe_values(slices),
        "radiographs": describe_radiographs(slices),
        "truth": describe_labels(slices),
        "studies": describe_studies(slices),
        "refusals": _refusals(slices.refusals),
        "n_refused": len(slices.refusals),
        "n_no_images": sum(map(is_no_image, slices.refusals)),
    }


def _histograms(slices: Slices, store: Store, rows: Rows, progress: Progress) -> dict[str, Any]:
    """Return the histogram of HU, or of the grey of radiographs; the other is None."""
    windows = slices.task.inputs.windows_hu
    if slices.are_radiographs:
        return {"hu": None, "grey": grey_histogram(store, rows, progress, windows=windows)}
    return {"hu": histogram(store, rows, progress, windows_hu=windows), "grey": None}


def is_no_image(refusal: Refusal) -> bool:
    """Whether a file was refused that its name says to be no image. In a store with hashed names none is known."""
    return refusal.reason == Reason.NOT_DICOM and refusal.path.lower().endswith(_NO_IMAGES)


def _refusals(refusals: Sequence[Refusal]) -> list[dict[str, Any]]:
    """Reasons, how often each was met, and one detail: never a path, which may name a patient."""
    example = {str(refusal.reason): refusal.detail for refusal in reversed(refusals)}
    return [{"reason": reason, "n": n, "example": example[reason]} for reason, n in count_reasons(refusals).items()]
