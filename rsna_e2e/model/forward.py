"""Probabilities of whole series by a trained model, without gradients."""

# N slices (packed), L labels

from collections.abc import Callable, Sequence

import numpy as np
import torch

from rsna_e2e.core.device import Compute
from rsna_e2e.core.records import Float64Array, Progress, Rows, never, no_progress
from rsna_e2e.loader.batch import SeriesBatch
from rsna_e2e.loader.series_loader import SeriesLoader
from rsna_e2e.model.network import JointModel

EMBED_TOGETHER = 64  # slices; enough to keep a device busy, and a series of any length fits the memory


def predict_series(
    model: JointModel,
    loader: SeriesLoader,
    positions: Sequence[int],
    *,
    compute: Compute,
    is_stopping: Callable[[], bool] = never,
    progress: Progress = no_progress,
) -> tuple[Rows, Float64Array]:
    """Return (store rows [N], probabilities [N, L]) of the series at `positions` in the store, un-augmented.

    loader: of whole batches. Of those only that came before it was told to stop.
    """
    batches = loader.group(positions)
    n_slices = sum(map(loader.n_slices, batches))
    rows: list[Rows] = [np.empty(0, dtype=np.int64)]
    probabilities: list[Float64Array] = [np.empty((0, model.n_labels))]
    done = 0
    for batch in loader.load(batches, epoch=None):
        if is_stopping():
            break
        probabilities.append(_predict_batch(model, batch, compute))
        rows.append(batch.rows)
        done += len(batch.labels)
        progress(done, n_slices)
    return np.concatenate(rows), np.concatenate(probabilities)


@torch.inference_mode()
def _predict_batch(model: JointModel, batch: SeriesBatch, compute: Compute) -> Float64Array:
    model.eval()
    n = len(batch.labels)
    with compute.autocast():
        parts = [model.embed(batch.images[i : i + EMBED_TOGETHER]) for i in range(0, n, EMBED_TOGETHER)]
    embeddings = torch.cat(parts)
    logits_NL = model.classify(embeddings, batch.series_lengths).slices
    probability: Float64Array = torch.sigmoid(logits_NL).double().cpu().numpy()
    return probability
