"""Evaluation of boxes: scores a submission of boxes against the truth, beside what needs no image."""

# N images that are scored, P predicted boxes, B resamples

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

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
class BoxEvaluation:
    """All numbers of an evaluation of boxes; image_ids [N] are sorted.

    box_precision: the score of RSNA Pneumonia 2018, a mean over the n_scored images that have boxes, true or predicted.
    union_iou: over all images, and by whether an image has true boxes. curve: FROC, sensitivity the points of it at
    `FALSE_POSITIVES`; average_precision: both of boxes that are found above `FOUND_IOU`. resampled: what is drawn for
    intervals, images, or patients where a store says them.
    """

    task: Task
    files: dict[str, InputFile]
    left_out: LeftOut
    image_ids: list[str]
    n_scored: int
    n_images_with_boxes: int
    n_boxes: int
    n_predicted: int
    box_precision: Estimate
    union_iou: dict[str, Estimate]
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
            "n_boxes": self.n_boxes,
            "n_predicted_boxes": self.n_predicted,
            "box_precision": plain(self.box_precision),
            "box_precision_iou": list(PRECISION_IOU),
            "union_iou": {name: plain(estimate) for name, estimate in self.union_iou.items()},
            "average_precision": plain(self.average_precision),
            "sensitivity_by_false_positives_per_image": {f"{at:g}": plain(x) for at, x in self.sensitivity.items()},
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
    clusters = np.arange(len(image_ids)) if store is None else _patients(store, image_ids)
    return BoxEvaluation(
        task=task,
        files={"submission": InputFile(name=submission.name, sha256=files[0].sha256()), **truth_files(files[1])},
        left_out=LeftOut(
            n_not_predicted=len(known_ids) - len(image_ids), n_without_truth=len(predicted.image_ids) - len(image_ids)
        ),
        image_ids=image_ids,
        **_scores(true, found, Resamples.draw(clusters, n_resamples=n_bootstrap, seed=seed)),
        resampled="image" if store is None else "patient",
        n_bootstrap=n_bootstrap,
        seed=seed,
    )


def _patients(store: Store, image_ids: Sequence[str]) -> Rows:
    """Return the number of each image's patient [N]."""
    patients = store.index["patient_id"][rows_by_image(store, image_ids)].astype(str)
    return np.unique(patients, return_inverse=True)[1].astype(np.int64)


def _scores(true: ImageBoxes, found: ImageBoxes, resamples: Resamples) -> dict[str, Any]:
    """Return the fields of an evaluation that hold scores."""
    n = len(resamples.cluster)
    precision_N, iou_N = box_precision(true, found, n), union_iou(true, found, n)
    is_scored_N, has_box_N = ~np.isnan(precision_N), np.bincount(true.images, minlength=n) > 0
    found_P = finds(true, found, n)
    curve = froc(found_P, found.scores, n_true=len(true), n_images=n)
    medians = placed(median_boxes(true.edges))
    every = make_boxes(np.repeat(np.arange(n), len(medians)), np.tile(medians, (n, 1)))
    return {
        "n_scored": int(is_scored_N.sum()),
        "n_images_with_boxes": int(has_box_N.sum()),
        "n_boxes": len(true),
        "n_predicted": len(found),
        "box_precision": resamples.ratio(np.nan_to_num(precision_N), is_scored_N.astype(np.float64)),
        "union_iou": {
            "all": resamples.mean(iou_N),
            **{
                name: resamples.only(part).mean(iou_N[part])
                for name, part in (("with boxes", has_box_N), ("without boxes", ~has_box_N))
                if part.any()
            },
        },
        "average_precision": box_average_precision(found_P, found.scores, n_true=len(true)),
        "sensitivity": {at: _sensitivity(curve, at) for at in FALSE_POSITIVES},
        "curve": curve,
        "floors": (_floor("no boxes", true, NO_BOXES, n), _floor("the median boxes on every image", true, every, n)),
    }


def _sensitivity(curve: FrocCurve, false_positives: float) -> float:
    """The highest that is reached with so many false positives for each image, or fewer."""
    return float(curve.sensitivity[curve.false_positives <= false_positives].max())


def _floor(name: str, true: ImageBoxes, boxes: ImageBoxes, n: int) -> BoxFloor:
    precision_N: Float64Array = box_precision(true, boxes, n)
    scored_N = precision_N[~np.isnan(precision_N)]
    mean = float(scored_N.mean()) if len(scored_N) else float("nan")
    return BoxFloor(name=name, box_precision=mean, union_iou=float(union_iou(true, boxes, n).mean()))


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
