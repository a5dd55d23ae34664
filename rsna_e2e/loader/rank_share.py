"""One rank's share of a batch, and the `SeriesBatch` made of it with images and labels."""

# N slices (packed), n of them one rank's own, B series

import re
from dataclasses import dataclass

import numpy as np
import torch

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import Float32Array, Rows
from rsna_e2e.loader.batch import BatchBoxes, SeriesBatch, SliceImages, series_targets
from rsna_e2e.loader.division import Chunk, Division
from rsna_e2e.loader.sampler import Batch
from rsna_e2e.store import SeriesSpan, Store, rows_of

_KERNEL_COMPLAINT = re.compile(r"\bslice (\d+): (.+)")  # csrc/ct_params.cpp


@dataclass(frozen=True, slots=True, kw_only=True)
class RankShare:
    """All slices of a batch, series after series, and the chunks of one rank.

    batch_rows [N]: store row of each slice. positions, spans, lengths [B]: the series, their positions in the store
    and the number of slices of each. chunks: the rank's.
    """

    batch_rows: Rows
    positions: tuple[int, ...]
    spans: tuple[SeriesSpan, ...]
    lengths: tuple[int, ...]
    chunks: tuple[Chunk, ...]

    @property
    def rows(self) -> Rows:
        """Store rows of the rank's slices [n], in the order of their images."""
        own = [self.batch_rows[chunk.rows] for chunk in self.chunks]
        return np.concatenate(own) if own else self.batch_rows[:0]


def with_slice_named(error: ValueError, share: RankShare, *, first: int = 0) -> Exception:
    """Return the error to raise for a kernel's: one that names slice and series where the kernel named a slice.

    first: position among the rank's slices of the first that the kernel was given.
    """
    found = _KERNEL_COMPLAINT.search(str(error))
    if found is None:
        return error
    row = int(share.rows[first + int(found[1])])
    span = next(span for span in share.spans if span.rows.start <= row < span.rows.stop)
    return BadInputError(
        f"slice {row - span.first_row} of series {span.series_key[:8]} cannot be made an image: {found[2]}. Check the "
        "settings of image and augment, and the store with: rsna-e2e store verify STORE"
    )


def series_share(store: Store, batch: Batch, division: Division) -> RankShare:
    """Return a rank's share of a batch of whole series, given by their positions in `store.series`."""
    spans = tuple(store.series[position] for position in batch)
    lengths = tuple(span.n_slices for span in spans)
    return RankShare(
        batch_rows=rows_of(spans), positions=tuple(batch), spans=spans, lengths=lengths, chunks=division.chunks(lengths)
    )


def make_series_batch(
    store: Store,
    share: RankShare,
    images: SliceImages,
    device: torch.device,
    *,
    boxes: BatchBoxes | None = None,
    affine: Float32Array | None = None,
) -> SeriesBatch:
    """Return the batch of a share: images of its rows, in their order, and all labels of slices and series on `device`.

    boxes, affine: of the images. Where the store has no labels of series, a series has the labels of its slices, see
    `series_targets`.
    """
    lengths = torch.tensor(share.lengths, dtype=torch.int64)
    labels, mask = _known(store.labels[share.batch_rows], device)
    if store.series_labels.shape[1]:
        series_labels, series_mask = _known(store.series_labels[list(share.positions)], device)
    else:
        series_labels, series_mask = series_targets(labels, mask, lengths)
    return SeriesBatch(
        images=images,
        chunks=share.chunks,
        series_lengths=lengths,
        labels=labels,
        label_mask=mask,
        series_labels=series_labels,
        series_mask=series_mask,
        series_keys=tuple(span.series_key for span in share.spans),
        rows=share.batch_rows,
        boxes=boxes,
        affine=affine,
    )


def _known(values: Float32Array, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return labels on `device`, 0 where they are unknown (NaN), and where they are known."""
    labels = torch.from_numpy(values.astype(np.float32)).to(device)
    return labels.nan_to_num(0.0), ~labels.isnan()
