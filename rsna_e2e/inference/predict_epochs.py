"""Averages the predictions of all epochs of a run, as the published solution did."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rsna_e2e.config import View
from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.files import write_json
from rsna_e2e.core.records import Progress, no_progress
from rsna_e2e.inference.calibrated import Calibrator
from rsna_e2e.inference.mean import mean_of, summed
from rsna_e2e.inference.missing import MissingImages, list_missing
from rsna_e2e.inference.predict import write_prediction
from rsna_e2e.inference.predictions import PredictionTable, beside
from rsna_e2e.inference.predictor import Predictor
from rsna_e2e.inference.submission import prepare_submission
from rsna_e2e.inference.trained_model import TrainedModel
from rsna_e2e.inference.truth import TruthFile, write_truth
from rsna_e2e.loader.holdout import validation_series
from rsna_e2e.model.forward import Prediction
from rsna_e2e.store import Store
from rsna_e2e.store.embeddings import Embeddings
from rsna_e2e.tasks.metrics import scorable
from rsna_e2e.training.calibration import How
from rsna_e2e.training.checkpoint import kept_epochs
from rsna_e2e.training.run_folder import read_config
from rsna_e2e.training.validation import FoldTruth, loss_of_score


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochMember:
    """One epoch of the mean. sha256: of its weights.

    log_loss: on the run's validation fold; mean_log_loss: of the mean of the epochs up to it. None without a fold.
    """

    epoch: int
    checkpoint: str
    sha256: str
    log_loss: float | None
    mean_log_loss: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochMean:
    """The files written, the mean itself, the epochs in it, and the images of the split that it lacks.

    truth: None where the store has no labels of the split.
    """

    submission: Path
    manifest: Path
    table: PredictionTable
    truth: TruthFile | None
    missing: MissingImages
    members: tuple[EpochMember, ...]


def predict_epochs(
    run: Path,
    store: Store,
    *,
    split: str,
    out: Path,
    embeddings: Embeddings | None = None,
    views: Sequence[View] = ("plain",),
    epochs: Sequence[int] | None = None,
    is_raw: bool = False,
    calibrated: How | None = None,
    device: str = "auto",
    progress: Progress = no_progress,
) -> EpochMean:
    """Predict every slice of a split with the end of every epoch of a run (or of these), and write the mean.

    The submission and its tables are as `predict` writes them; `<out>.epochs.json` says which checkpoints were
    averaged, and how each and their mean score on the fold that the run held out, where the store has it. calibrated:
    the mean, by which map of a calibration that was fitted to such means. Raises what `predict` raises, and
    BadInputError for an epoch that was not kept and a run that has not ended.
    """
    chosen = _all_epochs(run) if epochs is None else list(epochs)
    trained = TrainedModel.open(run, _checkpoint(chosen[0]), device=device, embeddings=embeddings)
    prepare_submission(out, trained.task, example="submission.csv")
    predictor = Predictor(trained, store, views=views)
    calibrator = Calibrator.of(trained, calibrated, split=split, views=views, is_mean=True) if calibrated else None
    prediction, members = _average(predictor, predictor.positions(split), chosen, progress)
    table = write_prediction(store, trained.task, prediction, out=out, is_raw=is_raw, calibrator=calibrator)
    manifest = beside(out, "epochs.json")
    listed = [asdict(member) for member in members]
    described = {"task": trained.task.name, "split": split, "n_slices": len(table.image_ids), "members": listed}
    write_json(manifest, described)
    return EpochMean(
        submission=out,
        manifest=manifest,
        table=table,
        truth=write_truth(store, prediction, task=trained.task, submission=out),
        missing=list_missing(store, split, submission=out),
        members=tuple(members),
    )


def _average(
    predictor: Predictor, positions: Sequence[int], epochs: Sequence[int], progress: Progress
) -> tuple[Prediction, list[EpochMember]]:
    """Return the mean of what the ends of `epochs`, the first of which is loaded, predict, and how each scores."""
    trained, validation = predictor.trained, _Validation(predictor)
    total: Prediction | None = None
    members = []
    for done, epoch in enumerate(epochs, start=1):
        if done > 1:
            trained.load(_checkpoint(epoch))
        total = summed(total, predictor(positions))
        loss, mean_loss = validation.score()
        members.append(
            EpochMember(
                epoch=epoch,
                checkpoint=trained.checkpoint.name,
                sha256=trained.weights_sha256,
                log_loss=loss,
                mean_log_loss=mean_loss,
            )
        )
        progress(done, len(epochs), "" if mean_loss is None else f"validation log loss {mean_loss:.4f}")
    assert total is not None
    return mean_of(total, len(epochs)), members


def _checkpoint(epoch: int) -> str:
    return f"epoch-{epoch}"


def _all_epochs(run: Path) -> list[int]:
    """The epochs in which what predicts was trained: those of a phase before the head's do not count."""
    config = read_config(run)
    n_before = config.slice_phase.epochs if config.slice_phase is not None else 0
    first, last = (1, n_before) if config.model.head == "none" else (n_before + 1, n_before + config.epochs)
    kept = [epoch for epoch in kept_epochs(run) if epoch >= first]
    has_ended = bool(kept) and (kept[-1] == last or config.early_stopping_epochs is not None)
    if not has_ended:
        raise BadInputError(f"{run}: has not come to its end, epoch {last}. Go on with train --resume auto")
    if kept[0] != first or kept[-1] - first + 1 != len(kept):
        raise BadInputError(f"{run}: has the ends of epochs {kept} only. Remove the run and train it again")
    return kept


class _Validation:
    """Scores checkpoints, and the mean of all so far, on what is known of the validation fold."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor, self._task = predictor, predictor.trained.task
        self._positions = validation_series(predictor.store, predictor.trained.config)
        self._truth = FoldTruth.of(predictor.store, self._positions, self._task)
        self._total: Prediction | None = None
        self._n = 0

    def score(self) -> tuple[float, float] | tuple[None, None]:
        """Return the loss by the weights that are loaded, and that of the mean; None, None where nothing is known."""
        if not scorable(self._truth.slices)[0].any():
            return None, None
        prediction = self._predictor(self._positions)
        self._total, self._n = summed(self._total, prediction), self._n + 1
        return self._loss(prediction), self._loss(mean_of(self._total, self._n))

    def _loss(self, prediction: Prediction) -> float:
        return loss_of_score(self._truth, prediction.slices, prediction.series, self._task)
