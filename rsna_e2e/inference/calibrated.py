"""The calibration of a run applied to what it predicts, and the note beside a submission that says so."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from rsna_e2e.config import View
from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.files import read_json, write_json
from rsna_e2e.inference.predictions import beside
from rsna_e2e.inference.trained_model import TrainedModel
from rsna_e2e.model.forward import Prediction
from rsna_e2e.training.calibration import How, LabelCalibration, RunCalibration, read_calibration

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrator:
    """What makes calibrated probabilities of a run's own. how: by which map."""

    calibration: RunCalibration
    how: How

    @classmethod
    def of(
        cls, trained: TrainedModel, how: How, *, split: str, views: Sequence[View] = ("plain",), is_mean: bool = False
    ) -> Self:
        """Return that of a run with the checkpoint that is loaded, or of the mean over several, to use on a split.

        Raises BadInputError where the run has no calibration, or a damaged one, and UsageError for one that finds boxes
        and where the calibration is of other predictions: of the plain images, by another epoch.
        """
        trained.config.model.check_predicts_labels("--calibrated")
        calibration = read_calibration(trained.run, trained.task)
        if calibration is None:
            raise BadInputError(
                f"{trained.named}: has no calibration, as runs have that held a fold out. {_way_out(trained)}"
            )
        is_other = is_mean or trained.epoch != calibration.epoch or tuple(views) != ("plain",)
        if calibration.epoch is not None and is_other:
            raise UsageError(
                f"--calibrated: that of {trained.named} was fitted to predictions of plain images by epoch "
                f"{calibration.epoch}, the best. Leave out --checkpoint and --views, or predict --split validation "
                f"with them and fit another: rsna-e2e calibrate {trained.named} --data STORE --predictions FILE"
            )
        if split == "validation":
            logger.warning(
                "split validation is what the calibration of %s was fitted to, and looks better calibrated than other "
                "patients: see rsna-e2e calibrate %s, or --split test",
                trained.named,
                trained.named,
            )
        return cls(calibration=calibration, how=how)

    def __call__(self, prediction: Prediction) -> Prediction:
        """Return what `applied` returns, and tell the operator which labels stay as they were predicted."""
        found = self.applied(prediction)
        self._warn()
        return found

    def applied(self, prediction: Prediction) -> Prediction:
        """Return a prediction with calibrated probabilities. Raises BadInputError for series that it does not know."""
        slices, series = self.calibration.of("slices", prediction.slices, self.how), prediction.series
        if series is not None:
            if not self.calibration.series:
                raise BadInputError("the calibration is of slices alone, and the run predicts series too. Fit another")
            series = self.calibration.of("series", series, self.how)
        return replace(prediction, slices=slices, series=series)

    def write_note(self, submission: Path) -> None:
        """Write beside a submission that its probabilities are calibrated, and by what."""
        content = {"how": self.how, **self.calibration.model_dump()}
        write_json(beside(submission, "calibrated.json"), content)

    def _warn(self) -> None:
        """Tell the operator which labels stay as they were predicted."""
        labels = [*self.calibration.slices.items(), *self.calibration.series.items()]
        if kept := [f"{name} ({label.reason})" for name, label in labels if _stays(label, self.how)]:
            logger.warning("not calibrated, for the reason in brackets (docs/evaluation.md): %s", ", ".join(kept))


def _way_out(trained: TrainedModel) -> str:
    """Return what to do about a calibration that is missing."""
    if trained.named != trained.run:
        return "Calibrate the run that it was made of, and export that again"
    return f"Fit one: rsna-e2e calibrate {trained.run} --data STORE"


def is_calibrated(submission: Path) -> bool:
    """Whether what stands beside a submission says that predict calibrated it.

    Raises BadInputError where that is damaged.
    """
    of_runs = beside(submission, "runs.json")
    if not of_runs.exists():
        return beside(submission, "calibrated.json").exists()
    try:
        return bool(read_json(of_runs).get("calibrated"))
    except (OSError, ValueError, AttributeError):  # the last: no object
        raise BadInputError(f"{of_runs}: damaged. Predict again") from None


def _stays(label: LabelCalibration, how: How) -> bool:
    if how == "default":
        return label.applied == "none"
    return (label.temperature if how == "temperature" else label.slope) == 1.0
