"""Boxes of images: where in an image something is, as its edges in pixels."""

# K boxes, N images, C classes

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.records import Float64Array, Rows

HALF_PX = 0.5  # a pixel's edges lie so far from its centre


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageBoxes:
    """Boxes of numbered images, in whichever order: images [K], their numbers, from 0; edges [K, 4]: x0, y0, x1, y1 in
    px, where whole numbers are the centres of pixels, so that the first pixel of a row has the edges -0.5 and 0.5;
    classes [K]: positions in the boxes of a task; scores [K], all 1 where they are true."""

    images: Rows
    edges: Float64Array
    classes: Rows
    scores: Float64Array

    def __post_init__(self) -> None:
        assert self.edges.shape == (len(self.images), 4)
        assert self.images.shape == self.classes.shape == self.scores.shape

    def __len__(self) -> int:
        return len(self.images)

    def at(self, rows: Rows | npt.NDArray[np.bool_]) -> "ImageBoxes":
        """Return these boxes alone."""
        return ImageBoxes(
            images=self.images[rows], edges=self.edges[rows], classes=self.classes[rows], scores=self.scores[rows]
        )

    def of_images(self, wanted: Rows) -> tuple["ImageBoxes", Rows]:
        """Return the boxes of the images `wanted` [N], which may be there twice, numbered by their place in it and in
        its order; and their rows here. -1 is no image."""
        order = np.argsort(self.images, kind="stable")
        ends = [np.searchsorted(self.images[order], wanted, side) for side in ("left", "right")]
        n_boxes = ends[1] - ends[0]
        first = np.repeat(ends[0] - np.append(0, np.cumsum(n_boxes)[:-1]), n_boxes)
        rows = order[first + np.arange(n_boxes.sum())]
        found = self.at(rows)
        numbers = np.repeat(np.arange(len(wanted)), n_boxes)
        return ImageBoxes(images=numbers, edges=found.edges, classes=found.classes, scores=found.scores), rows


def make_boxes(images: npt.ArrayLike, placed: npt.ArrayLike, scores: npt.ArrayLike | None = None) -> ImageBoxes:
    """Return boxes of one class. images [K]; placed [K, 4]: x and y of the upper left corner, width and height in px,
    the corner of the image being 0, 0, as tables have them; scores [K], 1 by default."""
    numbers = np.asarray(images, dtype=np.int64)
    places = np.asarray(placed, dtype=np.float64).reshape(-1, 4)
    return ImageBoxes(
        images=numbers,
        edges=np.hstack([places[:, :2], places[:, :2] + places[:, 2:]]) - HALF_PX,
        classes=np.zeros(len(numbers), dtype=np.int64),
        scores=np.ones(len(numbers)) if scores is None else np.asarray(scores, dtype=np.float64),
    )


def placed(edges_K4: Float64Array) -> Float64Array:
    """Return x and y of the upper left corner, width and height of boxes [K, 4], as tables have them."""
    return np.hstack([edges_K4[:, :2] + HALF_PX, edges_K4[:, 2:] - edges_K4[:, :2]])


def known_boxes(boxes: ImageBoxes, labels_NC: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    """Return of which images [N] all boxes are known: of each class, the label is 0, or there is a box.

    labels_NC: of the classes, NaN where unknown. An image that has the label and no box has boxes that nobody drew. Of
    a task without boxes, none.
    """
    has_box_NC = np.zeros(labels_NC.shape, dtype=bool)
    has_box_NC[boxes.images, boxes.classes] = True
    return np.asarray(((labels_NC == 0) | has_box_NC).all(axis=1) & (labels_NC.shape[1] > 0))


NO_BOXES = make_boxes([], [])


def joined(parts: Sequence[ImageBoxes]) -> ImageBoxes:
    """Return the boxes of all these, one after the other; at least one of them."""
    return ImageBoxes(
        images=np.concatenate([boxes.images for boxes in parts]),
        edges=np.concatenate([boxes.edges for boxes in parts]),
        classes=np.concatenate([boxes.classes for boxes in parts]),
        scores=np.concatenate([boxes.scores for boxes in parts]),
    )
