"""Predicts a folder or zip archive of DICOM files with a trained run, without a store of the user's own."""

# N slices, S series, L labels of slices, M of series

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rsna_e2e.core.records import Progress, Refusal, no_progress
from rsna_e2e.inference.predict import make_series_table, make_table
from rsna_e2e.inference.predictions import PredictionTable, SeriesTable
from rsna_e2e.inference.predictor import Predictor
from rsna_e2e.inference.trained_model import TrainedModel
from rsna_e2e.store import Store
from rsna_e2e.store.prepare import NothingTakenError, prepare
from rsna_e2e.tasks.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomPrediction:
    """Predictions of every CT slice that was read, and the files that were not.

    table: the slices, series after series, each in geometric order. series: predictions of the series head, None where
    the model has none. label_names, series_label_names: of the L and M columns of their probabilities. refusals: files
    and frames that could not be taken, with the reason.
    """

    table: PredictionTable
    series: SeriesTable | None
    label_names: tuple[str, ...]
    series_label_names: tuple[str, ...]
    refusals: tuple[Refusal, ...]


def predict_dicom(
    trained: TrainedModel, raw: Path, *, n_jobs: int | None = None, progress: Progress = no_progress
) -> DicomPrediction:
    """Predict every CT slice of the DICOM files in `raw`, a folder or a zip archive, exactly as from a store of them.

    n_jobs: processes that read the files, by default one for each core. progress: is called first for the files, then
    for the predictions. A temporary store holds the pixels meanwhile, half a MiB for a slice of 512 x 512. Raises
    BadInputError when `raw` is missing or holds no usable slice, OutOfResourcesError when the temporary folder is too
    small.
    """
    with temporary_store(raw, trained.task, n_jobs=n_jobs, progress=progress) as store:
        predictor = Predictor(trained, store)
        prediction = predictor(predictor.positions("test"), progress=progress)
        return DicomPrediction(
            table=make_table(store, prediction.rows, prediction.slices),
            series=make_series_table(store, prediction, trained.task),
            label_names=trained.task.slices.names,
            series_label_names=trained.task.series_labels.names,
            refusals=tuple(store.read_refusals()),
        )


@contextmanager
def temporary_store(raw: Path, task: Task, *, n_jobs: int | None, progress: Progress) -> Iterator[Store]:
    """Yield a store of the files in `raw`, without labels, that goes afterwards. Raises what `predict_dicom` raises."""
    with tempfile.TemporaryDirectory(prefix="rsna_e2e-") as folder:
        path = Path(folder) / "store"
        try:
            prepare(raw, path, task=task, labels="none", n_jobs=n_jobs, progress=progress)
        except NothingTakenError as error:  # which names a table of refusals that goes with the temporary folder
            raise NothingTakenError(raw, error.refusals, modality=error.modality) from None
        with closing(Store.open(path)) as store:
            yield store
