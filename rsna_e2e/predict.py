"""From a trained run and a store to probabilities: the predictions table and the submission."""

# N slices (packed), L labels

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from rsna_e2e.batch import StudyBatch
from rsna_e2e.checkpoint import find_checkpoint, load_model
from rsna_e2e.config import load_config
from rsna_e2e.device import Compute, choose_compute
from rsna_e2e.errors import BadInputError, UsageError
from rsna_e2e.files import make_folder
from rsna_e2e.labels import write_labels
from rsna_e2e.loader import StudyLoader
from rsna_e2e.model import JointModel
from rsna_e2e.predictions import PredictionTable, predictions_path, write_predictions
from rsna_e2e.preemption import never
from rsna_e2e.records import Float64Array, Progress, no_progress
from rsna_e2e.store import Store
from rsna_e2e.tasks import Task, get_task

Rows = npt.NDArray[np.int64]

_EMBED_TOGETHER = 64  # slices; enough to keep a device busy, and a series of any length fits the memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """What `predict` wrote, and from which checkpoint.

    damaged: what was wrong with checkpoints that were passed over.
    """

    submission: Path
    table: Path
    checkpoint: Path
    damaged: tuple[str, ...]
    n_series: int
    n_slices: int


def predict(
    run: Path,
    store: Store,
    *,
    split: str,
    out: Path,
    checkpoint: str = "auto",
    device: str = "auto",
    progress: Progress = no_progress,
) -> Predicted:
    """Predict every slice of a split of `store`; write a submission and its predictions table beside it.

    Raises BadInputError when the run, checkpoint or store is not one or does not fit, UsageError for an empty split.
    """
    if out.is_dir() or not out.name:
        raise UsageError(f"{out}: not the name of a file. Give one, such as submission.csv")
    make_folder(out.parent)
    damaged: list[str] = []
    folder = find_checkpoint(run, checkpoint, on_damaged=lambda error: damaged.append(str(error)))
    config = load_config(run / "config.yaml")
    task = get_task(config.task)
    check_labels(store, task)
    positions = [position for position, span in enumerate(store.series) if span.split == split]
    if not positions:
        splits = ", ".join(sorted({span.split for span in store.series}))
        raise UsageError(f"{store.path}: no series in split {split!r}; it has: {splits}")
    compute = choose_compute(config.precision, device)
    model = JointModel(
        config.model.without_initial_weights(), n_channels=len(task.windows_hu), n_labels=len(task.label_names)
    )
    load_model(model, folder)
    loader = StudyLoader(store, config, task=task, device=compute.device, dtype=compute.image_dtype)
    rows, probability = predict_series(compute.place(model), loader, positions, compute=compute, progress=progress)
    if not np.isfinite(probability).all():
        raise BadInputError(f"{folder}: predicts numbers that are not finite. Use another checkpoint")
    table = _table(store, rows, probability)
    write_predictions(predictions_path(out), task, table)
    write_labels(out, task, table.image_ids, table.probability)
    return Predicted(
        submission=out,
        table=predictions_path(out),
        checkpoint=folder,
        damaged=tuple(damaged),
        n_series=len(positions),
        n_slices=len(rows),
    )


def predict_series(
    model: JointModel,
    loader: StudyLoader,
    positions: Sequence[int],
    *,
    compute: Compute,
    is_stopping: Callable[[], bool] = never,
    progress: Progress = no_progress,
) -> tuple[Rows, Float64Array]:
    """Return (store rows [N], probabilities [N, L]) of the series at `positions` in the store, un-augmented.

    Of the loader's share of them, when it is one rank's; and of those before it was told to stop.
    """
    batches = loader.group(positions)
    n_slices = sum(map(loader.n_slices, batches))
    rows: list[Rows] = [np.empty(0, dtype=np.int64)]
    probabilities: list[Float64Array] = [np.empty((0, model.n_labels))]
    started_s, done = time.monotonic(), 0
    for batch in loader.load(batches, epoch=None):
        if is_stopping():
            break
        if not batch.series_keys:
            continue
        probabilities.append(_predict_batch(model, batch, compute))
        for first, n in zip(batch.first_rows, batch.series_lengths.tolist(), strict=True):
            rows.append(np.arange(first, first + n))
        done += len(batch.labels)
        progress(done, n_slices, f"{done / (time.monotonic() - started_s):.0f} slices/s")
    return np.concatenate(rows), np.concatenate(probabilities)


def check_labels(store: Store, task: Task) -> None:
    """Raise BadInputError unless the store was prepared for `task`."""
    if tuple(store.label_names) != task.label_names:
        raise BadInputError(
            f"{store.path}: prepared for labels {', '.join(store.label_names)}, not for task {task.name}. "
            f"Run: rsna-e2e prepare RAW STORE --task {task.name}"
        )


@torch.inference_mode()
def _predict_batch(model: JointModel, batch: StudyBatch, compute: Compute) -> Float64Array:
    model.eval()
    n = len(batch.labels)
    with compute.autocast():
        parts = [model.embed(batch.images[i : i + _EMBED_TOGETHER]) for i in range(0, n, _EMBED_TOGETHER)]
    embeddings = torch.cat(parts)
    logits_NL = model.classify(embeddings, batch.series_lengths).slices
    probability: Float64Array = torch.sigmoid(logits_NL).double().cpu().numpy()
    return probability


def _table(store: Store, rows: Rows, probability: Float64Array) -> PredictionTable:
    index = store.index
    return PredictionTable(
        image_ids=[str(image_id) for image_id in index["image_id"][rows]],
        series_keys=[str(key) for key in index["series_key"][rows]],
        slice_index=index["slice_index"][rows].astype(np.int64),
        position_mm=index["position_mm"][rows].astype(np.float64),
        probability=probability,
    )
