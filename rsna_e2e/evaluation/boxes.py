"""Evaluation of boxes: scores a submission of boxes against the truth, beside what needs no image."""

# N images that are scored, P predicted boxes

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import Float64Array, Rows
from rsna_e2e.core.table_files import TableFile, table_at
from rsna_e2e.evaluation.evaluate import N_BOOTSTRAP
from rsna_e2e.evaluation.inputs import truth_files
from rsna_e2e.evaluation.levels import plain
from rsna_e2e.evaluation.pairing import difference
from rsna_e2e.evaluation.resamples import Resamples
from rsna_e2e.evaluation.scores import InputFile, LeftOut
from rsna_e2e.evaluation.series_layout import rows_by_image
from rsna_e2e.evaluation.views import Views, views_of
from rsna_e2e.store import Store
from rsna_e2e.tasks.boxes import NO_BOXES, ImageBoxes, known_boxes, make_boxes, placed
from rsna_e2e.tasks.labels import read_box_submission, read_labels
from rsna_e2e.tasks.metrics import CONFIDENCE, Estimate
from rsna_e2e.tasks.metrics.boxes import (
    FOUND_IOU,
    PRECISION_IOU,
    FrocCurve,
    box_average_precision,
    box_precision,
    finds,
    froc,
    highest_scores,
    mean_box_precision,
    median_boxes,
    union_iou,
)
from rsna_e2e.tasks.task import Task

# False positives for each image at which the sensitivity is told. Source: the LUNA16 challenge, A. A. A. Setio et al.,
# Medical Image Analysis 42, 2017
FALSE_POSITIVES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxFloor:
    """What boxes score that are the same on every image. name: which these are."""

    name: str
    box_precision: float
    union_iou: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxView:
    """Scores of the images of one view, PA or AP. auc: as `BoxEvaluation.image_auc`."""

    view: str
    n_images: int
    n_images_with_boxes: int
    box_precision: Estimate
    auc: Estimate

    def row(self) -> dict[str, Any]:
        """Return what `metrics.json` holds of it."""
        counts = {name: getattr(self, name) for name in ("view", "n_images", "n_images_with_boxes")}
        return counts | {"box_precision": plain(self.box_precision), "image_auc": plain(self.auc)}


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxEvaluation:
    """All numbers of an evaluation of boxes; image_ids [N] are sorted.

    true, predicted: boxes of these images; found [P]: which of the predicted find a true one above `FOUND_IOU`, 1 or 0.
    image_precision [N], NaN where an image does not count, and image_iou [N]: what the scores are means of.

    box_precision: the score of RSNA Pneumonia 2018, a mean over the n_scored images that have boxes, true or predicted.
    precision_by_iou: the same by threshold. union_iou: over all images, and by whether an image has true boxes.
    image_auc: of the highest score in an image, 0 where there is none, for whether it has true boxes; by_view: of
    images of one view, where a store knows several. curve: FROC, sensitivity the points of it at
    `FALSE_POSITIVES`; average_precision: both of boxes that are found above `FOUND_IOU`. resampled: what is drawn for
    intervals, images, or patients where a store says them.
    """

    task: Task
    files: dict[str, InputFile]
    left_out: LeftOut
    image_ids: list[str]
    true: ImageBoxes
    predicted: ImageBoxes
    found: Float64Array
    image_precision: Float64Array
    image_iou: Float64Array
    n_scored: int
    n_images_with_boxes: int
    box_precision: Estimate
    precision_by_iou: dict[float, float]
    union_iou: dict[str, Estimate]
    image_auc: Estimate
    by_view: tuple[BoxView, ...]
    average_precision: float
    sensitivity: dict[float, float]
    curve: FrocCurve
    floors: tuple[BoxFloor, ...]
    resampled: str
    n_bootstrap: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Return what `metrics.json` holds: plain numbers and texts, None where a number is undefined."""
        return {
            "task": self.task.name,
            "boxes": list(self.task.boxes),
            **{role: asdict(file) for role, file in self.files.items()},
            **({"left_out": self.left_out.plain()} if str(self.left_out) else {}),
            "n_images": len(self.image_ids),
            "n_scored_images": self.n_scored,
            "n_images_with_boxes": self.n_images_with_boxes,
            "n_boxes": len(self.true),
            "n_predicted_boxes": len(self.predicted),
            "box_precision": plain(self.box_precision),
            "box_precision_by_iou": [{"iou": at, "precision": plain(x)} for at, x in self.precision_by_iou.items()],
            "union_iou": {name: plain(estimate) for name, estimate in self.union_iou.items()},
            "image_auc": plain(self.image_auc),
            **({"views": [view.row() for view in self.by_view]} if self.by_view else {}),
            "average_precision": plain(self.average_precision),
            "sensitivity": [
                {"false_positives_per_image": at, "sensitivity": plain(x)} for at, x in self.sensitivity.items()
            ],
            "of_all_boxes": {
                "false_positives_per_image": float(self.curve.false_positives[-1]),
                "sensitivity": plain(float(self.curve.sensitivity[-1])),
            },
            "found_iou": FOUND_IOU,
            "floors": [asdict(floor) for floor in self.floors],
            "confidence": CONFIDENCE,
            "resampled_unit": self.resampled,
            "n_bootstrap": self.n_bootstrap,
            "seed": self.seed,
        }


def evaluate_boxes(
    submission: Path,
    truth: Path | TableFile,
    *,
    task: Task,
    store: Store | None = None,
    allow_missing: bool = False,
    n_bootstrap: int = N_BOOTSTRAP,
    seed: int = 0,
) -> BoxEvaluation:
    """Score a submission of boxes against a label file; images of which it does not say all boxes are left out.

    Intervals come from `n_bootstrap` resamples of images, or of patients, where a store says these. allow_missing:
    leave out images that are in one of the files alone. Raises BadInputError when there are such images otherwise, or
    a file is not as it should be.
    """
    files = table_at(submission), truth if isinstance(truth, TableFile) else table_at(truth)
    predicted, table = read_box_submission(files[0], task), read_labels(files[1], task)
    is_known = known_boxes(table.boxes, table.values[:, [task.slices.index(name) for name in task.boxes]])
    known_ids = [image_id for image_id, known in zip(table.image_ids, is_known, strict=True) if known]
    image_ids = sorted(set(known_ids) & set(predicted.image_ids))
    if not image_ids or not allow_missing:
        _check_same(files, predicted.image_ids, known_ids, n_common=len(image_ids))
    found = _of(predicted.image_ids, predicted.boxes, image_ids)
    true = _of(table.image_ids, table.boxes, image_ids)
    clusters_N, views_N = _groups(store, image_ids)
    resamples = Resamples.draw(clusters_N, n_resamples=n_bootstrap, seed=seed)
    return BoxEvaluation(
        task=task,
        files={"submission": InputFile(name=submission.name, sha256=files[0].sha256()), **truth_files(files[1])},
        left_out=LeftOut(
            n_not_predicted=len(known_ids) - len(image_ids), n_without_truth=len(predicted.image_ids) - len(image_ids)
        ),
        image_ids=image_ids,
        **_scores(true, found, resamples, views_N),
        resampled="image" if store is None else "patient",
        n_bootstrap=n_bootstrap,
        seed=seed,
    )


def _groups(store: Store | None, image_ids: Sequence[str]) -> tuple[Rows, Views | None]:
    """Return the number of each image's patient [N], and its view, as far as a store says them."""
    if store is None:
        return np.arange(len(image_ids)), None
    patients = store.index["patient_id"][rows_by_image(store, image_ids)].astype(str)
    return np.unique(patients, return_inverse=True)[1].astype(np.int64), views_of(store, image_ids)


def _scores(true: ImageBoxes, found: ImageBoxes, resamples: Resamples, views_N: Views | None) -> dict[str, Any]:
    """Return the fields of an evaluation that hold scores."""
    n = len(resamples.cluster)
    precision_N, iou_N = box_precision(true, found, n), union_iou(true, found, n)
    has_box_N = np.bincount(true.images, minlength=n) > 0
    found_P = finds(true, found, n)
    curve = froc(found_P, found.scores, n_true=len(true), n_images=n)
    medians = placed(median_boxes(true.edges))
    every = make_boxes(np.repeat(np.arange(n), len(medians)), np.tile(medians, (n, 1)))
    highest_N = highest_scores(found, n)
    parts = {"with boxes": has_box_N, "without boxes": ~has_box_N}
    views = {} if views_N is None else {str(view): views_N == view for view in np.unique(views_N)}
    return {
        "true": true,
        "predicted": found,
        "found": found_P,
        "image_precision": precision_N,
        "image_iou": iou_N,
        "n_scored": int((~np.isnan(precision_N)).sum()),
        "n_images_with_boxes": int(has_box_N.sum()),
        "box_precision": _mean_precision(precision_N, resamples),
        "precision_by_iou": {at: mean_box_precision(true, found, n, thresholds=(at,)) for at in PRECISION_IOU},
        "union_iou": {
            "all": resamples.mean(iou_N),
            **{name: resamples.only(part).mean(iou_N[part]) for name, part in parts.items() if part.any()},
        },
        "image_auc": resamples.auc(has_box_N.astype(np.float64), highest_N),
        "by_view": tuple(
            _of_view(view, has_box_N[is_it], highest_N[is_it], precision_N[is_it], resamples.only(is_it))
            for view, is_it in views.items()
        ),
        "average_precision": box_average_precision(found_P, found.scores, n_true=len(true)),
        "sensitivity": {at: _sensitivity(curve, at) for at in FALSE_POSITIVES},
        "curve": curve,
        "floors": (_floor("no boxes", true, NO_BOXES, n), _floor("the median boxes on every image", true, every, n)),
    }


def _of_view(
    view: str,
    has_box_N: npt.NDArray[np.bool_],
    highest_N: Float64Array,
    precision_N: Float64Array,
    resamples: Resamples,
) -> BoxView:
    return BoxView(
        view=view,
        n_images=len(has_box_N),
        n_images_with_boxes=int(has_box_N.sum()),
        box_precision=_mean_precision(precision_N, resamples),
        auc=resamples.auc(has_box_N.astype(np.float64), highest_N),
    )


def _mean_precision(precision_N: Float64Array, resamples: Resamples) -> Estimate:
    """Mean over the images that count."""
    return resamples.ratio(np.nan_to_num(precision_N), (~np.isnan(precision_N)).astype(np.float64))


def _sensitivity(curve: FrocCurve, false_positives: float) -> float:
    """The highest that is reached with so many false positives for each image, or fewer."""
    return float(curve.sensitivity[curve.false_positives <= false_positives].max())


def _floor(name: str, true: ImageBoxes, boxes: ImageBoxes, n: int) -> BoxFloor:
    precision = mean_box_precision(true, boxes, n)
    return BoxFloor(name=name, box_precision=precision, union_iou=float(union_iou(true, boxes, n).mean()))


def _of(ids: Sequence[str], boxes: ImageBoxes, image_ids: Sequence[str]) -> ImageBoxes:
    """Return the boxes of images, numbered by their place in image_ids."""
    row_of = {image_id: row for row, image_id in enumerate(ids)}
    return boxes.of_images(np.array([row_of[image_id] for image_id in image_ids], dtype=np.int64))[0]


def _check_same(files: tuple[TableFile, TableFile], predicted: list[str], known: list[str], *, n_common: int) -> None:
    submission, truth = files
    unlike = difference(predicted, truth, known)
    if unlike:
        advice = (
            f"To score the {n_common} that are in both files: --allow-missing" if n_common else "No image is in both"
        )
        raise BadInputError(f"{submission}: {unlike}. {advice}")
