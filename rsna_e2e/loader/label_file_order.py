"""The order of slices in the label file, by which published solutions divide and order their data."""

from collections.abc import Sequence

import numpy as np

from rsna_e2e.core.records import Rows
from rsna_e2e.store import Store


def label_file_places(store: Store) -> Rows:
    """Return the rank of each slice [N] in the label file; those that it does not name come last, by image id."""
    row_N = store.index["csv_place"]
    place_N: Rows = np.empty(len(store), dtype=np.int64)
    place_N[np.lexsort((store.index["image_id"].astype(str), row_N, row_N < 0))] = np.arange(len(store))
    return place_N


def in_label_file_order(store: Store, rows: Sequence[int]) -> list[int]:
    """Return these rows of the store in the order of the label file."""
    place_N = label_file_places(store)
    return sorted(rows, key=place_N.__getitem__)
