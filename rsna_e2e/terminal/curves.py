"""The curves of a run: what its metrics say of each epoch."""

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.records import printable
from rsna_e2e.training.run_layout import METRICS

_TRAINING = "train_"  # kinds of lines of single steps begin so
_LAST_EPOCH = 10**9  # more are no epochs; of a number beyond floats no chart can be drawn


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """Values by epoch, by the name of a curve: of training the mean loss over its steps, of validation each score. At
    least one is a loss."""

    of_name: Mapping[str, Mapping[int, float]]

    @property
    def losses(self) -> dict[str, Mapping[int, float]]:
        """The curves of losses."""
        return {name: curve for name, curve in self.of_name.items() if "loss" in name}

    def rows(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Return a table: its header, and a row for each epoch, with - where nothing is known."""
        epochs = sorted({epoch for curve in self.of_name.values() for epoch in curve})
        rows = [
            (str(epoch), *(f"{curve[epoch]:.4f}" if epoch in curve else "-" for curve in self.of_name.values()))
            for epoch in epochs
        ]
        return ("epoch", *self.of_name), rows


def read_curves(path: Path) -> Curves:
    """Read the curves of a run folder.

    Raises UsageError for a bundle, which holds none, BadInputError where there are no metrics. A line that is no JSON,
    as the last of a run that was killed, or of no possible epoch, is passed over, and so is a value that is no float.
    """
    try:
        if path.is_file():
            raise UsageError(
                f"{path}: is a bundle, which holds no metrics. Give the folder of the run that it was made of"
            )
        lines = (path / METRICS).read_text(encoding="utf-8", errors="replace").splitlines()
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        why = getattr(error, "strerror", None) or str(error)
        raise BadInputError(f"{path / METRICS}: cannot be read: {why}. Give the folder of a run") from error
    values: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for entry in filter(None, map(_entry, lines)):
        kind = str(entry.get("kind", ""))
        for name, value in entry.items():
            if _is_curve(kind, name) and _is_number(value):
                values[printable(f"{kind} {name}".replace("_", " "))][entry["epoch"]].append(value)
    curves = Curves(
        of_name={
            name: {epoch: sum(value / len(found) for value in found) for epoch, found in sorted(by_epoch.items())}
            for name, by_epoch in values.items()
        }
    )
    if not curves.losses:
        raise BadInputError(f"{path / METRICS}: holds no loss of an epoch yet. Wait for the run's first steps")
    return curves


def _entry(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or type(entry.get("epoch")) is not int:
        return None
    return entry if 0 <= entry["epoch"] <= _LAST_EPOCH else None


def _is_curve(kind: str, name: str) -> bool:
    if kind.startswith(_TRAINING):
        return name == "loss"
    return name not in ("kind", "step", "epoch") and not name.startswith("n_")


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number that is no float
        return False
