"""Prediction of boxes: applies a run that finds boxes to a store and writes the submission and its table of boxes."""

# K boxes, N slices

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rsna_e2e.core.records import Progress, no_progress, printable
from rsna_e2e.inference.missing import list_missing
from rsna_e2e.inference.predictions import beside
from rsna_e2e.inference.predictor import Predicted, Predictor
from rsna_e2e.inference.submission import write_box_submission
from rsna_e2e.inference.trained_model import TrainedModel
from rsna_e2e.inference.truth import TruthFile
from rsna_e2e.model.box_model import BoxModel
from rsna_e2e.model.find_boxes import BoxPrediction, find_boxes
from rsna_e2e.store import Store
from rsna_e2e.tasks.boxes import ImageBoxes
from rsna_e2e.tasks.labels import BoxTable, write_box_labels
from rsna_e2e.training.operating_points import read_operating_points

logger = logging.getLogger(__name__)


def predict_boxes(
    predictor: Predictor, split: str, *, out: Path, is_raw: bool = False, progress: Progress = no_progress
) -> Predicted:
    """Find the boxes of every slice of a split; write a submission, and beside it the table of all boxes found, the
    true boxes as far as the store has them, and what it lacks.

    The submission has the boxes from the run's operating point on, which was chosen on the fold that it held out;
    is_raw, or of a run without one: all of them. Raises what `Predictor.positions` does, and BadInputError for places
    that are not finite.
    """
    trained, store = predictor.trained, predictor.store
    positions = predictor.positions(split)
    found = found_boxes(predictor, positions, progress=progress)
    image_ids = [printable(image_id) for image_id in store.index["image_id"][found.rows]]
    submitted = found.boxes if is_raw else found.boxes.at(_is_submitted(trained, found.boxes))
    table = BoxTable(image_ids=image_ids, boxes=found.boxes)
    write_box_submission(out, trained.task, table, submitted=submitted)
    return Predicted(
        submission=out,
        table=beside(out, "boxes.parquet"),
        series_table=None,
        truth=_write_truth(store, found, image_ids, predictor, out),
        checkpoint=trained.checkpoint,
        damaged=trained.damaged,
        n_series=len(positions),
        n_slices=len(found.rows),
        missing=list_missing(store, split, submission=out),
    )


def found_boxes(predictor: Predictor, positions: Sequence[int], *, progress: Progress = no_progress) -> BoxPrediction:
    """Return all boxes that a run finds in these series, slices in the order of the store.

    Raises BadInputError for places that are not finite.
    """
    trained = predictor.trained
    assert isinstance(trained.network, BoxModel)
    found = find_boxes(
        *(trained.network, predictor.loader, positions, predictor.store), compute=trained.compute, progress=progress
    )
    return predictor.checked(found)


def least_scores(trained: TrainedModel) -> dict[str, float] | None:
    """Return from which score on a box counts, by class: the run's operating point; None of one that held no fold out.

    Raises BadInputError for a damaged one.
    """
    points = read_operating_points(trained.run)
    return None if points is None else points.thresholds


def _is_submitted(trained: TrainedModel, boxes: ImageBoxes) -> "np.typing.NDArray[np.bool_]":
    """Return which boxes [K] have at least the score of the run's operating point."""
    least = least_scores(trained)
    if least is None:
        logger.warning(
            "%s: held no fold out on which to choose from which score on boxes count; the submission has all of them",
            trained.named,
        )
        return np.ones(len(boxes), dtype=np.bool_)
    least_C = np.array([least.get(name, 0.0) for name in trained.task.boxes])
    return np.asarray(boxes.scores >= least_C[boxes.classes])


def _write_truth(
    store: Store, found: BoxPrediction, image_ids: Sequence[str], predictor: Predictor, out: Path
) -> TruthFile | None:
    """Write the true boxes of the slices of which the store knows them all; None where it knows none."""
    is_known_N = store.boxes_known[found.rows] if store.box_names else np.zeros(len(found.rows), dtype=bool)
    if not is_known_N.any():
        return None
    known = np.flatnonzero(is_known_N)
    path = beside(out, "truth.csv")
    true_boxes = store.boxes.of_images(found.rows[known])[0]
    write_box_labels(path, predictor.trained.task, [image_ids[row] for row in known.tolist()], true_boxes)
    return TruthFile(path=path, n_slices=len(known), n_predicted=len(image_ids))
