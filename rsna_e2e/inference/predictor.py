"""A trained run applied to one store: which of its series, and what it predicts of them."""

# N slices (packed), S series, L labels

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from rsna_e2e.config import View
from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.records import Progress, no_progress, printable
from rsna_e2e.inference.missing import MissingImages
from rsna_e2e.inference.trained_model import TrainedModel
from rsna_e2e.inference.truth import TruthFile
from rsna_e2e.loader.holdout import check_unseen, validation_series
from rsna_e2e.model.find_boxes import BoxPrediction
from rsna_e2e.model.forward import Prediction, predict_series
from rsna_e2e.store import Store, rows_of
from rsna_e2e.training.run_folder import store_hash_of

logger = logging.getLogger(__name__)

P = TypeVar("P", Prediction, BoxPrediction)

# What to do where a split has no series
_WAYS_OUT = {
    "train": ". Prepare the store with --labels",
    "test": ". All series have labels: predict the fold that the run held out (--split validation), or hold patients "
    "out before training: rsna-e2e prepare RAW STORE --holdout 0.2",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """What `predict` wrote, and from which checkpoint.

    table: of predictions, or of boxes. series_table: None for a model without a series head. truth: None where the
    store has no labels of the split. damaged: messages about checkpoints that were passed over. missing: images of
    the split that the store lacks.
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
    another task, UsageError for views of stored embeddings, and for a run that finds boxes.
    """

    def __init__(self, trained: TrainedModel, store: Store, *, views: Sequence[View] = ("plain",)) -> None:
        if trained.embeddings is not None and tuple(views) != ("plain",):
            raise UsageError("--views are of images, and this run predicts from stored embeddings: leave it out")
        if trained.config.model.finds_boxes and tuple(views) != ("plain",):
            raise UsageError(f"--views are of runs that predict labels, and {trained.named} finds boxes: leave it out")
        self.trained, self.store, self.views = trained, store, views
        self.loader = trained.loader(store)

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
        run, learned_from = self.trained.named, store_hash_of(self.trained.run)
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
                f"{trained.named}: was trained on all labelled series (validation_fold=null) and held no fold out. "
                "Train with --set validation_fold=0, or hold patients out for --split test: rsna-e2e prepare RAW STORE "
                "--holdout 0.2"
            )
        if self._is_another_store():
            raise BadInputError(
                f"{store.path}: is not the store that {trained.named} was trained on, so its folds are not those of "
                "the run. Give that store, or --split train or test"
            )
        if trained.embeddings is not None:
            check_unseen(trained.embeddings, trained.config)
        return validation_series(store, trained.config)

    def __call__(self, positions: Sequence[int], *, progress: Progress = no_progress) -> Prediction:
        """Return what the run predicts of these series, in the order of the store."""
        trained = self.trained
        prediction = predict_series(
            trained.joint,
            self.loader,
            positions,
            compute=trained.compute,
            views=self.views,
            progress=progress,
        )
        return self.checked(prediction)

    def checked(self, prediction: P) -> P:
        """Return a prediction in the order of the store. Raises BadInputError where it is not of finite numbers."""
        if not prediction.is_finite:
            raise BadInputError(
                f"{self.trained.named}, {self.trained.checkpoint.name}: predicts numbers that are not finite. Use "
                "another checkpoint"
            )
        return prediction.in_store_order()
