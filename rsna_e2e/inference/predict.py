"""Prediction: applies a trained run to a store and writes the submission and its tables."""

# N slices (packed), S series, L labels

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsna_e2e.config import View
from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.records import Float64Array, Progress, Rows, no_progress, printable
from rsna_e2e.inference.missing import MissingImages, list_missing
from rsna_e2e.inference.predictions import PredictionTable, SeriesTable, find_series, predictions_path
from rsna_e2e.inference.submission import prepare_submission, write_submission
from rsna_e2e.inference.trained_model import TrainedModel
from rsna_e2e.inference.truth import TruthFile, write_truth
from rsna_e2e.loader.holdout import check_unseen, validation_series
from rsna_e2e.model.forward import Prediction, predict_series
from rsna_e2e.store import Store, rows_of
from rsna_e2e.store.embeddings import Embeddings
from rsna_e2e.tasks.task import Task
from rsna_e2e.training.run_folder import store_hash_of

logger = logging.getLogger(__name__)

# What to do where a split has no series
_WAYS_OUT = {
    "train": ". Prepare the store with --labels",
    "test": ". All series have labels: predict the fold that the run held out (--split validation), or hold patients "
    "out before training: rsna-e2e prepare RAW STORE --holdout 0.2",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """What `predict` wrote, and from which checkpoint.

    series_table: None for a model without a series head. truth: None where the store has no labels of the split.
    damaged: messages about checkpoints that were passed over. missing: images of the split that the store lacks.
    """

    submission: Path
    table: Path
    series_table: Path | None
    truth: TruthFile | None
    checkpoint: Path
    damaged: tuple[str, ...]
    n_series: int
    n_slices: int
    missing: MissingImages


class Predictor:
    """Predicts series of one store with a trained model, by whichever of its checkpoints is loaded.

    views: of every image; probabilities are the mean over them. Raises BadInputError when the store was prepared for
    another task, UsageError for views of stored embeddings.
    """

    def __init__(self, trained: TrainedModel, store: Store, *, views: Sequence[View] = ("plain",)) -> None:
        if trained.embeddings is not None and tuple(views) != ("plain",):
            raise UsageError("--views are of images, and this run predicts from stored embeddings: leave it out")
        self.trained, self.store, self._views = trained, store, views
        self._loader = trained.loader(store)

    def positions(self, split: str) -> list[int]:
        """Return the positions in `store.series` of a split; "validation" is the fold that the run held out.

        Raises UsageError when there are none, BadInputError when a submission could not tell its slices apart, and for
        the fold of a run that was trained on another store; UsageError for that fold where the classifier of the
        embeddings saw it.
        """
        if split == "validation":
            found = self._held_out()
        else:
            found = [position for position, span in enumerate(self.store.series) if span.split == split]
        if not found:
            splits = ", ".join(sorted({span.split for span in self.store.series}))
            raise UsageError(
                f"{self.store.path}: no series in split {split!r}; it has: {splits}{_WAYS_OUT.get(split, '')}"
            )
        rows = rows_of(self.store.series[position] for position in found)
        image_ids = self.store.index["image_id"][rows]
        if n_repeated := len(image_ids) - len(set(map(printable, image_ids))):
            raise BadInputError(
                f"{self.store.path}: {n_repeated} slices have the image id of another slice, and a submission knows "
                "slices by their image ids alone. Prepare the store again"
            )
        if not np.isnan(self.store.labels[rows]).all():
            self._warn_of_scores(split)
        return found

    def _warn_of_scores(self, split: str) -> None:
        """Tell the operator where the scores of a split may be too good."""
        run, learned_from = self.trained.run, store_hash_of(self.trained.run)
        if split == "test" and self._is_another_store():
            logger.warning(
                "%s: is not the store that %s was trained on. Its held-out patients may be among those that the run "
                "learned from, and their scores too good. Train on this store",
                self.store.path,
                run,
            )
        if split == "train" and learned_from == self.store.data_hash:
            has_fold = self.trained.config.validation_fold is not None
            logger.warning(
                "split train is what %s learned from: scores of other patients are lower%s",
                run,
                ", see --split validation" if has_fold else "",
            )

    def _is_another_store(self) -> bool:
        """Whether the run is known to have been trained on another store."""
        return store_hash_of(self.trained.run) not in (self.store.data_hash, None)

    def _held_out(self) -> list[int]:
        """Return the positions of the fold that the run held out."""
        trained, store = self.trained, self.store
        if trained.config.validation_fold is None:
            raise UsageError(
                f"{trained.run}: was trained on all labelled series (validation_fold=null) and held no fold out. Train "
                "with --set validation_fold=0, or hold patients out for --split test: rsna-e2e prepare RAW STORE "
                "--holdout 0.2"
            )
        if self._is_another_store():
            raise BadInputError(
                f"{store.path}: is not the store that {trained.run} was trained on, so its folds are not those of the "
                "run. Give that store, or --split train or test"
            )
        if trained.embeddings is not None:
            check_unseen(trained.embeddings, trained.config)
        return validation_series(store, trained.config)

    def __call__(self, positions: Sequence[int], *, progress: Progress = no_progress) -> Prediction:
        """Return what the run predicts of these series, in the order of the store."""
        trained = self.trained
        prediction = predict_series(
            trained.network,
            self._loader,
            positions,
            compute=trained.compute,
            views=self._views,
            progress=progress,
        )
        if not prediction.is_finite:
            raise BadInputError(f"{trained.checkpoint}: predicts numbers that are not finite. Use another checkpoint")
        return prediction.in_store_order()


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
    device: str = "auto",
    progress: Progress = no_progress,
) -> Predicted:
    """Predict every slice of a split of `store`; write a submission, and beside it its predictions table, with a series
    head its series table, the truth as far as the store has it, and what it lacks.

    split: train, test, or validation, the part of train that the run held out. embeddings: what a run without a
    backbone predicts from. views: see `Predictor`. is_raw: see `write_submission`. Raises BadInputError when the run,
    checkpoint, store or embeddings are not such or do not fit, UsageError for an empty split.
    """
    trained = TrainedModel.open(run, checkpoint, device=device, embeddings=embeddings)
    prepare_submission(out, trained.task, example="submission.csv")
    predictor = Predictor(trained, store, views=views)
    positions = predictor.positions(split)
    prediction = predictor(positions, progress=progress)
    table = make_table(store, prediction.rows, prediction.slices)
    series = make_series_table(store, prediction, trained.task)
    write_submission(out, trained.task, table, series=series, is_raw=is_raw)
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
