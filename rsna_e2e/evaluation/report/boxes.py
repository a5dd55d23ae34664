"""Pictures with boxes over them: dashed what is true, solid with its score what is predicted."""

# K boxes, S side of a picture

import io

import matplotlib as mpl
import matplotlib.image
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from rsna_e2e.core.colours import COLOURS
from rsna_e2e.core.records import Float32Array, Float64Array
from rsna_e2e.evaluation.report.theme import data_uri
from rsna_e2e.evaluation.report.thumbnails import jpeg

_TRUTH, _PREDICTED = COLOURS["truth"][1], COLOURS["slices"][2]  # both light, as pictures are dark
_NO_BOXES: Float64Array = np.empty((0, 4))
_NO_SCORES: Float64Array = np.empty(0)
_TEXT_PX = 11
_LINE_PX = 1.6
_OUTLINE_PX = 2.5  # of text, in black
_STYLE = (
    f"rect{{fill:none;stroke-width:{_LINE_PX}}}"
    f".truth{{stroke:{_TRUTH};stroke-dasharray:5 3}}"
    f".predicted{{stroke:{_PREDICTED}}}"
    f"text{{font:600 {_TEXT_PX}px system-ui,sans-serif;fill:{_PREDICTED};"
    f"stroke:#000;stroke-width:{_OUTLINE_PX};paint-order:stroke}}"
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


def with_boxes_drawn(
    picture: Float32Array, to_image_23: Float32Array, *, predicted: Float64Array, scores: Float64Array
) -> Float32Array:
    """Return a picture [S, S] with predicted boxes and their scores drawn into it, [S, S, 3]: `picture_with_boxes` in
    pixels, for files of PNG."""
    side = len(picture)
    with mpl.rc_context():
        mpl.rcdefaults()  # equal pictures on every machine
        figure = Figure(figsize=(1, 1), dpi=side)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.imshow(picture, cmap="gray", vmin=0, vmax=1, extent=(0, side, side, 0), interpolation="nearest")
        points = 72 / side  # of one pixel
        for corners, score in zip(_on_picture(predicted, to_image_23), scores.tolist(), strict=True):
            width, height = (corners[1] - corners[0]).tolist()
            axes.add_patch(
                Rectangle(corners[0], width, height, fill=False, edgecolor=_PREDICTED, linewidth=_LINE_PX * points)
            )
            axes.text(
                *_place_of_score(corners),
                f"{score:.2f}",
                color=_PREDICTED,
                fontsize=_TEXT_PX * points,
                fontweight="bold",
                path_effects=[withStroke(linewidth=_OUTLINE_PX * points, foreground="black")],
            )
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=side)
    drawn: Float32Array = matplotlib.image.imread(io.BytesIO(buffer.getvalue()))[..., :3]
    return drawn


def _on_picture(edges_K4: Float64Array, to_image_23: Float32Array) -> Float64Array:
    """Corners [K, 2, 2] of boxes in px of the picture, from its upper left corner on."""
    to_picture = np.linalg.inv(np.vstack([to_image_23.astype(np.float64), [0, 0, 1]]))
    corners: Float64Array = edges_K4.reshape(-1, 2, 2) @ to_picture[:2, :2].T + to_picture[:2, 2] + 0.5
    return corners


def _rectangle(corners: Float64Array, kind: str) -> str:
    (x, y), (width, height) = corners[0], corners[1] - corners[0]
    return f'<rect class="{kind}" x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}"/>'


def _score(corners: Float64Array, score: float) -> str:
    x, y = _place_of_score(corners)
    return f'<text x="{x:.2f}" y="{y:.2f}">{score:.2f}</text>'


def _place_of_score(corners: Float64Array) -> tuple[float, float]:
    """Return where the text of a box begins, and its base line: above it; in it where there is no room above."""
    (x, y), _ = corners.tolist()
    return max(x, 0) + 2, y + (-3 if y > _TEXT_PX + 3 else _TEXT_PX + 1)
