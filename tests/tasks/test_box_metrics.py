"""Scores of boxes by hand, against a plain twin that paints and counts, and on the labels of a competition."""

import math

import numpy as np
import pytest
from real_tables import read_rows

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tasks.boxes import ImageBoxes, make_boxes, placed
from rsna_e2e.tasks.metrics.boxes import (
    PRECISION_IOU,
    box_average_precision,
    box_precision,
    finds,
    froc,
    iou,
    median_boxes,
    union_iou,
)

CLOSE = {"rtol": 0, "atol": 1e-12}  # float64, sums in another order
Box = tuple[float, float, float, float]
ROUND = [Box((0, 0, 10, 10))]


def boxes(*of_images: list[Box], scores: list[list[float]] | None = None) -> ImageBoxes:
    """Boxes by image, without scores from the highest down."""
    counts = [len(one) for one in of_images]
    given = scores or [list(np.linspace(0.9, 0.1, n)) for n in counts]
    return ImageBoxes(
        edges=np.array([box for one in of_images for box in one], dtype=np.float64).reshape(-1, 4),
        images=np.repeat(np.arange(len(of_images)), counts),
        classes=np.zeros(sum(counts), dtype=np.int64),
        scores=np.array([score for one in given for score in one], dtype=np.float64),
    )


def test_thresholds_are_those_of_the_competition() -> None:
    assert PRECISION_IOU == (0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75)


def test_iou_by_hand() -> None:
    found = iou(
        np.array([[0.0, 0, 2, 2], [1, 1, 1, 1]]), np.array([[1.0, 1, 3, 3], [0, 0, 2, 1], [5, 5, 6, 6], [1, 1, 1, 1]])
    )
    np.testing.assert_allclose(found, [[1 / 7, 1 / 2, 0, 0], [0, 0, 0, 0]], **CLOSE)


@pytest.mark.parametrize(
    ("true", "predicted", "expected"),
    [
        (ROUND, ROUND, 1.0),
        ([], [], math.nan),  # left out
        ([], ROUND, 0.0),
        (ROUND, [], 0.0),
        (ROUND, [(0, 0, 10, 6)], 4 / 8),  # IoU 0.6: above 0.40 to 0.55, and not above 0.60
        (ROUND, [(0, 0, 10, 5)], 2 / 8),  # IoU 0.5 is not above 0.5
        (ROUND, [*ROUND, (0, 0, 10, 9)], 1 / 2),  # the second finds nothing that is left: one true, one false positive
        ([*ROUND, (20, 0, 30, 10)], [*ROUND, (50, 0, 60, 10)], 1 / 3),  # 1 / (1 + 1 + 1) at every threshold
        # The first, of the higher score, takes what the second fits better: IoU 0.8, so nothing is left for the second
        (ROUND, [(0, 0, 10, 8), (0, 0, 10, 10)], 1 / 2),
        # Of two true boxes, each takes that which it overlaps most: 100 / 120 and 100 / 110
        ([(0, 0, 10, 10), (2, 0, 12, 10)], [(0, 0, 12, 10), (2, 0, 13, 10)], 1.0),
    ],
)
def test_precision_of_an_image_by_hand(true: list[Box], predicted: list[Box], expected: float) -> None:
    (found,) = box_precision(boxes(true), boxes(predicted), 1)
    assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_boxes_count_from_the_highest_score_whatever_their_order() -> None:
    """At IoU above 0.6 the box of the higher score finds nothing, at most the other does, wherever it stands."""
    better, worse = (0.0, 0.0, 10.0, 10.0), (0.0, 0.0, 10.0, 6.0)
    for scores, expected in (([0.9, 0.1], [1, 0]), ([0.1, 0.9], [0, 1])):
        given = boxes([better, worse], scores=[scores])
        assert finds(boxes(ROUND), given, 1, threshold=0.5).tolist() == expected


@pytest.mark.parametrize(("scores", "expected"), [([0.9, 0.1], (2 + 6 / 3) / 8), ([0.1, 0.9], (5 + 3 / 3) / 8)])
def test_precision_of_an_image_depends_on_the_scores(scores: list[float], expected: float) -> None:
    """The first box has IoU 0.8 and 0.625 with the true ones, the second 1 and 0.5. If the first comes first, it takes
    the larger, and the second finds the smaller only at 0.40 and 0.45; else both find one up to 0.60."""
    truth, found = [(0.0, 0.0, 10.0, 10.0), (0.0, 0.0, 10.0, 5.0)], [(0.0, 0.0, 10.0, 8.0), (0.0, 0.0, 10.0, 10.0)]
    assert box_precision(boxes(truth), boxes(found, scores=[scores]), 1) == pytest.approx([expected], abs=1e-12)


def test_images_stay_apart() -> None:
    """The boxes of one image find nothing in another, and images are scored by themselves."""
    truth, predicted = boxes(ROUND, [], ROUND, []), boxes([], ROUND, ROUND, [])
    np.testing.assert_array_equal(box_precision(truth, predicted, 4), [0, 0, 1, np.nan])
    np.testing.assert_array_equal(union_iou(truth, predicted, 4), [0, 0, 1, 1])


@pytest.mark.parametrize(
    ("true", "predicted", "expected"),
    [
        ([(0, 0, 10, 10), (5, 0, 15, 10)], [(0, 0, 15, 10)], 1.0),  # overlapping boxes cover their area once
        ([(0, 0, 10, 10)], [(5, 5, 15, 15), (0, 0, 1, 1)], 26 / 175),
        ([], [(5, 5, 5, 15)], 1.0),  # a box without area covers nothing
        ([], [(5, 5, 6, 15)], 0.0),
    ],
)
def test_covered_areas_by_hand(true: list[Box], predicted: list[Box], expected: float) -> None:
    assert union_iou(boxes(true), boxes(predicted), 1) == pytest.approx([expected], abs=1e-12)


def test_froc_and_average_precision_by_hand() -> None:
    """Two images, four true boxes; by falling score: found, missed, found and missed at one score."""
    found, scores = np.array([1.0, 0, 1, 0]), np.array([0.9, 0.8, 0.5, 0.5])
    curve = froc(found, scores, n_true=4, n_images=2)
    np.testing.assert_allclose(curve.thresholds, [np.inf, 0.9, 0.8, 0.5], **CLOSE)
    np.testing.assert_allclose(curve.false_positives, [0, 0, 0.5, 1], **CLOSE)
    np.testing.assert_allclose(curve.sensitivity, [0, 0.25, 0.25, 0.5], **CLOSE)
    # Precision 1 where the share found rises by 1/4, then 2/4 where it rises by 1/4 again
    assert box_average_precision(found, scores, n_true=4) == pytest.approx(1 / 4 + 2 / 4 / 4, abs=1e-12)
    assert math.isnan(box_average_precision(found, scores, n_true=0))


def made_up(seed: int) -> tuple[ImageBoxes, ImageBoxes]:
    """Whole pixels on a small image, so that boxes overlap; scores with ties between images, none in one."""
    rng = np.random.default_rng(seed)

    def of_image(n: int) -> list[Box]:
        low = rng.integers(0, 12, (n, 2))
        return [
            (float(x), float(y), float(x + w), float(y + h))
            for (x, y), (w, h) in zip(low, rng.integers(1, 10, (n, 2)), strict=True)
        ]

    images = [(of_image(int(rng.integers(0, 4))), of_image(int(rng.integers(0, 4)))) for _ in range(500)]
    scores = [rng.permutation(10)[: len(found)] / 10 for _, found in images]
    return boxes(*(true for true, _ in images)), boxes(
        *(found for _, found in images), scores=[s.tolist() for s in scores]
    )


def painted(edges: Float64Array) -> Float64Array:
    image = np.zeros((32, 32))
    for x0, y0, x1, y1 in edges.astype(int):
        image[y0:y1, x0:x1] = 1
    return image


def painted_iou(one: Float64Array, other: Float64Array) -> float:
    a, b = painted(one), painted(other)
    return float((a * b).sum() / np.maximum(a, b).sum())


def plain_hits(true: Float64Array, found: list[Float64Array], threshold: float) -> list[bool]:
    left, hits = list(true), []
    for box in found:
        best = max(range(len(left)), key=lambda i: painted_iou(left[i][None], box[None]), default=None)
        hits.append(best is not None and painted_iou(left[best][None], box[None]) > threshold)
        if hits[-1]:
            left.pop(best)
    return hits


def test_against_a_plain_twin_on_500_images() -> None:
    truth, predicted = made_up(3)
    precision, area, found = (
        box_precision(truth, predicted, 500),
        union_iou(truth, predicted, 500),
        finds(truth, predicted, 500),
    )
    assert np.isnan(precision).sum() > 10
    for image in range(500):
        true, rows = truth.edges[truth.images == image], np.flatnonzero(predicted.images == image)
        rows = np.array(sorted(rows, key=lambda row: -predicted.scores[row]), dtype=np.int64)
        by_score = list(predicted.edges[rows])
        hits = [sum(plain_hits(true, by_score, t)) for t in PRECISION_IOU] if len(true) + len(rows) else []
        expected = np.mean([n / (len(true) + len(rows) - n) for n in hits]) if hits else np.nan
        assert precision[image] == pytest.approx(expected, abs=1e-12, nan_ok=True)
        assert found[rows].tolist() == plain_hits(true, by_score, 0.5)
        covered = painted_iou(true, predicted.edges[rows]) if len(true) + len(rows) else 1.0
        assert area[image] == pytest.approx(covered, abs=1e-12)


@pytest.mark.needs_xrays
def test_what_is_known_of_the_labels_of_the_competition() -> None:
    """Empty submission and two median boxes on every image, as they were worked out with other code."""
    rows = read_rows()
    image_of = {name: number for number, name in enumerate(sorted({row["patientId"] for row in rows}))}
    with_box = [row for row in rows if row["Target"] == "1"]
    places = [[float(row[name]) for name in ("x", "y", "width", "height")] for row in with_box]
    truth = make_boxes([image_of[row["patientId"]] for row in with_box], places)
    n = len(image_of)
    assert (n, len(truth.images), len(set(truth.images.tolist()))) == (26684, 9555, 6012)
    medians = median_boxes(truth.edges)
    np.testing.assert_array_equal(placed(medians), [[213, 374, 212, 282.5], [599, 356, 224, 318]])
    assert np.nanmean(box_precision(truth, boxes([]), n)) == 0.0
    on_every = make_boxes(np.repeat(np.arange(n), 2), np.tile(placed(medians), (n, 1)), np.tile([0.9, 0.8], n))
    assert round(float(np.nanmean(box_precision(truth, on_every, n))), 4) == 0.0180
