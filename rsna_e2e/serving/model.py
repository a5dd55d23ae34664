"""A model as it is served: the runs of a bundle, whose calibrated probabilities are averaged, and its thresholds."""

# L labels of slices, M of series

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from rsna_e2e.core.errors import UsageError
from rsna_e2e.core.records import Progress, no_progress
from rsna_e2e.inference.bundle import KNOWN, open_bundle
from rsna_e2e.inference.calibrated import Calibrator
from rsna_e2e.inference.known_answers import largest_difference
from rsna_e2e.inference.mean import mean_of, summed
from rsna_e2e.inference.predictor import Predictor
from rsna_e2e.inference.trained_model import TrainedModel
from rsna_e2e.model.forward import Prediction
from rsna_e2e.store import Store
from rsna_e2e.tasks.metrics import DECISION_THRESHOLD
from rsna_e2e.tasks.task import Task
from rsna_e2e.training.calibration import RunCalibration, read_calibration
from rsna_e2e.training.operating_points import SENSITIVITIES, read_operating_points

_SENSITIVITY = f"{SENSITIVITIES[0]:.2f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model ready to be asked about studies.

    name, version: as they were exported; identity: 16 hexadecimal digits that no other model has. thresholds: by level,
    slices and series, and label, of what is predicted, from which on a label is said to be there: those at which 90 %
    of the positives that a run held out are found, the mean over runs; 0.5 for labels of which none is known.
    """

    name: str
    version: str
    identity: str
    members: tuple[TrainedModel, ...]
    calibrators: tuple[Calibrator | None, ...]
    thresholds: Mapping[str, Mapping[str, float]]

    @classmethod
    def open(cls, path: Path, *, device: str = "auto") -> Self:
        """Open a bundle, or a run folder. Raises BadInputError as `TrainedModel.open` does, and UsageError for runs
        that find boxes or learned from stored embeddings."""
        if path.is_file():
            bundle = open_bundle(path)
            runs, described = bundle.runs, bundle.description
            name, version, identity = described.name, described.version, bundle.identity
        else:
            runs, name, version, identity = (path,), path.name, "", ""
        members = tuple(TrainedModel.open(run, device=device) for run in runs)
        for trained in members:
            if trained.config.model.finds_boxes:
                raise UsageError(f"{path}: finds boxes. For boxes: rsna-e2e predict")
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

    def __call__(self, store: Store, positions: Sequence[int], *, progress: Progress = no_progress) -> Prediction:
        """Return the calibrated probabilities of series of a store, the mean over its runs."""
        total: Prediction | None = None
        for trained, calibrator in zip(self.members, self.calibrators, strict=True):
            found = Predictor(trained, store)(positions, progress=progress)
            total = summed(total, found if calibrator is None else calibrator.applied(found))
        assert total is not None
        return mean_of(total, len(self.members))

    def self_test(self) -> float:
        """Return the largest difference to the answers that came with it, 0 for a run folder, which has none."""
        known = [(trained, trained.run / KNOWN) for trained in self.members]
        return max((largest_difference(trained, path) for trained, path in known if path.is_file()), default=0.0)


def _calibration(trained: TrainedModel) -> RunCalibration | None:
    """Return the calibration of what is predicted: of this epoch, of plain images."""
    found = read_calibration(trained.run, trained.task)
    return found if found is not None and found.epoch in (trained.epoch, None) else None


def _thresholds(
    members: Sequence[TrainedModel], calibrations: Sequence[RunCalibration | None]
) -> dict[str, dict[str, float]]:
    task = members[0].task
    names = {"slices": task.slices.names, "series": task.series_labels.names}
    found: dict[str, dict[str, list[float]]] = {level: {name: [] for name in names[level]} for level in names}
    for trained, calibration in zip(members, calibrations, strict=True):
        points = read_operating_points(trained.run)
        if points is None or points.at_sensitivity is None or points.epoch != trained.epoch:
            continue
        for level, by_share in points.at_sensitivity.items():
            at = by_share[_SENSITIVITY]
            if calibration is not None:
                at = calibration.thresholds("slices" if level == "slices" else "series", at)
            for name, value in at.items():
                found[level][name].append(value)
    return {
        level: {name: sum(values) / len(values) if values else DECISION_THRESHOLD for name, values in of.items()}
        for level, of in found.items()
    }
