"""Scores of predicted boxes: precision as RSNA Pneumonia 2018 had it, overlap of areas, FROC points, and AP.

All boxes are of one class, and true boxes have an area.
"""

# N images, K true boxes, P predicted boxes, T thresholds, G distinct scores

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tasks.boxes import ImageBoxes
from rsna_e2e.tasks.metrics.curves import Int64Array

# 0.40, 0.45 ... 0.75, of the page "Evaluation" of kaggle.com/competitions/rsna-pneumonia-detection-challenge
PRECISION_IOU: tuple[float, ...] = tuple(step / 20 for step in range(8, 16))
FOUND_IOU = 0.5  # of FROC and AP, as of PASCAL VOC (M. Everingham et al., IJCV 2010): a box is found above it


@dataclass(frozen=True, slots=True, kw_only=True)
class FrocCurve:
    """Points [G + 1] from the highest score down; the first is that of no box. thresholds: boxes of at least this score
    count (first: infinity). false_positives: boxes that find nothing, for each image, on average; sensitivity: the
    share of true boxes that are found. Source: P. C. Bunch et al., Proc. SPIE 127, 1977."""

    thresholds: Float64Array
    false_positives: Float64Array
    sensitivity: Float64Array


def iou(edges_K4: Float64Array, edges_P4: Float64Array) -> Float64Array:
    """Area of intersection over that of union, [K, P]; 0 of two boxes without area."""
    low = np.maximum(edges_K4[:, None, :2], edges_P4[None, :, :2])
    high = np.minimum(edges_K4[:, None, 2:], edges_P4[None, :, 2:])
    both_KP: Float64Array = (high - low).clip(min=0).prod(axis=2)
    union_KP = _areas(edges_K4)[:, None] + _areas(edges_P4)[None] - both_KP
    return both_KP / np.where(union_KP > 0, union_KP, 1.0)


def box_precision(
    truth: ImageBoxes, predicted: ImageBoxes, n_images: int, *, thresholds: tuple[float, ...] = PRECISION_IOU
) -> Float64Array:
    """Return the precision of each image [N]; its mean over the images that are not NaN is the competition's score.

    It is the mean over thresholds of TP / (TP + FP + FN): by falling score, a predicted box finds the true box that it
    overlaps most of those not found yet, if their IoU is above the threshold. 0 where nothing is true and anything is
    predicted; NaN, so left out, where neither is. Source: see `PRECISION_IOU`.
    """
    n_true_N = np.bincount(truth.images, minlength=n_images)
    n_predicted_N = np.bincount(predicted.images, minlength=n_images)
    precision_N = np.where(n_true_N + n_predicted_N > 0, 0.0, np.nan)
    for image, iou_KP in _overlaps(truth, predicted.at(_by_falling_score(predicted)), n_images):
        n = sum(iou_KP.shape)
        found = [np.count_nonzero(_finds(iou_KP, threshold)) for threshold in thresholds]
        precision_N[image] = np.mean([n_found / (n - n_found) for n_found in found])
    return precision_N


def mean_box_precision(
    truth: ImageBoxes, predicted: ImageBoxes, n_images: int, *, thresholds: tuple[float, ...] = PRECISION_IOU
) -> float:
    """Return the competition's score, see `box_precision`; NaN where no image counts."""
    precision_N = box_precision(truth, predicted, n_images, thresholds=thresholds)
    scored_N = precision_N[~np.isnan(precision_N)]
    return float(scored_N.mean()) if len(scored_N) else float("nan")


def highest_scores(predicted: ImageBoxes, n_images: int) -> Float64Array:
    """Return the highest score of the boxes of each image [N]; 0 where it has none."""
    highest_N = np.zeros(n_images)
    np.maximum.at(highest_N, predicted.images, predicted.scores)
    return highest_N


def union_iou(truth: ImageBoxes, predicted: ImageBoxes, n_images: int) -> Float64Array:
    """Return of each image [N] the IoU of the area that true boxes cover together and that of the predicted; 1 where
    there are neither. Source: the "mean IoU" of EC601's pneumonia project."""
    has_true_N, has_predicted_N = (
        np.bincount(boxes.images[_areas(boxes.edges) > 0], minlength=n_images) > 0 for boxes in (truth, predicted)
    )
    iou_N = np.where(has_true_N | has_predicted_N, 0.0, 1.0)
    for image, true_K4, predicted_P4 in _of_both(truth, predicted, n_images):
        both = np.concatenate([true_K4, predicted_P4])
        x, y = np.unique(both[:, ::2]), np.unique(both[:, 1::2])
        true, found = _covered(true_K4, x, y), _covered(predicted_P4, x, y)
        cells = np.outer(np.diff(y), np.diff(x))
        if has_true_N[image] or has_predicted_N[image]:
            iou_N[image] = cells[true & found].sum() / cells[true | found].sum()
    return iou_N


def finds(truth: ImageBoxes, predicted: ImageBoxes, n_images: int, *, threshold: float = FOUND_IOU) -> Float64Array:
    """Return which predicted boxes find a true one, 1 or 0 [P], in their order; how, `box_precision` says."""
    order = _by_falling_score(predicted)
    ordered, found_P = predicted.at(order), np.zeros(len(order))
    starts = np.searchsorted(ordered.images, np.arange(n_images))
    for image, iou_KP in _overlaps(truth, ordered, n_images):
        found_P[order[starts[image] :][: iou_KP.shape[1]]] = _finds(iou_KP, threshold)
    return found_P


def froc(found_P: Float64Array, score_P: Float64Array, *, n_true: int, n_images: int) -> FrocCurve:
    """Free-response ROC curve of boxes that find a true one or do not, of `finds`; NaN sensitivity without true boxes.

    n_true, n_images: how many boxes and images there are in truth.
    """
    thresholds_G, found_G, missed_G = _by_score(found_P, score_P)
    with np.errstate(invalid="ignore"):
        return FrocCurve(
            thresholds=np.append(np.inf, thresholds_G),
            false_positives=np.append(0.0, np.cumsum(missed_G)) / n_images,
            sensitivity=np.append(0.0, np.cumsum(found_G)) / np.float64(n_true),
        )


def box_average_precision(found_P: Float64Array, score_P: Float64Array, *, n_true: int) -> float:
    """Sum over distinct scores, from the highest, of precision times the rise in the share of true boxes found, which
    is not interpolated; NaN without true boxes."""
    _, found_G, missed_G = _by_score(found_P, score_P)
    precision_G = np.cumsum(found_G) / np.cumsum(found_G + missed_G)
    return float(precision_G @ found_G / n_true) if n_true else float("nan")


def median_boxes(edges_K4: Float64Array) -> Float64Array:
    """Return one box each, [1 or 2, 4], for those left and right of the middle of all that boxes cover: the median of
    their upper left corners and sizes. On every image they are what no knowledge of the image is needed for."""
    if not len(edges_K4):
        return edges_K4
    middle = (edges_K4[:, 0].min() + edges_K4[:, 2].max()) / 2
    is_left_K = edges_K4[:, [0, 2]].mean(axis=1) < middle
    sides = [edges_K4[is_left_K], edges_K4[~is_left_K]]
    placed = [np.median(np.hstack([side[:, :2], side[:, 2:] - side[:, :2]]), axis=0) for side in sides if len(side)]
    corners = np.array(placed)
    return np.hstack([corners[:, :2], corners[:, :2] + corners[:, 2:]])


def _by_falling_score(boxes: ImageBoxes) -> Int64Array:
    """Return the rows of boxes image by image, those of one by falling score; of equal ones the first comes first."""
    return np.lexsort((-boxes.scores, boxes.images))


def _areas(edges_K4: Float64Array) -> Float64Array:
    areas: Float64Array = (edges_K4[:, 2:] - edges_K4[:, :2]).clip(min=0).prod(axis=1)
    return areas


def _of_both(
    truth: ImageBoxes, predicted: ImageBoxes, n_images: int
) -> Iterator[tuple[int, Float64Array, Float64Array]]:
    """Yield each image that has boxes of both, with the edges of these, in their order."""
    parts = []
    for boxes in (truth, predicted):
        order = np.argsort(boxes.images, kind="stable")
        starts = np.searchsorted(boxes.images[order], np.arange(n_images + 1))
        parts.append((boxes.edges[order], starts))
    (true, starts), (found, found_starts) = parts
    for image in np.flatnonzero((np.diff(starts) > 0) & (np.diff(found_starts) > 0)).tolist():
        rows, found_rows = (slice(*at[image : image + 2]) for at in (starts, found_starts))
        yield image, true[rows], found[found_rows]


def _overlaps(truth: ImageBoxes, predicted: ImageBoxes, n_images: int) -> Iterator[tuple[int, Float64Array]]:
    for image, true_K4, predicted_P4 in _of_both(truth, predicted, n_images):
        yield image, iou(true_K4, predicted_P4)


def _finds(iou_KP: Float64Array, threshold: float) -> npt.NDArray[np.bool_]:
    """Return which predicted boxes of an image find a true one, [P]; they come by falling score."""
    free_KP, found_P = iou_KP.copy(), np.zeros(iou_KP.shape[1], dtype=bool)
    for predicted in range(iou_KP.shape[1]):
        true = int(free_KP[:, predicted].argmax())
        if free_KP[true, predicted] > threshold:
            found_P[predicted] = True
            free_KP[true] = -1.0
    return found_P


def _covered(edges_K4: Float64Array, x: Float64Array, y: Float64Array) -> npt.NDArray[np.bool_]:
    """Return which cells [rows, columns] between the lines x and y any of the boxes covers, whose edges these are."""
    inside_x = (edges_K4[:, None, 0] <= x[:-1]) & (x[1:] <= edges_K4[:, None, 2])
    inside_y = (edges_K4[:, None, 1] <= y[:-1]) & (y[1:] <= edges_K4[:, None, 3])
    return np.asarray((inside_y[:, :, None] & inside_x[:, None, :]).any(axis=0))


def _by_score(found_P: Float64Array, score_P: Float64Array) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Return distinct scores from the highest down, and how many boxes of each find something, and nothing, [G]."""
    negated_G, group_P = np.unique(-score_P, return_inverse=True)
    found_G, missed_G = (
        np.bincount(group_P, weights=part, minlength=len(negated_G)).astype(np.float64)
        for part in (found_P, 1 - found_P)
    )
    return -np.asarray(negated_G), found_G, missed_G
