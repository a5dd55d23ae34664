"""Drops the boxes of images that a classifier thinks have none: a gate that no box's score passes changed."""

# N images, K boxes, C classes of boxes

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import Float64Array
from rsna_e2e.inference.average import tables_of
from rsna_e2e.inference.carried import CarriedNotes
from rsna_e2e.inference.submission import prepare_submission, write_box_submission
from rsna_e2e.inference.truth import TruthFile
from rsna_e2e.tasks.labels import BoxTable, LabelTable, read_box_submission, read_labels
from rsna_e2e.tasks.task import Task
from rsna_e2e.training.operating_points import read_operating_points
from rsna_e2e.training.run_folder import read_config


@dataclass(frozen=True, slots=True, kw_only=True)
class Gated:
    """How many images and boxes there were, how many boxes were dropped, and of how many images. truth: that of the
    submission, if it has one."""

    n_images: int
    n_boxes: int
    n_dropped: int
    n_images_dropped: int
    truth: TruthFile | None


def gate(boxes: Path, classes: Path, *, task: Task, least: Mapping[str, float], out: Path) -> Gated:
    """Write a submission of boxes without those of images whose probability of the label of the same name is lower than
    least, by class of box.

    boxes: a submission of boxes, of which `out` has all images, sorted, and what is left of their boxes as it is.
    classes: a submission of labels, by predict or any other program, which has all these images. Raises BadInputError
    where it lacks one, or a file is not as it should be; UsageError when `out` is one of them.
    """
    prepare_submission(out, task, example="gated.csv")
    tables_of([boxes, classes], out)
    table, labels = read_box_submission(boxes, task), read_labels(classes, task)
    notes = CarriedNotes.of([boxes], task)
    probability_NC = _probabilities(labels, classes, table.image_ids, task)
    least_C = np.array([least[name] for name in task.boxes])
    found = table.boxes
    is_kept_K = probability_NC[found.images, found.classes] >= least_C[found.classes]
    write_box_submission(out, task, BoxTable(image_ids=table.image_ids, boxes=found.at(is_kept_K)))
    return Gated(
        n_images=len(table.image_ids),
        n_boxes=len(found),
        n_dropped=int((~is_kept_K).sum()),
        n_images_dropped=len(np.unique(found.images[~is_kept_K])),
        truth=notes.write(out, table.image_ids),
    )


def thresholds_of(run: Path, task: Task) -> dict[str, float]:
    """Return from which probability on a classifier's run calls the labels that are classes of boxes.

    Raises BadInputError where the run has no such thresholds, UsageError for one that finds boxes, whose scores are no
    such probabilities.
    """
    read_config(run).model.check_predicts_labels("--run")
    points = read_operating_points(run)
    thresholds = points.thresholds if points else {}
    if lacking := [name for name in task.boxes if name not in thresholds]:
        raise BadInputError(
            f"{run}: has no threshold of {', '.join(lacking)}, as a classifier's run does that held a fold out. Check "
            "the path, or give the least probability with --least"
        )
    return {name: thresholds[name] for name in task.boxes}


def _probabilities(labels: LabelTable, file: Path, image_ids: Sequence[str], task: Task) -> Float64Array:
    """Return the probabilities [N, C] of the classes of boxes in these images, in their order."""
    row_of = {image_id: row for row, image_id in enumerate(labels.image_ids)}
    columns = [task.slices.index(name) for name in task.boxes]
    probability_NC = np.full((len(image_ids), len(columns)), np.nan)
    for image, image_id in enumerate(image_ids):
        if image_id in row_of:
            probability_NC[image] = labels.values[row_of[image_id], columns]
    is_lacking_N = np.isnan(probability_NC).any(axis=1)
    if is_lacking_N.any():
        raise BadInputError(
            f"{file}: does not say how probable {', '.join(task.boxes)} is in {is_lacking_N.sum()} of {len(image_ids)} "
            f"images, such as {image_ids[int(is_lacking_N.argmax())]}. Predict the same images"
        )
    return probability_NC
