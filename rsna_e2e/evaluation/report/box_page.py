"""Report of an evaluation of boxes: one self-contained HTML page, and its numbers as JSON beside it."""

# N images

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.files import as_json
from rsna_e2e.core.records import Float64Array
from rsna_e2e.evaluation.boxes import BoxEvaluation
from rsna_e2e.evaluation.report.box_figures import box_figure
from rsna_e2e.evaluation.report.examples import series_name
from rsna_e2e.evaluation.report.pages import check_folder, render, write_texts
from rsna_e2e.evaluation.series_layout import rows_by_image
from rsna_e2e.store import Store
from rsna_e2e.tasks.catalogue import is_of_package
from rsna_e2e.tasks.metrics.boxes import highest_scores
from rsna_e2e.tasks.windows import sharpest_window

_SIDE = 384  # of a picture
_N_EXAMPLES = 4  # of a kind
_N_DRAWN = 5  # predicted boxes in a picture


def write_box_report(
    evaluation: BoxEvaluation, *, out: Path, store: Store | None = None, title: str = "Evaluation of boxes"
) -> Path:
    """Write `report.html` and `metrics.json` into the folder `out` and return the page's path.

    With the store of the predicted images the page shows examples of them. Files of these names are replaced, each
    whole or not at all. Raises BadInputError when `out` cannot be a folder or the store lacks an image.
    """
    check_folder(out, example="report.html and metrics.json")
    content = evaluation.to_dict()
    page = render(
        "boxes.html.j2",
        content,
        unknown="undefined: no image, or one class only",
        title=title,
        left_out=evaluation.left_out,
        is_competition=is_of_package(evaluation.task),
        figure=box_figure(evaluation),
        n_reached=sum(at <= evaluation.curve.false_positives[-1] for at in evaluation.sensitivity),
        n_examples=_N_EXAMPLES,
        n_drawn=_N_DRAWN,
        examples=[] if store is None else _examples(evaluation, store),
    )
    (out / "metrics.csv").unlink(missing_ok=True)  # of labels that were evaluated into this folder before
    write_texts(out, {"metrics.json": as_json(content, indent=2) + "\n", "report.html": page})
    return out / "report.html"


def choose_images(evaluation: BoxEvaluation) -> dict[str, list[int]]:
    """Return the images to show, by their places, of each kind that there is, by the rule on the page."""
    n, true, predicted = len(evaluation.image_ids), evaluation.true, evaluation.predicted
    has_true_N, has_predicted_N = (np.bincount(boxes.images, minlength=n) > 0 for boxes in (true, predicted))
    finds_N = np.bincount(predicted.images, weights=evaluation.found, minlength=n) > 0
    area_N = np.bincount(true.images, weights=(true.edges[:, 2:] - true.edges[:, :2]).prod(axis=1), minlength=n)
    kinds = {
        "found": _highest(evaluation.image_iou, finds_N),
        "missed": _highest(area_N.astype(np.float64), has_true_N & ~finds_N),
        "falsely marked": _highest(highest_scores(predicted, n), has_predicted_N & ~has_true_N),
    }
    return {kind: images for kind, images in kinds.items() if images}


def _highest(value_N: Float64Array, is_member_N: npt.NDArray[np.bool_]) -> list[int]:
    members = np.flatnonzero(is_member_N)
    return [int(image) for image in members[np.argsort(-value_N[members], kind="stable")][:_N_EXAMPLES]]


def _examples(evaluation: BoxEvaluation, store: Store) -> list[dict[str, Any]]:
    """Return the kinds of images with their pictures."""
    rows = rows_by_image(store, evaluation.image_ids)
    return [
        {"kind": kind, "images": [_picture(evaluation, store, image, int(rows[image])) for image in images]}
        for kind, images in choose_images(evaluation).items()
    ]


def _picture(evaluation: BoxEvaluation, store: Store, image: int, row: int) -> dict[str, Any]:
    # loads torch, which a page without images does without
    from rsna_e2e.evaluation.report.boxes import picture_with_boxes
    from rsna_e2e.evaluation.report.thumbnails import fitted, windowed
    from rsna_e2e.loader.present import shown_slice

    true, predicted = (boxes.at(boxes.images == image) for boxes in (evaluation.true, evaluation.predicted))
    drawn = predicted.at(np.argsort(-predicted.scores, kind="stable")[:_N_DRAWN])
    values = shown_slice(store, row)
    picture = windowed(values, [sharpest_window(evaluation.task)[1]], side=_SIDE)[0]
    return {
        "name": series_name(str(store.index["series_key"][row])),
        "uri": picture_with_boxes(
            picture, fitted(*values.shape, side=_SIDE), truth=true.edges, predicted=drawn.edges, scores=drawn.scores
        ),
        "view": str(store.index["view"][row]) if "view" in store.index else "",
        "n_true": len(true),
        "n_predicted": len(predicted),
        "iou": float(evaluation.image_iou[image]),
    }
