"""A model as it is served: the runs of a bundle, whose calibrated probabilities are averaged, or one that finds boxes;
and its thresholds."""

# L labels of slices, M of series

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.records import Progress, no_progress
from rsna_e2e.inference.bundle import KNOWN, open_bundle, task_of
from rsna_e2e.inference.calibrated import Calibrator
from rsna_e2e.inference.known_answers import check_answers
from rsna_e2e.inference.mean import mean_of, summed
from rsna_e2e.inference.predict_boxes import found_boxes, least_scores
from rsna_e2e.inference.predictor import Predictor
from rsna_e2e.inference.trained_model import TrainedModel
from rsna_e2e.model.find_boxes import BoxPrediction
from rsna_e2e.model.forward import Prediction
from rsna_e2e.store import Store
from rsna_e2e.tasks.metrics import DECISION_THRESHOLD
from rsna_e2e.tasks.task import Task
from rsna_e2e.training.calibration import Level, RunCalibration, read_calibration
from rsna_e2e.training.operating_points import SENSITIVITIES


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model ready to be asked about studies.

    name, version: as they were exported; identity: 16 hexadecimal digits that no other model has. thresholds: of
    calibrated probabilities, by level, slices and series, and label: those at which 90 % of the positives that a run
    held out are found, the mean over runs that have such. Labels of which none is known are not in it. Of a run that
    finds boxes, a level of slices alone: the scores from which on `predict` submits its boxes, by class of boxes.
    """

    name: str
    version: str
    identity: str
    members: tuple[TrainedModel, ...]
    calibrators: tuple[Calibrator | None, ...]
    thresholds: Mapping[Level, Mapping[str, float]]

    @classmethod
    def open(cls, path: Path, *, device: str = "auto") -> Self:
        """Open a bundle, whose known answers are compared, or a run folder.

        Raises BadInputError as `TrainedModel.open` and `check_answers` do, and UsageError for several runs of which one
        finds boxes, and for runs that learned from stored embeddings.
        """
        is_bundle = path.is_file()
        if is_bundle:
            bundle = open_bundle(path)
            runs, described = bundle.runs, bundle.description
            name, version, identity = described.name, described.version, bundle.identity
        else:
            runs, name, version, identity = (path,), path.name, "", ""
        members = tuple(TrainedModel.open(run, device=device) for run in runs)
        for trained in members:
            if trained.config.model.finds_boxes and len(members) > 1:
                raise UsageError(f"{path}: boxes of several runs are not merged. Export one of its {len(members)} runs")
            if is_bundle:
                check_answers(trained, trained.run / KNOWN)
        task_of([trained.task for trained in members])
        calibrations = [_calibration(trained) for trained in members]
        return cls(
            name=name,
            version=version,
            identity=identity or members[0].weights_sha256[:16],
            members=members,
            calibrators=tuple(
                None if one is None else Calibrator(calibration=one, how="default") for one in calibrations
            ),
            thresholds=_thresholds(members, calibrations),
        )

    @property
    def task(self) -> Task:
        """What it predicts."""
        return self.members[0].task

    @property
    def finds_boxes(self) -> bool:
        """Whether it finds boxes in slices, in place of probabilities of labels."""
        return self.members[0].config.model.finds_boxes

    @property
    def slice_labels(self) -> tuple[str, ...]:
        """The labels of slices that its results have: those of the task, or its classes of boxes."""
        return self.task.boxes if self.finds_boxes else self.task.slices.names

    def __call__(
        self, store: Store, positions: Sequence[int], *, progress: Progress = no_progress
    ) -> Prediction | BoxPrediction:
        """Return the calibrated probabilities of series of a store, the mean over its runs, or all boxes in them."""
        if self.finds_boxes:
            return found_boxes(Predictor(self.members[0], store), positions, progress=progress)
        total: Prediction | None = None
        for trained, calibrator in zip(self.members, self.calibrators, strict=True):
            found = Predictor(trained, store)(positions, progress=progress)
            total = summed(total, found if calibrator is None else calibrator.applied(found))
        assert total is not None
        return mean_of(total, len(self.members))

    def threshold(self, level: Level, name: str) -> tuple[float, bool]:
        """Return from which probability, or score of a box, on a label is said to be there, and whether that was
        learned, or is 0.5."""
        found = self.thresholds[level].get(name)
        return (DECISION_THRESHOLD, False) if found is None else (found, True)


def _calibration(trained: TrainedModel) -> RunCalibration | None:
    """Return the calibration of what is predicted: of this epoch, of plain images."""
    found = read_calibration(trained.run, trained.task)
    return found if found is not None and found.epoch in (trained.epoch, None) else None


def _thresholds(
    members: Sequence[TrainedModel], calibrations: Sequence[RunCalibration | None]
) -> dict[Level, dict[str, float]]:
    if members[0].config.model.finds_boxes:
        of_boxes = least_scores(members[0]) or {}
        _check(members[0].named, of_boxes, members[0].task.boxes)
        return {"slices": of_boxes, "series": {}}
    found: dict[Level, dict[str, list[float]]] = {"slices": {}, "series": {}}
    for trained, calibration in zip(members, calibrations, strict=True):
        for level, of_level in found.items():
            at = _at_sensitivity(trained, level)
            for name, value in (calibration.thresholds(level, at) if calibration is not None else at).items():
                of_level.setdefault(name, []).append(value)
    return {
        level: {name: sum(values) / len(values) for name, values in of_level.items()}
        for level, of_level in found.items()
    }


def _at_sensitivity(trained: TrainedModel, level: Level) -> dict[str, float]:
    """Return the thresholds of a run's labels of a level, where it has any of this epoch. Raises BadInputError."""
    points = trained.operating_points
    at = points.at(level, SENSITIVITIES[0]) if points is not None else {}
    _check(trained.named, at, (trained.task.slices if level == "slices" else trained.task.series_labels).names)
    return at


def _check(run: Path, thresholds: Mapping[str, float], names: Sequence[str]) -> None:
    if thresholds and (set(thresholds) != set(names) or not all(0 <= value <= 1 for value in thresholds.values())):
        raise BadInputError(f"{run}: its thresholds are not of its labels. Export or train it again")
