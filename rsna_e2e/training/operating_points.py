"""Thresholds of labels or of boxes, chosen on the held-out fold in the best epoch of a run and kept with it."""

# N samples, L labels

from collections.abc import Mapping, Sequence
from pathlib import Path

from rsna_e2e.config import Frozen
from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.files import read_json, sealed, unsealed, write_json
from rsna_e2e.core.records import Float64Array
from rsna_e2e.tasks.metrics import sensitivity_threshold
from rsna_e2e.training.run_layout import OPERATING_POINTS

SENSITIVITIES = (0.90, 0.95)
AtSensitivity = dict[str, dict[str, dict[str, float]]]  # thresholds by level, share and label


class OperatingPoints(Frozen):
    """From which probability on a slice is called to have a label, by label, or of a run that finds boxes, from which
    score on a box counts, by class of box. epoch: by whose validation.

    at_sensitivity: the highest thresholds at which at least such a share of the positives is called, by level (slices,
    and series where the run predicts such), share and label; None of boxes, and of earlier versions. All are of
    probabilities as they are predicted, see `RunCalibration.thresholds`.
    """

    epoch: int
    thresholds: dict[str, float]
    at_sensitivity: AtSensitivity | None = None

    def at(self, level: str, share: float) -> dict[str, float]:
        """Return the thresholds of labels at such a sensitivity; none where they are not known."""
        return (self.at_sensitivity or {}).get(level, {}).get(_word(share), {})


def write_operating_points(
    run: Path,
    *,
    epoch: int,
    thresholds: Mapping[str, float],
    at_sensitivity: AtSensitivity | None = None,
) -> None:
    """Keep the thresholds of a run's best epoch so far, in place of those of an earlier one."""
    points = OperatingPoints(epoch=epoch, thresholds=dict(thresholds), at_sensitivity=at_sensitivity)
    write_json(run / OPERATING_POINTS, sealed(points.model_dump(exclude_defaults=True)))


def thresholds_at_sensitivity(
    names: Sequence[str], truth_NL: Float64Array, probability_NL: Float64Array
) -> dict[str, dict[str, float]]:
    """Return the thresholds of labels, by the share of the positives that is at least to be called."""
    columns = [*zip(names, truth_NL.T, probability_NL.T, strict=True)]
    return {
        _word(share): {name: sensitivity_threshold(truth, found, share) for name, truth, found in columns}
        for share in SENSITIVITIES
    }


def _word(share: float) -> str:
    return f"{share:.2f}"


def read_operating_points(run: Path) -> OperatingPoints | None:
    """Return those of a run; None of one that held no fold out, or of an earlier version. Raises BadInputError."""
    path = run / OPERATING_POINTS
    if not path.exists():
        return None
    try:
        return OperatingPoints.model_validate(unsealed(read_json(path)), strict=True)
    except (OSError, ValueError):
        raise BadInputError(f"{path}: damaged. Put it back from a copy, or train again") from None
