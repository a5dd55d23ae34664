"""Prediction: applies a trained run to a store and writes the submission and its tables."""

# N slices (packed), S series, L labels

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rsna_e2e.config import View
from rsna_e2e.core.records import Float64Array, Progress, Rows, no_progress, printable
from rsna_e2e.inference.calibrated import Calibrator
from rsna_e2e.inference.missing import list_missing
from rsna_e2e.inference.predict_boxes import predict_boxes
from rsna_e2e.inference.predictions import PredictionTable, SeriesTable, find_series, predictions_path
from rsna_e2e.inference.predictor import Predicted, Predictor
from rsna_e2e.inference.submission import prepare_submission, write_submission
from rsna_e2e.inference.trained_model import TrainedModel
from rsna_e2e.inference.truth import write_truth
from rsna_e2e.model.box_model import BoxModel
from rsna_e2e.model.forward import Prediction
from rsna_e2e.store import Store
from rsna_e2e.store.embeddings import Embeddings
from rsna_e2e.tasks.task import Task
from rsna_e2e.training.calibration import How


def predict(
    run: Path,
    store: Store,
    *,
    split: str,
    out: Path,
    checkpoint: str = "auto",
    embeddings: Embeddings | None = None,
    views: Sequence[View] = ("plain",),
    is_raw: bool = False,
    calibrated: How | None = None,
    device: str = "auto",
    progress: Progress = no_progress,
) -> Predicted:
    """Predict every slice of a split of `store`; write a submission and what stands beside it, see `predict_labels`
    and `predict_boxes`.

    split: train, test, or validation, the part of train that the run held out. embeddings: what a run without a
    backbone predicts from. views: see `Predictor`. calibrated: by which map of the run's calibration; None: not. Raises
    BadInputError when the run, checkpoint, store or embeddings are not such or do not fit, UsageError for an empty
    split, and what `Calibrator.of` raises.
    """
    trained = TrainedModel.open(run, checkpoint, device=device, embeddings=embeddings)
    prepare_submission(out, trained.task, example="submission.csv")
    predictor = Predictor(trained, store, views=views)
    calibrator = Calibrator.of(trained, calibrated, split=split, views=views) if calibrated else None
    if isinstance(trained.network, BoxModel):
        return predict_boxes(predictor, split, out=out, is_raw=is_raw, progress=progress)
    return predict_labels(predictor, split, out=out, is_raw=is_raw, calibrator=calibrator, progress=progress)


def predict_labels(
    predictor: Predictor,
    split: str,
    *,
    out: Path,
    is_raw: bool = False,
    calibrator: Calibrator | None = None,
    progress: Progress = no_progress,
) -> Predicted:
    """Predict the labels of every slice of a split; write a submission, and beside it its predictions table, with a
    series head its series table, the truth as far as the store has it, and what it lacks.

    is_raw: see `write_submission`. calibrator: makes what is written calibrated, and a note beside it says so. Raises
    what `Predictor` does.
    """
    trained, store = predictor.trained, predictor.store
    positions = predictor.positions(split)
    prediction = predictor(positions, progress=progress)
    write_prediction(store, trained.task, prediction, out=out, is_raw=is_raw, calibrator=calibrator)
    return Predicted(
        submission=out,
        table=predictions_path(out),
        series_table=find_series(out),
        truth=write_truth(store, prediction, task=trained.task, submission=out),
        checkpoint=trained.checkpoint,
        damaged=trained.damaged,
        n_series=len(positions),
        n_slices=len(prediction.rows),
        missing=list_missing(store, split, submission=out),
    )


def write_prediction(
    store: Store,
    task: Task,
    prediction: Prediction,
    *,
    out: Path,
    is_raw: bool,
    calibrator: Calibrator | None = None,
) -> PredictionTable:
    """Write a submission, its tables and, where it is calibrated, the note on that; return the predictions table."""
    if calibrator is not None:
        prediction = calibrator(prediction)
    table = make_table(store, prediction.rows, prediction.slices)
    write_submission(out, task, table, series=make_series_table(store, prediction, task), is_raw=is_raw)
    if calibrator is not None:
        calibrator.write_note(out)
    return table


def make_table(store: Store, rows: Rows, probability: Float64Array) -> PredictionTable:
    """Return the table of predictions [N, L] of these rows of the store."""
    index = store.index
    return PredictionTable(
        image_ids=[printable(image_id) for image_id in index["image_id"][rows]],
        series_keys=[str(key) for key in index["series_key"][rows]],
        slice_index=index["slice_index"][rows].astype(np.int64),
        position_mm=index["position_mm"][rows].astype(np.float64),
        probability=probability,
    )


def make_series_table(store: Store, prediction: Prediction, task: Task) -> SeriesTable | None:
    """Return the table of what the series head predicts; None without one."""
    if prediction.series is None:
        return None
    spans = [store.series[position] for position in prediction.positions.tolist()]
    return SeriesTable(
        series_keys=[str(span.series_key) for span in spans],
        n_slices=np.array([span.n_slices for span in spans], dtype=np.int64),
        probability=prediction.series,
        study_uids=[printable(span.study_uid) for span in spans] if task.csv.series_id else [],
    )
