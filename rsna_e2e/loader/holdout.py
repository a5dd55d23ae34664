"""Training and validation sets: the series of the training folds, and those of the fold that is held out."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from rsna_e2e.config import RunConfig
from rsna_e2e.core.errors import UsageError
from rsna_e2e.core.records import Rows
from rsna_e2e.store import Store, rows_of
from rsna_e2e.store.folds import published_folds
from rsna_e2e.tasks.metrics import scorable


def hold_out(store: Store, config: RunConfig) -> tuple[list[int], list[int]]:
    """Return the positions in `store.series` to train on and to validate on. Raises UsageError without any."""
    labelled = [position for position, span in enumerate(store.series) if span.split == "train"]
    fold_of = series_folds(store, config.folds)
    held_out = [p for p in labelled if fold_of[p] == config.validation_fold]
    training = [p for p in labelled if fold_of[p] != config.validation_fold]
    if not training:
        raise UsageError(
            f"{store.path}: no labelled series to train on outside fold {config.validation_fold} "
            f"({len(labelled)} labelled in all). Prepare with --labels, or --set validation_fold=null"
        )
    if config.validation_fold is not None and not held_out:
        folds = sorted({fold_of[p] for p in labelled})
        raise UsageError(f"{store.path}: no series in fold {config.validation_fold}; it has folds {folds}")
    return training, held_out


def series_folds(store: Store, rule: Literal["store", "published"]) -> list[int]:
    """Return the fold of every series of `store` by a rule, -1 in split "test": see `RunConfig.folds`."""
    return _published_folds(store) if rule == "published" else [span.fold for span in store.series]


def training_slices(store: Store, training: Sequence[int], *, n: int) -> tuple[list[int], Rows]:
    """Return the first `n` labelled slices, by image id, of the series at `training`: positions of series, store rows.

    The published solution scores a thousand slices where it holds nothing out. Source: darraghdog/rsna, trainorig.py.
    """
    spans = [store.series[position] for position in training]
    rows = rows_of(spans)
    rows = rows[scorable(store.labels[rows].astype(np.float64))[0]]
    rows = np.sort(rows[np.argsort(store.index["image_id"][rows].astype(str), kind="stable")][:n])
    firsts = [span.first_row for span in spans]
    holding = np.unique(np.searchsorted(firsts, rows, side="right") - 1)
    return [training[i] for i in holding], rows


def _published_folds(store: Store) -> list[int]:
    """The fold of every series by the published rule, over the labelled images of split "train"; -1 in "test"."""
    rows = np.flatnonzero(~np.isnan(store.labels).all(axis=1) & (store.index["split"] == "train"))
    image_ids, patient_ids = (store.index[name][rows].tolist() for name in ("image_id", "patient_id"))
    fold_of = dict(zip(patient_ids, published_folds(image_ids, patient_ids).tolist(), strict=True))
    return [fold_of[span.patient_id] if span.split == "train" else -1 for span in store.series]
