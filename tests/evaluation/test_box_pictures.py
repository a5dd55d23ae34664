"""Pictures with boxes over them: places worked out by hand, truth dashed, predictions with their scores."""

import base64
import io
import xml.etree.ElementTree as ET

import matplotlib.image
import numpy as np
import pytest

from rsna_e2e.evaluation.report.boxes import picture_with_boxes, with_boxes_drawn
from rsna_e2e.evaluation.report.thumbnails import fitted

SVG = "{http://www.w3.org/2000/svg}"
PICTURE = np.tile(np.linspace(0, 1, 200, dtype=np.float32), (200, 1))
TO_IMAGE = fitted(60, 100, side=200)  # 100 wide, 60 high: two pixels of the picture for each, 40 empty rows above


def drawn(**boxes: np.ndarray) -> ET.Element:
    uri = picture_with_boxes(PICTURE, TO_IMAGE, **boxes)
    head, content = uri.split(",", 1)
    assert head == "data:image/svg+xml;base64"
    return ET.fromstring(base64.b64decode(content))


def rectangles(svg: ET.Element, kind: str) -> list[list[float]]:
    found = [one for one in svg.iter(f"{SVG}rect") if one.get("class") == kind]
    return [[float(one.get(name, "nan")) for name in ("x", "y", "width", "height")] for one in found]


def test_boxes_lie_where_they_do_in_the_image() -> None:
    truth = np.array([[-0.5, -0.5, 99.5, 59.5], [9.5, 19.5, 10.5, 21.5]])  # the whole image, and two of its pixels
    svg = drawn(truth=truth, predicted=np.array([[49.5, -0.5, 99.5, 29.5]]), scores=np.array([0.876]))
    assert rectangles(svg, "truth") == [[0, 40, 200, 120], [20, 80, 2, 4]]
    assert rectangles(svg, "predicted") == [[100, 40, 100, 60]]
    (score,) = svg.iter(f"{SVG}text")
    assert score.text == "0.88"
    assert (float(score.get("x", "nan")), float(score.get("y", "nan"))) == (102, 37)


def test_truth_alone_is_dashed() -> None:
    (style,) = drawn().iter(f"{SVG}style")
    rules = dict(rule.split("{") for rule in (style.text or "").split("}") if rule)
    assert [kind for kind, rule in rules.items() if "dash" in rule] == [".truth"]


def test_scores_stay_in_the_picture() -> None:
    high = fitted(100, 60, side=200)
    uri = picture_with_boxes(PICTURE, high, predicted=np.array([[-20.0, -0.5, 9.5, 29.5]]), scores=np.array([0.5]))
    (text,) = ET.fromstring(base64.b64decode(uri.split(",", 1)[1])).iter(f"{SVG}text")
    assert float(text.get("x", "nan")) >= 0
    assert 10 < float(text.get("y", "nan")) < 20  # inside of the box, which begins at the upper edge


def test_every_prediction_has_a_score() -> None:
    with pytest.raises(ValueError, match="zip"):
        drawn(predicted=np.zeros((1, 4)))


def test_the_picture_is_under_the_boxes() -> None:
    (image,) = drawn().iter(f"{SVG}image")
    content = io.BytesIO(base64.b64decode((image.get("href") or "").split(",", 1)[1]))
    shown = matplotlib.image.imread(content, format="jpg")[..., 0] / 255
    np.testing.assert_allclose(shown, PICTURE, rtol=0, atol=0.03)  # JPEG


def test_boxes_are_drawn_in_the_same_places() -> None:
    edges = np.array([[49.5, -0.5, 99.5, 29.5]])  # upper right quarter of the image: 100, 40, 100, 60 of the picture
    drawn_in = with_boxes_drawn(PICTURE, TO_IMAGE, predicted=edges, scores=np.array([0.876]))
    is_changed = np.abs(drawn_in - PICTURE[..., None]).max(axis=2) > 0.1
    assert drawn_in.shape == (200, 200, 3)
    rows, columns = np.flatnonzero(is_changed.sum(axis=1) > 80), np.flatnonzero(is_changed.sum(axis=0) > 50)
    assert {int(rows[0]), int(rows[-1])} <= {39, 40, 99, 100}
    assert {int(columns[0]), int(columns[-1])} <= {99, 100, 199}
    assert not is_changed[45:95, 105:195].any()  # an outline
    assert is_changed[28:38, 102:125].any()  # the score, above it
    assert not is_changed[:24].any()
    assert not is_changed[103:].any()
    np.testing.assert_allclose(
        with_boxes_drawn(PICTURE, TO_IMAGE, predicted=np.empty((0, 4)), scores=np.empty(0)),
        np.repeat(PICTURE[..., None], 3, axis=2),
        atol=2 / 255,  # 256 colours, 256 values
    )
