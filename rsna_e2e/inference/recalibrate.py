"""Fits the calibration of a run anew: to the folds that it, or runs like it, held out, or to predictions by hand."""

# N slices, S series

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.records import Float64Array, Progress, no_progress, printable, some
from rsna_e2e.inference.calibrated import is_calibrated
from rsna_e2e.inference.predictions import SeriesTable, find_predictions, find_series, read_predictions, read_series
from rsna_e2e.inference.predictor import Predictor
from rsna_e2e.inference.trained_model import TrainedModel
from rsna_e2e.loader.holdout import learned_from
from rsna_e2e.store import Store
from rsna_e2e.store.embeddings import Embeddings
from rsna_e2e.store.reader import check_labels
from rsna_e2e.tasks.task import Task
from rsna_e2e.training.calibration import RunCalibration, fit_calibration, write_calibration
from rsna_e2e.training.run_folder import read_config, read_task, store_hash_of
from rsna_e2e.training.validation import FoldTruth, HeldOut


def recalibrate(
    run: Path,
    store: Store,
    *,
    out_of_fold: Sequence[Path] = (),
    embeddings: Embeddings | None = None,
    device: str = "auto",
    progress: Progress = no_progress,
) -> RunCalibration:
    """Fit the calibration of a run to what its best epoch predicts of the fold that it held out, and keep it.

    out_of_fold: runs of other folds, each of which predicts the fold that it held out, in place of the run. store: that
    they were trained on. Raises what `Predictor.positions` raises of split "validation", UsageError for runs of
    different labels or of one fold.
    """
    members = [*out_of_fold] or [run]
    task = _task_of(run)
    labels = (task.slices, task.series_labels)
    others = ((path, _task_of(path)) for path in members)
    if other := next((path for path, of in others if (of.slices, of.series_labels) != labels), None):
        raise UsageError(f"{other}: predicts other labels than {run}. Give runs of the same task")
    held_out = []
    epoch = 0
    for path in members:
        trained = TrainedModel.open(path, device=device, embeddings=embeddings)
        predictor = Predictor(trained, store)
        prediction = predictor(predictor.positions("validation"), progress=progress)
        truth = FoldTruth.of(store, prediction.positions.tolist(), task)
        held_out.append(HeldOut(truth=truth, slices=prediction.slices, series=prediction.series))
        epoch = trained.epoch
    _check_apart(held_out)
    return _keep(run, held_out, task, epoch=None if out_of_fold else epoch)


def recalibrate_by_tables(run: Path, store: Store, submissions: Sequence[Path]) -> RunCalibration:
    """Fit the calibration of a run to its predictions, such as of several views, by their tables, and keep it.

    The truth is that of the store, the one that the run was trained on. Raises BadInputError where the store is
    another, or the tables are calibrated already, or hold an image that it lacks, one of split test, or one that
    `learned_from` has of the run.
    """
    task, config = _task_of(run), read_config(run)
    check_labels(store, task)
    if store_hash_of(run) not in (store.data_hash, None):
        raise BadInputError(f"{store.path}: is not the store that {run} was trained on. Give that store")
    learned = {store.series[position].series_key for position in learned_from(store, config)}
    held_out = [_by_table(path, store, task, run, learned) for path in submissions]
    _check_apart(held_out)
    return _keep(run, held_out, task, epoch=None)


def _task_of(run: Path) -> Task:
    config = read_config(run)
    config.model.check_predicts_labels(str(run))
    return read_task(run, config)


def _keep(run: Path, held_out: Sequence[HeldOut], task: Task, *, epoch: int | None) -> RunCalibration:
    calibration = fit_calibration(held_out, task, epoch=epoch)
    write_calibration(run, calibration)
    return calibration


def _check_apart(held_out: Sequence[HeldOut]) -> None:
    positions = np.concatenate([part.truth.positions for part in held_out])
    if len(np.unique(positions)) < len(positions):
        raise UsageError("some series are predicted twice. Give runs, or predictions, of different folds")


def _by_table(submission: Path, store: Store, task: Task, run: Path, learned_keys: set[str]) -> HeldOut:
    """Return what a submission's tables hold; nothing is known of the slices that they lack."""
    if is_calibrated(submission):
        raise BadInputError(
            f"{submission}: is calibrated already, and maps are of what was predicted. Predict without --calibrated"
        )
    path = find_predictions(submission)
    table = read_predictions(path, task)
    row_of = {printable(image_id): row for row, image_id in enumerate(store.index["image_id"].tolist())}
    _refuse(path, [one for one in table.image_ids if one not in row_of], f"not in {store.path}")
    rows_N = np.array([row_of[image_id] for image_id in table.image_ids], dtype=np.int64)
    split_N, key_N = (store.index[name][rows_N] for name in ("split", "series_key"))
    of_test = [one for one, split in zip(table.image_ids, split_N, strict=True) if split == "test"]
    _refuse(path, of_test, "of split test, on which nothing may be chosen")
    learned = [one for one, key in zip(table.image_ids, key_N, strict=True) if key in learned_keys]
    _refuse(path, learned, f"what {run} was trained on, head or backbone, and it is surer of these than of others")
    position_of = {span.series_key: position for position, span in enumerate(store.series)}
    truth = FoldTruth.of(store, [position_of[key] for key in np.unique(key_N.astype(str)).tolist()], task).only(rows_N)
    slices_NL = np.full(truth.slices.shape, 0.5)  # of slices that the tables lack, whose truth counts as unknown
    slices_NL[np.searchsorted(truth.rows, rows_N)] = table.probability
    series = find_series(submission)
    series_SM = None if series is None else _in_order(read_series(series, task, table), truth, store)
    return HeldOut(truth=truth, slices=slices_NL, series=series_SM)


def _in_order(table: SeriesTable, truth: FoldTruth, store: Store) -> Float64Array:
    """Return the probabilities of series [S, M] in the order of their truth."""
    row_of = {key: row for row, key in enumerate(table.series_keys)}
    return table.probability[[row_of[store.series[position].series_key] for position in truth.positions.tolist()]]


def _refuse(path: Path, image_ids: Sequence[str], what: str) -> None:
    if image_ids:
        raise BadInputError(
            f"{path}: {len(image_ids)} of its images are {what}, such as {some(image_ids, most=3)}. Give predictions "
            "of what the run held out: rsna-e2e predict RUN STORE --split validation"
        )
