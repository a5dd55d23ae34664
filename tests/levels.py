"""A store and a task with labels of slices and of whole series, for tests of what does with both."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from rsna_e2e.core.records import Float32Array
from rsna_e2e.loader.batch import SeriesBatch
from rsna_e2e.loader.division import Division
from rsna_e2e.store import Store
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.pe import PE

# What a positive series has, in turn: labels of one that is acute, chronic, or both
_POSITIVE = (
    ("central_pe", "leftsided_pe", "rv_lv_ratio_gte_1"),
    ("rightsided_pe", "chronic_pe", "rv_lv_ratio_lt_1"),
    ("leftsided_pe", "rightsided_pe", "acute_and_chronic_pe", "rv_lv_ratio_lt_1"),
)
_NEGATIVE = (("negative_exam_for_pe",), ("indeterminate",))


def with_series_labels(store: Store) -> Store:
    """A store of hemorrhages as one of emboli: a slice with any bleed has one, and series have labels that obey it.

    Series without known slices have no labels either. The folds stay.
    """
    other = copy.copy(store)
    other._set = None  # its label set is of another task
    other.task_name, other.label_names, other.series_label_names = PE.name, PE.slices.names, PE.series.names
    other.labels = store.labels[:, [ICH.headline_index]]
    other.series_labels = np.stack([_of_series(other, number) for number in range(len(store.series))])
    return other


def _of_series(store: Store, number: int) -> Float32Array:
    labels = store.labels[store.series[number].rows]
    if np.isnan(labels).any():
        return np.full(len(PE.series), np.nan, dtype=np.float32)
    among = _POSITIVE if (labels > 0).any() else _NEGATIVE
    return np.array([name in among[number % len(among)] for name in PE.series.names], dtype=np.float32)


def made_up_batch(
    lengths: Sequence[int], *, seed: int, side: int = 32, chunk: int = 64, unknown: float = 0.0
) -> SeriesBatch:
    """Series of noise with random labels of both levels, a part of them unknown."""
    rng = np.random.default_rng(seed)
    n = sum(lengths)
    labels = torch.from_numpy(rng.integers(0, 2, (n, 1)).astype(np.float32))
    labels[-lengths[-1] :] = 0.0  # a series without any
    series_labels = torch.from_numpy(rng.integers(0, 2, (len(lengths), len(PE.series))).astype(np.float32))
    return SeriesBatch(
        images=torch.from_numpy(rng.normal(size=(n, 3, side, side)).astype(np.float32)),
        chunks=Division(chunk_size=chunk).chunks(lengths),
        series_lengths=torch.tensor(lengths),
        labels=labels,
        label_mask=torch.from_numpy(rng.random(labels.shape) >= unknown),
        series_labels=series_labels,
        series_mask=torch.from_numpy(rng.random(series_labels.shape) >= unknown),
        series_keys=tuple(f"{seed}-{number}" for number in range(len(lengths))),
        rows=np.arange(n) + 1000 * seed,
    )


def part(batch: SeriesBatch, number: int) -> SeriesBatch:
    """One series of a batch, as a batch."""
    stop = int(batch.series_lengths[: number + 1].sum())
    length = int(batch.series_lengths[number])
    rows = slice(stop - length, stop)
    return replace(
        batch,
        images=batch.images[rows],
        chunks=Division(chunk_size=len(batch.chunks[0])).chunks([length]),
        series_lengths=batch.series_lengths[number : number + 1],
        labels=batch.labels[rows],
        label_mask=batch.label_mask[rows],
        series_labels=batch.series_labels[number : number + 1],
        series_mask=batch.series_mask[number : number + 1],
        series_keys=batch.series_keys[number : number + 1],
        rows=batch.rows[rows],
    )
