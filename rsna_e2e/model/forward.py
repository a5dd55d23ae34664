"""Prediction: probabilities of slices, and with a series head of series, by a trained model without gradients."""

# N slices (packed), S series, B series of a batch, L labels of slices, M of series

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rsna_e2e.config import View
from rsna_e2e.core.device import Compute
from rsna_e2e.core.records import Float64Array, Progress, Rows, never, no_progress
from rsna_e2e.loader.batch import SeriesBatch
from rsna_e2e.loader.series_loader import SeriesLoader
from rsna_e2e.model.network import JointModel, Logits
from rsna_e2e.model.views import turned

EMBED_TOGETHER = 64  # slices; enough to keep a device busy, and a series of any length fits the memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Probabilities of slices and of series of a store.

    rows [N]: the slices, as rows of the store; slices [N, L]: their probabilities. positions [S]: the series, as
    positions in the store; series [S, M]: their probabilities, None for a model without a series head.
    """

    rows: Rows
    slices: Float64Array
    positions: Rows
    series: Float64Array | None

    @property
    def is_finite(self) -> bool:
        """Whether every probability is a number."""
        return bool(np.isfinite(self.slices).all()) and (self.series is None or bool(np.isfinite(self.series).all()))

    def in_store_order(self) -> "Prediction":
        """Return the same with slices and series in the order in which the store holds them."""
        by_row, by_position = np.argsort(self.rows), np.argsort(self.positions)
        return Prediction(
            rows=self.rows[by_row],
            slices=self.slices[by_row],
            positions=self.positions[by_position],
            series=None if self.series is None else self.series[by_position],
        )


def predict_series(
    model: JointModel,
    loader: SeriesLoader,
    positions: Sequence[int],
    *,
    compute: Compute,
    views: Sequence[View] = ("plain",),
    is_stopping: Callable[[], bool] = never,
    progress: Progress = no_progress,
) -> Prediction:
    """Predict the series at `positions` in the store, un-augmented, in the order of the loader's batches.

    loader: of whole batches. views: of the images; probabilities are the mean over them. When `is_stopping` says so,
    the prediction ends with the batch before.
    """
    batches = loader.group(positions)
    n_slices = sum(map(loader.n_slices, batches))
    rows: list[Rows] = [np.empty(0, dtype=np.int64)]
    places: list[Rows] = [np.empty(0, dtype=np.int64)]
    of_slices: list[Float64Array] = [np.empty((0, model.n_labels))]
    of_series: list[Float64Array] = [np.empty((0, model.n_series_labels))]
    done = 0
    for members, batch in zip(batches, loader.load(batches, epoch=None), strict=True):
        if is_stopping():
            break
        seen = [_classify_batch(model, batch, compute, view) for view in views]
        of_slices.append(_probability([logits.slices for logits in seen]))
        if model.study_head is not None:
            of_series.append(_probability([logits.series for logits in seen if logits.series is not None]))
        rows.append(batch.rows)
        places.append(np.array(members, dtype=np.int64))
        done += len(batch.labels)
        progress(done, n_slices)
    return Prediction(
        rows=np.concatenate(rows),
        slices=np.concatenate(of_slices),
        positions=np.concatenate(places),
        series=None if model.study_head is None else np.concatenate(of_series),
    )


@torch.inference_mode()
def _classify_batch(model: JointModel, batch: SeriesBatch, compute: Compute, view: View) -> Logits:
    model.eval()
    n = len(batch.labels)
    with compute.autocast():
        parts = [model.embed(turned(batch.images[i : i + EMBED_TOGETHER], view)) for i in range(0, n, EMBED_TOGETHER)]
    return model.classify(torch.cat(parts), batch.series_lengths)


def _probability(logits_of_views: Sequence[torch.Tensor]) -> Float64Array:
    """Return the mean over views; of one view, its own."""
    found = [torch.sigmoid(logits).double() for logits in logits_of_views]
    probability: Float64Array = torch.stack(found).mean(0).cpu().numpy()
    return probability
