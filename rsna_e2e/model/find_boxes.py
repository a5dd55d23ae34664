"""Finds the boxes of slices of a store by a trained network, in the pixels of the slices."""

# n images of a batch, N slices, K boxes

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rsna_e2e.core.device import Compute
from rsna_e2e.core.records import Progress, Rows, never, no_progress
from rsna_e2e.loader.batch import SeriesBatch
from rsna_e2e.loader.boxes import source_boxes
from rsna_e2e.loader.series_loader import SeriesLoader
from rsna_e2e.model.box_model import BoxModel
from rsna_e2e.store import Store
from rsna_e2e.tasks.boxes import HALF_PX, NO_BOXES, ImageBoxes, joined

FIND_TOGETHER = 16  # images: a detector keeps all the maps of a pyramid


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxPrediction:
    """The boxes found in slices of a store. rows [N]: the slices, as rows of the store; boxes: in px of the slices,
    which they name by their place in rows."""

    rows: Rows
    boxes: ImageBoxes

    @property
    def is_finite(self) -> bool:
        """Whether every place and score is a number."""
        return bool(np.isfinite(self.boxes.edges).all() and np.isfinite(self.boxes.scores).all())

    def in_store_order(self) -> "BoxPrediction":
        """Return the same with slices in the order in which the store holds them."""
        order = np.argsort(self.rows)
        return BoxPrediction(rows=self.rows[order], boxes=self.boxes.of_images(order)[0])


def find_boxes(
    model: BoxModel,
    loader: SeriesLoader,
    positions: Sequence[int],
    store: Store,
    *,
    compute: Compute,
    is_stopping: Callable[[], bool] = never,
    progress: Progress = no_progress,
) -> BoxPrediction:
    """Find boxes in the un-augmented series at `positions` of the store, in the order of the loader's batches.

    loader: of whole batches. When `is_stopping` says so, it ends with the batch before.
    """
    batches = loader.group(positions)
    n_slices, done = sum(map(loader.n_slices, batches)), 0
    rows: list[Rows] = [np.empty(0, dtype=np.int64)]
    found: list[ImageBoxes] = [NO_BOXES]
    for batch in loader.load(batches, epoch=None):
        if is_stopping():
            break
        found.append(_of_slices(_find(model, batch, compute), batch, store, first=done))
        rows.append(batch.rows)
        done += len(batch.rows)
        progress(done, n_slices)
    return BoxPrediction(rows=np.concatenate(rows), boxes=joined(found))


@torch.inference_mode()
def _find(model: BoxModel, batch: SeriesBatch, compute: Compute) -> ImageBoxes:
    """Return the boxes of the images of a batch, in their pixels."""
    model.eval()
    found = []
    for first in range(0, len(batch.rows), FIND_TOGETHER):
        with compute.autocast():
            found += model.find(batch.images[first : first + FIND_TOGETHER])
    return ImageBoxes(
        images=np.repeat(np.arange(len(found)), [len(boxes.scores) for boxes in found]),
        edges=torch.cat([boxes.edges for boxes in found]).double().cpu().numpy(),
        classes=torch.cat([boxes.classes for boxes in found]).cpu().numpy(),
        scores=torch.cat([boxes.scores for boxes in found]).double().cpu().numpy(),
    )


def _of_slices(boxes: ImageBoxes, batch: SeriesBatch, store: Store, *, first: int) -> ImageBoxes:
    """Return boxes of images in the pixels of their slices, cut off at the edges of these; images count from `first`.

    What lies in the padding of an image alone is dropped.
    """
    assert batch.affine is not None, "of images"
    whole = source_boxes(boxes.edges, batch.affine[boxes.images])
    sides_N2 = np.stack([store.index[name][batch.rows] for name in ("columns", "rows")], axis=1)
    edges = whole.clip(-HALF_PX, np.tile(sides_N2[boxes.images], 2) - HALF_PX)
    is_empty_K = np.asarray((edges[:, 2:] <= edges[:, :2]).any(axis=1))  # not of what is no number
    return ImageBoxes(images=boxes.images + first, edges=edges, classes=boxes.classes, scores=boxes.scores).at(
        ~is_empty_K
    )
