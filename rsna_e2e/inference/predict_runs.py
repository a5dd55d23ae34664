"""Predicts with several runs, an ensemble: the mean of their probabilities."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rsna_e2e.config import View
from rsna_e2e.core.errors import UsageError
from rsna_e2e.core.files import real_path, write_json
from rsna_e2e.core.records import Progress, no_progress
from rsna_e2e.inference.bundle import noted
from rsna_e2e.inference.calibrated import Calibrator
from rsna_e2e.inference.mean import mean_of, summed
from rsna_e2e.inference.missing import MissingImages, list_missing
from rsna_e2e.inference.predict import write_prediction
from rsna_e2e.inference.predictions import beside
from rsna_e2e.inference.predictor import Predictor
from rsna_e2e.inference.submission import prepare_submission
from rsna_e2e.inference.trained_model import TrainedModel
from rsna_e2e.inference.truth import TruthFile, write_truth
from rsna_e2e.model.forward import Prediction
from rsna_e2e.store import Store
from rsna_e2e.tasks.task import Task
from rsna_e2e.training.calibration import How


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMean:
    """The files written, how many runs are in the mean, and the images of the split that it lacks."""

    submission: Path
    manifest: Path
    truth: TruthFile | None
    missing: MissingImages
    n_runs: int
    damaged: tuple[str, ...]


def predict_runs(
    runs: Sequence[Path],
    store: Store,
    *,
    split: str,
    out: Path,
    checkpoint: str = "auto",
    views: Sequence[View] = ("plain",),
    is_raw: bool = False,
    calibrated: How | None = None,
    device: str = "auto",
    progress: Progress = no_progress,
) -> RunMean:
    """Predict every slice of a split with each of `runs`, one after the other, and write the mean.

    The submission and its tables are as `predict` writes them; `<out>.runs.json` names the checkpoint of each run.
    calibrated: each run by its own calibration, before the mean. Raises what `predict` raises, and UsageError for a run
    given twice, runs for different labels, that hold out other folds where split is validation, that find boxes, or of
    which only some predict series.
    """
    if len({real_path(run) for run in runs}) < len(runs):
        raise UsageError("a run stands twice among those to average. Give each once")
    ensemble = _Ensemble(store, split)
    for number, run in enumerate(runs):
        trained = TrainedModel.open(run, checkpoint, device=device)
        predictor = Predictor(trained, store, views=views)
        positions = ensemble.positions_of(predictor)
        prepare_submission(out, trained.task, example="submission.csv")
        calibrator = Calibrator.of(trained, calibrated, split=split, views=views) if calibrated else None
        prediction = predictor(positions, progress=_part(progress, number, len(runs)))
        ensemble.add(trained, calibrator(prediction) if calibrator else prediction)
        del trained, predictor  # before the next one is opened
    return RunMean(
        submission=out,
        manifest=beside(out, "runs.json"),
        truth=ensemble.write(out, is_raw=is_raw, how={"views": list(views), "calibrated": calibrated}),
        missing=list_missing(store, split, submission=out),
        n_runs=len(runs),
        damaged=tuple(ensemble.damaged),
    )


class _Ensemble:
    """The sum of what runs predict of a split, and which they are; none of their networks."""

    def __init__(self, store: Store, split: str) -> None:
        self._store, self._split = store, split
        self._first: tuple[Path, Task, list[int], bool] | None = None
        self._total: Prediction | None = None
        self._members: list[dict[str, str]] = []
        self.damaged: list[str] = []

    def positions_of(self, other: Predictor) -> list[int]:
        """Return the positions of the split. Raises UsageError where no mean can be made of this run and those before,
        and what `Predictor.positions` does."""
        one = other.trained
        one.config.model.check_predicts_labels("a mean of several runs")
        own = one.named, one.task, other.positions(self._split), one.joint.study_head is not None
        run, task, positions, has_series = self._first = self._first or own
        runs = f"{run}, {one.named}"
        if replace(task, inputs=one.task.inputs) != one.task:  # runs may see other channels
            raise UsageError(f"{runs}: are for different labels, and a mean is of one")
        if has_series != own[3]:
            raise UsageError(f"{runs}: only one of them predicts series. Average runs that both do, or neither")
        if positions != own[2]:
            raise UsageError(f"{runs}: hold out different folds. Predict each its own fold, or --split test")
        return positions

    def add(self, one: TrainedModel, prediction: Prediction) -> None:
        """Add what a run predicts."""
        self._total = summed(self._total, prediction)
        self._members.append({"run": noted(one.run), "checkpoint": one.checkpoint.name, "sha256": one.weights_sha256})
        self.damaged += one.damaged

    def write(self, out: Path, *, is_raw: bool, how: Mapping[str, object]) -> TruthFile | None:
        """Write the mean, of what it is one, and the truth as far as the store has it."""
        assert self._first is not None
        assert self._total is not None
        task, mean = self._first[1], mean_of(self._total, len(self._members))
        write_prediction(self._store, task, mean, out=out, is_raw=is_raw)
        described = {"task": task.name, "split": self._split, **how, "members": self._members}
        write_json(beside(out, "runs.json"), described)
        return write_truth(self._store, mean, task=task, submission=out)


def _part(progress: Progress, number: int, n_runs: int) -> Progress:
    """The progress of one of several equal parts."""

    def show(done: int, total: int, note: str = "") -> None:
        progress(number * total + done, n_runs * total, f"run {number + 1} of {n_runs}  {note}".rstrip())

    return show
