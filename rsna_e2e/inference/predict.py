"""From a trained run and a store to probabilities: the predictions table and the submission."""

# N slices (packed), L labels

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsna_e2e.core.device import choose_compute
from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.records import Float64Array, Progress, Rows, no_progress, printable
from rsna_e2e.inference.average import write_submission
from rsna_e2e.inference.missing import MissingImages, list_missing
from rsna_e2e.inference.predictions import PredictionTable, predictions_path
from rsna_e2e.loader.choice import choose_loader, count_channels
from rsna_e2e.model.forward import predict_series
from rsna_e2e.model.network import JointModel
from rsna_e2e.store import Store, rows_of
from rsna_e2e.store.embeddings import Embeddings
from rsna_e2e.store.reader import check_labels
from rsna_e2e.tasks.labels import prepare_submission
from rsna_e2e.training.checkpoint import find_checkpoint, load_model
from rsna_e2e.training.run_folder import MANIFEST, read_config, read_manifest, read_task


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """What `predict` wrote, and from which checkpoint.

    damaged: what was wrong with checkpoints that were passed over. missing: images of the split that the store lacks.
    """

    submission: Path
    table: Path
    checkpoint: Path
    damaged: tuple[str, ...]
    n_series: int
    n_slices: int
    missing: MissingImages


class Predictor:
    """A run made ready to predict series of a store, with any of its checkpoints.

    Raises BadInputError when the run is none, or store or embeddings do not fit it.
    """

    def __init__(self, run: Path, store: Store, *, embeddings: Embeddings | None = None, device: str = "auto") -> None:
        self.store, self.config = store, read_config(run)
        self.task = read_task(run, self.config.task)
        check_labels(store, self.task)
        n_channels = count_channels(self.config, self.task, embeddings)
        if embeddings is not None:
            _check_classifiers(run, embeddings)
        self._compute = choose_compute(self.config.precision, device, cpu_threads=self.config.cpu_threads)
        architecture = self.config.model.without_initial_weights()
        self._model = JointModel.for_task(architecture, self.task, n_channels=n_channels)
        self._loader = choose_loader(store, self.config, task=self.task, compute=self._compute, embeddings=embeddings)

    def positions(self, split: str) -> list[int]:
        """Return the positions in `store.series` of a split.

        Raises UsageError when there are none, BadInputError when a submission could not tell its slices apart.
        """
        found = [position for position, span in enumerate(self.store.series) if span.split == split]
        if not found:
            splits = ", ".join(sorted({span.split for span in self.store.series}))
            raise UsageError(f"{self.store.path}: no series in split {split!r}; it has: {splits}")
        image_ids = self.store.index["image_id"][rows_of(self.store.series[position] for position in found)]
        if n_repeated := len(image_ids) - len(set(map(printable, image_ids))):
            raise BadInputError(
                f"{self.store.path}: {n_repeated} slices have the image id of another, so that no submission could "
                "tell them apart. Prepare the store again"
            )
        return found

    def load(self, checkpoint: Path) -> None:
        """Take the weights in the folder `checkpoint`, which is to be done before predicting."""
        load_model(self._model, checkpoint)
        self._model = self._compute.place(self._model)
        self._checkpoint = checkpoint

    def __call__(self, positions: Sequence[int], *, progress: Progress = no_progress) -> tuple[Rows, Float64Array]:
        """Return store rows [N], rising, and their probabilities [N, L] by the weights that were loaded last."""
        rows, probability = predict_series(
            self._model, self._loader, positions, compute=self._compute, progress=progress
        )
        if not np.isfinite(probability).all():
            raise BadInputError(f"{self._checkpoint}: predicts numbers that are not finite. Use another checkpoint")
        order = np.argsort(rows)
        return rows[order], probability[order]


def predict(
    run: Path,
    store: Store,
    *,
    split: str,
    out: Path,
    checkpoint: str = "auto",
    embeddings: Embeddings | None = None,
    device: str = "auto",
    progress: Progress = no_progress,
) -> Predicted:
    """Predict every slice of a split of `store`; write a submission, and beside it its predictions table and what it
    lacks.

    embeddings: what a run without a backbone predicts from. Raises BadInputError when the run, checkpoint, store or
    embeddings are not such or do not fit, UsageError for an empty split.
    """
    prepare_submission(out, example="submission.csv")
    damaged: list[str] = []
    folder = find_checkpoint(run, checkpoint, on_damaged=lambda error: damaged.append(str(error)))
    predictor = Predictor(run, store, embeddings=embeddings, device=device)
    positions = predictor.positions(split)
    predictor.load(folder)
    rows, probability = predictor(positions, progress=progress)
    write_submission(out, predictor.task, make_table(store, rows, probability))
    return Predicted(
        submission=out,
        table=predictions_path(out),
        checkpoint=folder,
        damaged=tuple(damaged),
        n_series=len(positions),
        n_slices=len(rows),
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


def _check_classifiers(run: Path, embeddings: Embeddings) -> None:
    """Raise BadInputError unless these are embeddings by classifiers whose embeddings the run learned from."""
    try:
        learned = read_manifest(run)["classifiers"]
        fits = len(learned) == len(embeddings.classifiers) and all(
            set(given) <= set(known) for given, known in zip(embeddings.classifiers, learned, strict=True)
        )
    except (TypeError, KeyError):
        raise BadInputError(f"{run / MANIFEST}: missing or damaged. Put it back from a copy, or train again") from None
    if not fits:
        raise BadInputError(
            f"{run}: learned from embeddings by other classifiers. Give those of the ones it learned from"
        )
