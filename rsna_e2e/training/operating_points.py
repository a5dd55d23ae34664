"""Thresholds of labels or of boxes, chosen on the held-out fold in the best epoch of a run and kept with it."""

from collections.abc import Mapping
from pathlib import Path

from rsna_e2e.config import Frozen
from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.files import read_json, sealed, unsealed, write_json
from rsna_e2e.training.run_layout import OPERATING_POINTS


class OperatingPoints(Frozen):
    """From which probability on a slice is called to have a label, by label, or of a run that finds boxes, from which
    score on a box counts, by class of box. epoch: by whose validation."""

    epoch: int
    thresholds: dict[str, float]


def write_operating_points(run: Path, *, epoch: int, thresholds: Mapping[str, float]) -> None:
    """Keep the thresholds of a run's best epoch so far, in place of those of an earlier one."""
    points = OperatingPoints(epoch=epoch, thresholds=dict(thresholds))
    write_json(run / OPERATING_POINTS, sealed(points.model_dump()))


def read_operating_points(run: Path) -> OperatingPoints | None:
    """Return those of a run; None of one that held no fold out, or of an earlier version. Raises BadInputError."""
    path = run / OPERATING_POINTS
    if not path.exists():
        return None
    try:
        return OperatingPoints.model_validate(unsealed(read_json(path)), strict=True)
    except (OSError, ValueError):
        raise BadInputError(f"{path}: damaged. Put it back from a copy, or train again") from None
