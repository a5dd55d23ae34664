"""Which slices of a global batch are one rank's, and what a batch of them says beside its images."""

# N slices (packed), B series, L labels

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rsna_e2e.batch import Rows, SliceImages, StudyBatch, study_targets
from rsna_e2e.config import RunConfig
from rsna_e2e.sampler import Batch, global_batches, rank_share, series_batches
from rsna_e2e.store import SeriesSpan, Store, rows_of

_UNLEARNED_FACTOR = 4  # series in a batch when nothing is learned: darraghdog/rsna, trainlstm.py


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Slices of a batch, series after series.

    rows [N]: of the store's index. spans, lengths [B]: the series and how many of the slices belong to each.
    global_rows, global_lengths: rows and lengths of the whole batch, of which this is one rank's share.
    """

    rows: Rows
    spans: tuple[SeriesSpan, ...]
    lengths: tuple[int, ...]
    global_rows: Rows
    global_lengths: tuple[int, ...]


def group_series(store: Store, positions: Sequence[int], config: RunConfig, *, epoch: int | None) -> list[Batch]:
    """Group series, given by their positions in `store.series`, into batches; shuffled when an epoch is given.

    By `loader.series_per_batch` where it is set, by `loader.slices_per_batch` otherwise.
    """
    seed, number = (None, 0) if epoch is None else (config.seed, epoch)
    if config.loader.series_per_batch is None:
        lengths = [store.series[position].n_slices for position in positions]
        batches = global_batches(lengths, slice_budget=config.loader.slices_per_batch, seed=seed, epoch=number)
    else:
        size = config.loader.series_per_batch * (_UNLEARNED_FACTOR if epoch is None else 1)
        batches = series_batches(len(positions), batch_size=size, seed=seed, epoch=number)
    return [tuple(positions[i] for i in batch) for batch in batches]


def series_share(store: Store, batch: Batch, *, rank: int, n_ranks: int) -> Share:
    """Return a rank's share of a batch of whole series, given by their positions in `store.series`."""
    everyone = [store.series[position] for position in batch]
    lengths = [span.n_slices for span in everyone]
    mine = [everyone[i] for i in rank_share(lengths, rank=rank, n_ranks=n_ranks)]
    return Share(
        rows=rows_of(mine),
        spans=tuple(mine),
        lengths=tuple(span.n_slices for span in mine),
        global_rows=rows_of(everyone),
        global_lengths=tuple(lengths),
    )


def study_batch(store: Store, share: Share, images: SliceImages, device: torch.device) -> StudyBatch:
    """Return the batch of a share: its images, in the order of its rows, with the labels on `device`."""
    labels = _labels(store, share.rows).to(device)
    of_everyone = _labels(store, share.global_rows)
    known = ~of_everyone.isnan()
    _, known_series = study_targets(of_everyone, known, torch.tensor(share.global_lengths))
    return StudyBatch(
        images=images,
        series_lengths=torch.tensor(share.lengths, dtype=torch.int64),
        labels=labels.nan_to_num(0.0),
        label_mask=~labels.isnan(),
        series_keys=tuple(span.series_key for span in share.spans),
        rows=share.rows,
        n_known_slices=known.sum(0),
        n_known_series=known_series.sum(0),
    )


def _labels(store: Store, rows: Rows) -> torch.Tensor:
    return torch.from_numpy(store.labels[rows].astype(np.float32))
