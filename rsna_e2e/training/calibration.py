"""Calibration of a run: maps from what it predicts to calibrated probabilities, fitted on images that it held out."""

# N samples (slices or series), L labels

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from rsna_e2e.config import Frozen
from rsna_e2e.config.limits import Positive
from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.files import read_json, sealed, unsealed, write_json
from rsna_e2e.core.records import Float64Array, Rows
from rsna_e2e.tasks import metrics
from rsna_e2e.tasks.metrics import Scaling, Scalings
from rsna_e2e.tasks.task import Task
from rsna_e2e.training.run_layout import CALIBRATION
from rsna_e2e.training.validation import HeldOut

Level = Literal["slices", "series"]
How = Literal["default", "platt", "temperature"]

# Patients with and without a label that each parameter of its map needs, as of logistic regressions. Source:
# P. Peduzzi et al., J Clin Epidemiol 1996, 49:1373-1379
_PATIENTS_OF_PARAMETER = 10
_N_RESAMPLES, _SEED = 1000, 0  # of the intervals, and of the halves


class LabelCalibration(Frozen):
    """Both maps of one label, on the logit z of what is predicted: z / temperature, and slope * z + intercept.

    applied: which is, unless another is asked for; none: what is predicted stays. reason: of none, `few` patients with
    or without the label; `one class`, `separable` or `does not rank` (no better than chance), where nothing could be
    fitted and both maps are the identity; `no temperature`, where that map alone is. n_samples, n_positives: known ones
    that it was fitted to. ece_before, ece_after: calibration error, after `applied`, each half of the patients
    calibrated by the other; ece_change: after less before, with its 95 % interval over resamples of patients. None
    where there is nothing to measure.
    """

    applied: Literal["platt", "temperature", "none"]
    reason: str = ""
    temperature: Positive
    slope: Positive
    intercept: float
    n_samples: int
    n_positives: int
    ece_before: float | None = None
    ece_after: float | None = None
    ece_change: float | None = None
    ece_change_low: float | None = None
    ece_change_high: float | None = None

    def of(self, probability: Float64Array, how: How = "default") -> Float64Array:
        """Return calibrated probabilities, or thresholds: as maps keep ranks, these call what they called before."""
        by = self.applied if how == "default" else how
        if by == "none":
            return probability
        scalings = Scalings(temperature=self.temperature, slope=self.slope, intercept=self.intercept)
        return scalings.applied(probability, by)


class RunCalibration(Frozen):
    """The calibration of each label of slices, and of each of series where the run predicts such, by name.

    epoch: whose predictions of the plain images it is of; None: of predictions that were given by hand. n_patients: in
    what it was fitted to.
    """

    epoch: int | None
    n_patients: int
    slices: dict[str, LabelCalibration]
    series: dict[str, LabelCalibration]

    def level(self, level: Level) -> dict[str, LabelCalibration]:
        """Return the labels of a level."""
        return self.slices if level == "slices" else self.series

    def of(self, level: Level, probability_NL: Float64Array, how: How = "default") -> Float64Array:
        """Return calibrated probabilities of the labels of a level, which are in the order of the task."""
        columns = zip(self.level(level).values(), probability_NL.T, strict=True)
        return np.stack([label.of(probability_N, how) for label, probability_N in columns], axis=1)

    def thresholds(self, level: Level, thresholds: dict[str, float], how: How = "default") -> dict[str, float]:
        """Return thresholds of what is predicted as those of calibrated probabilities, that call the same samples."""
        labels = self.level(level)
        return {name: float(labels[name].of(np.array(value), how)) for name, value in thresholds.items()}


def fit_calibration(held_out: Sequence[HeldOut], task: Task, *, epoch: int | None) -> RunCalibration:
    """Fit the calibration of each label to predictions of images that those who predicted them had held out.

    held_out: of different series. epoch: see `RunCalibration`.
    """
    patients = np.concatenate([np.array(part.truth.patients, dtype=object).astype(str) for part in held_out])
    names, patient_S = np.unique(patients, return_inverse=True)
    lengths_S = np.concatenate([np.array(part.truth.lengths, dtype=np.int64) for part in held_out])
    of_series = [part.series for part in held_out if part.series is not None]
    has_series = len(of_series) == len(held_out)
    slices = _fit_level(
        *(task.slices.names, np.repeat(patient_S, lengths_S)),
        np.concatenate([part.truth.slices for part in held_out]),
        np.concatenate([part.slices for part in held_out]),
    )
    series: dict[str, LabelCalibration] = {}
    if has_series:
        truth_SM = np.concatenate([part.truth.series for part in held_out])
        series = _fit_level(task.series_labels.names, patient_S, truth_SM, np.concatenate(of_series))
    return RunCalibration(epoch=epoch, n_patients=len(names), slices=slices, series=series)


def _fit_level(
    names: Sequence[str], patient_N: Rows, truth_NL: Float64Array, probability_NL: Float64Array
) -> dict[str, LabelCalibration]:
    fitted = {}
    for name, truth_N, probability_N in zip(names, truth_NL.T, probability_NL.T, strict=True):
        is_known_N = ~np.isnan(truth_N)
        fitted[name] = _fit_label(truth_N[is_known_N], probability_N[is_known_N], patient_N[is_known_N])
    return fitted


def _fit_label(truth_N: Float64Array, probability_N: Float64Array, patient_N: Rows) -> LabelCalibration:
    """Fit one label to samples whose truth is known: Platt's map of two parameters where enough patients have the label
    and enough do not, temperature where half as many do, and none with fewer."""
    scalings = metrics.fit_scalings(truth_N, probability_N) if len(truth_N) else Scalings(reason="one class")
    n_rarer = min(len(np.unique(patient_N[truth_N == value])) for value in (0, 1))
    applied: Literal["platt", "temperature", "none"] = "none"
    reason = scalings.reason
    if reason in ("", metrics.NO_TEMPERATURE) and n_rarer >= 2 * _PATIENTS_OF_PARAMETER:
        applied = "platt"
    elif not reason and n_rarer >= _PATIENTS_OF_PARAMETER:
        applied = "temperature"
    elif not reason:
        reason = "few"
    return LabelCalibration(
        applied=applied,
        reason=reason,
        temperature=scalings.temperature,
        slope=scalings.slope,
        intercept=scalings.intercept,
        n_samples=len(truth_N),
        n_positives=int((truth_N == 1).sum()),
        **_errors(truth_N, probability_N, patient_N, applied),
    )


def _errors(
    truth_N: Float64Array, probability_N: Float64Array, patient_N: Rows, applied: Scaling | Literal["none"]
) -> dict[str, float | None]:
    """Return calibration errors before and after, and the interval of their difference, see `LabelCalibration`."""
    if not len(truth_N):
        return {}
    before = metrics.calibration(truth_N, probability_N).expected_error
    if applied == "none":
        return {"ece_before": before, "ece_after": before, "ece_change": 0.0}
    cluster_N = np.unique(patient_N, return_inverse=True)[1].astype(np.int64)
    after_N = metrics.cross_fitted(truth_N, probability_N, cluster_N, applied, seed=_SEED)
    after = metrics.calibration(truth_N, after_N).expected_error
    draws_BS = metrics.draw_resamples(int(cluster_N.max()) + 1, n_resamples=_N_RESAMPLES, seed=_SEED)
    after_B, before_B = (metrics.resampled_ece(truth_N, of, cluster_N, draws_BS) for of in (after_N, probability_N))
    change = metrics.with_interval(after - before, after_B - before_B, n_clusters=draws_BS.shape[1])
    ends = {"ece_change_low": change.low, "ece_change_high": change.high}
    finite = {name: end if math.isfinite(end) else None for name, end in ends.items()}
    return {"ece_before": before, "ece_after": after, "ece_change": change.value, **finite}


def write_calibration(run: Path, calibration: RunCalibration) -> None:
    """Keep the calibration of a run, in place of an earlier one."""
    write_json(run / CALIBRATION, sealed(calibration.model_dump()))


def read_calibration(run: Path, task: Task) -> RunCalibration | None:
    """Return that of a run; None of one that held no fold out, or of an earlier version.

    Raises BadInputError where it is damaged, or not of the labels of the task.
    """
    path = run / CALIBRATION
    if not path.exists():
        return None
    try:
        found = RunCalibration.model_validate(unsealed(read_json(path)), strict=True)
    except (OSError, ValueError):
        found = None
    if (
        found is None
        or tuple(found.slices) != task.slices.names
        or tuple(found.series) not in ((), task.series_labels.names)
    ):
        raise BadInputError(
            f"{path}: damaged. Put it back from a copy, or fit another: rsna-e2e calibrate {run} --data STORE"
        )
    return found
