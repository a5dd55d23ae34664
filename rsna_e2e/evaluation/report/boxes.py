"""Pictures with boxes over them: dashed what is true, solid with its score what is predicted."""

# K boxes

import numpy as np

from rsna_e2e.core.colours import COLOURS
from rsna_e2e.core.records import Float32Array, Float64Array
from rsna_e2e.evaluation.report.theme import data_uri
from rsna_e2e.evaluation.report.thumbnails import jpeg

_TRUTH, _PREDICTED = COLOURS["truth"][1], COLOURS["slices"][2]  # both light, as pictures are dark
_NO_BOXES: Float64Array = np.empty((0, 4))
_NO_SCORES: Float64Array = np.empty(0)
_TEXT_PX = 11
_STYLE = (
    "rect{fill:none;stroke-width:1.6}"
    f".truth{{stroke:{_TRUTH};stroke-dasharray:5 3}}"
    f".predicted{{stroke:{_PREDICTED}}}"
    f"text{{font:600 {_TEXT_PX}px system-ui,sans-serif;fill:{_PREDICTED};"
    "stroke:#000;stroke-width:2.5;paint-order:stroke}"
)


def picture_with_boxes(
    picture: Float32Array,
    to_image_23: Float32Array,
    *,
    truth: Float64Array = _NO_BOXES,
    predicted: Float64Array = _NO_BOXES,
    scores: Float64Array = _NO_SCORES,
) -> str:
    """Return a square picture [S, S] of values in [0, 1] with boxes over it, as an SVG data URI.

    to_image_23: the matrix from a pixel of the picture to one of the image, as `fitted` gives it. truth, predicted:
    edges [K, 4], x0 y0 x1 y1, in px of the image, whose first pixel has its centre at 0; scores [K]: of predicted.
    """
    side = len(picture)
    image = data_uri("image/jpeg", jpeg(picture))
    shapes = [_rectangle(box, "truth") for box in _on_picture(truth, to_image_23)]
    of_predicted = _on_picture(predicted, to_image_23)
    shapes += [_rectangle(box, "predicted") for box in of_predicted]
    shapes += [_score(box, score) for box, score in zip(of_predicted, scores.tolist(), strict=True)]
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {side} {side}"><style>{_STYLE}</style>'
        f'<image width="{side}" height="{side}" href="{image}"/>{"".join(shapes)}</svg>'
    )
    return data_uri("image/svg+xml", svg.encode())


def _on_picture(edges_K4: Float64Array, to_image_23: Float32Array) -> Float64Array:
    """Corners [K, 2, 2] of boxes in px of the picture, from its upper left corner on."""
    to_picture = np.linalg.inv(np.vstack([to_image_23.astype(np.float64), [0, 0, 1]]))
    corners: Float64Array = edges_K4.reshape(-1, 2, 2) @ to_picture[:2, :2].T + to_picture[:2, 2] + 0.5
    return corners


def _rectangle(corners: Float64Array, kind: str) -> str:
    (x, y), (width, height) = corners[0], corners[1] - corners[0]
    return f'<rect class="{kind}" x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}"/>'


def _score(corners: Float64Array, score: float) -> str:
    """Text above a box; in it where there is no room above."""
    (x, y), _ = corners
    y += -3 if y > _TEXT_PX + 3 else _TEXT_PX + 1
    return f'<text x="{max(x, 0) + 2:.2f}" y="{y:.2f}">{score:.2f}</text>'
