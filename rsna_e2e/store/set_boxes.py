"""The boxes of a label set: its table, and which slices it says all of."""

# N slices, K boxes, C classes

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.records import Column, Float32Array
from rsna_e2e.store.layout import BOX_COLUMNS, EDGES
from rsna_e2e.store.tables import read_table
from rsna_e2e.tasks.boxes import HALF_PX, ImageBoxes


def as_columns(boxes: ImageBoxes) -> dict[str, Column]:
    """Return boxes of slices, by their row, as the columns of a table, in the order of the rows."""
    ordered = boxes.at(np.argsort(boxes.images, kind="stable"))
    return {
        "row": ordered.images,
        **dict(zip(EDGES, ordered.edges.T.copy(), strict=True)),
        "class": ordered.classes.astype(np.int32),
    }


def read_boxes(path: Path, n_boxes: int, *, way_out: str) -> tuple[ImageBoxes, dict[str, Column]]:
    """Read the table of boxes, which are checked by `wrong_boxes`, and its columns. Raises StoreError for damage."""
    columns = read_table(path, BOX_COLUMNS, n_rows=n_boxes, way_out=way_out)
    boxes = ImageBoxes(
        images=columns["row"],
        edges=np.column_stack([columns[name] for name in EDGES]),
        classes=columns["class"].astype(np.int64),
        scores=np.ones(n_boxes),
    )
    return boxes, columns


def wrong_boxes(boxes: ImageBoxes, labels_NC: Float32Array, index: Mapping[str, Column]) -> str:
    """Return what no table of boxes may hold, with its row, or nothing. labels_NC: of the classes, of all slices."""
    (n, n_classes), edges = labels_NC.shape, boxes.edges
    good = {
        "row": (boxes.images >= 0) & (boxes.images < n) & (np.diff(boxes.images, prepend=0) >= 0),
        "class": (boxes.classes >= 0) & (boxes.classes < n_classes),
    }
    if all(is_good.all() for is_good in good.values()):
        good["edges"] = ~is_outside(boxes, index) & (edges[:, :2] < edges[:, 2:]).all(axis=1)
        good["label of a slice with a box"] = labels_NC[boxes.images, boxes.classes] > 0
    for name, is_good in good.items():
        if not is_good.all():
            return f"impossible {name}, row {int(np.argmin(is_good))}"
    return ""


def is_outside(boxes: ImageBoxes, index: Mapping[str, Column]) -> npt.NDArray[np.bool_]:
    """Return which boxes [K] reach beyond the pixels of their slice, or have edges that are no numbers."""
    sides = np.column_stack([index["columns"], index["rows"]])[boxes.images] - HALF_PX
    is_inside = ((boxes.edges[:, :2] >= -HALF_PX) & (boxes.edges[:, 2:] <= sides)).all(axis=1)
    return np.asarray(~is_inside)
