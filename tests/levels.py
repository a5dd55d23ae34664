"""A store and a task with labels of slices and of whole series, for tests of what does with both."""

import copy

import numpy as np

from rsna_e2e.core.records import Float32Array
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
    other.task_name, other.label_names = PE.name, PE.slices.names
    other.labels = store.labels[:, [ICH.headline_index]]
    other.series_labels = np.stack([_of_series(other, number) for number in range(len(store.series))])
    return other


def _of_series(store: Store, number: int) -> Float32Array:
    labels = store.labels[store.series[number].rows]
    if np.isnan(labels).any():
        return np.full(len(PE.series), np.nan, dtype=np.float32)
    among = _POSITIVE if (labels > 0).any() else _NEGATIVE
    return np.array([name in among[number % len(among)] for name in PE.series.names], dtype=np.float32)
