"""The order of slices in the label file, by which published solutions divide and order their data."""

from collections.abc import Sequence

import numpy as np

from rsna_e2e.core.records import Rows
from rsna_e2e.store import Store

CSV_ROW = "csv_row"  # of the index: the row of the label file that first names a slice, -1 where none does


def label_file_places(store: Store) -> Rows:
    """Return the rank of each slice [N] in the label file; those that it does not name come last, by image id.

    A store that does not know the order of its label file has that of the store.
    """
    place_N: Rows = np.arange(len(store), dtype=np.int64)
    if CSV_ROW in store.index:
        row_N = store.index[CSV_ROW].astype(np.int64)
        order_N = np.lexsort((store.index["image_id"].astype(str), row_N, row_N < 0))
        place_N[order_N] = np.arange(len(store))
    return place_N


def in_label_file_order(store: Store, rows: Sequence[int]) -> list[int]:
    """Return these rows of the store in the order of the label file."""
    place_N = label_file_places(store)
    return sorted(rows, key=place_N.__getitem__)
