"""What is chosen on the held-out fold in a run's best epoch and kept with it: thresholds, and calibration."""

from pathlib import Path

from rsna_e2e.tasks.task import Task
from rsna_e2e.training.calibration import fit_calibration, write_calibration
from rsna_e2e.training.operating_points import AtSensitivity, thresholds_at_sensitivity, write_operating_points
from rsna_e2e.training.scoring import Scores
from rsna_e2e.training.validation import HeldOut, Validation


def keep_choices(run: Path, scores: Scores, task: Task, *, epoch: int) -> None:
    """Keep what follows from the best epoch so far, in place of an earlier one; nothing where no fold is held out."""
    if not scores.thresholds:
        return
    held_out = scores.held_out() if isinstance(scores, Validation) and scores.held_out else None
    at_sensitivity = _at_sensitivity(held_out, task) if held_out else None
    write_operating_points(run, epoch=epoch, thresholds=scores.thresholds, at_sensitivity=at_sensitivity)
    if held_out is not None:
        write_calibration(run, fit_calibration([held_out], task, epoch=epoch))


def _at_sensitivity(held_out: HeldOut, task: Task) -> AtSensitivity:
    found = {"slices": thresholds_at_sensitivity(task.slices.names, held_out.truth.slices, held_out.slices)}
    if held_out.series is not None:
        names = task.series_labels.names
        found["series"] = thresholds_at_sensitivity(names, held_out.truth.series, held_out.series)
    return found
