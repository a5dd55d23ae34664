"""Counts what is known of the labels of a data set, and says in words what cannot be learned from them."""

# N slices or series, L labels of theirs

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rsna_e2e.tasks.task import Labels, Level, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelCounts:
    """Slices or series of which each label is known, and those that are positive, by label name.

    level: which of the two. any_name: the label that is the logical or of the others, "" without such.
    n_contradictory: how many there are in which it is 0 and another is not.
    """

    level: Level
    any_name: str
    known: dict[str, int]
    positive: dict[str, int]
    n_contradictory: int

    @property
    def unknown(self) -> tuple[str, ...]:
        """The labels of which nothing is known, where something is of others."""
        return tuple(name for name, n in self.known.items() if not n and any(self.known.values()))

    @property
    def without_positive(self) -> tuple[str, ...]:
        """The labels that are known and never positive."""
        return tuple(name for name, n in self.positive.items() if not n and self.known[name])

    def __str__(self) -> str:
        return ", ".join(f"{name} {self.positive[name]} of {n}" for name, n in self.known.items() if n) or "none"

    def warnings(self, where: str) -> list[str]:
        """Return what cannot be learned. where: what was counted is from, such as "the training set"."""
        said = []
        if self.unknown:
            said.append(
                f"no {self.level} of {where} has a label for {', '.join(self.unknown)}: a model does not learn these, "
                "and its predictions of them mean nothing"
            )
        if self.without_positive:
            said.append(
                f"no {self.level} of {where} is positive for {', '.join(self.without_positive)}: a model only learns "
                "to predict 0 for these"
            )
        return said


def warnings_of_levels(slices: LabelCounts, series: LabelCounts, where: str) -> list[str]:
    """Return what cannot be learned of both levels. where: as in `LabelCounts.warnings`."""
    said = [*slices.warnings(where), *series.warnings(where)]
    for one, other in ((slices, series), (series, slices)):
        if one.known and not any(one.known.values()) and any(other.known.values()):
            said.append(
                f"no {one.level} of {where} has a label of its own: a model does not learn {', '.join(one.known)}, and "
                "its predictions of them mean nothing"
            )
    return said


def count_labels(labels_NL: npt.NDArray[Any], task: Task, *, level: Level = "slice") -> LabelCounts:
    """Count labels of a level [N, L], NaN where they are unknown."""
    labels = task.slices if level == "slice" else task.series
    known_L, positive_L = (~np.isnan(labels_NL)).sum(axis=0), (labels_NL > 0).sum(axis=0)
    return LabelCounts(
        level=level,
        any_name=labels.any_name,
        known=dict(zip(labels.names, known_L.tolist(), strict=True)),
        positive=dict(zip(labels.names, positive_L.tolist(), strict=True)),
        n_contradictory=_count_contradictory(labels_NL, labels),
    )


def _count_contradictory(labels_NL: npt.NDArray[Any], labels: Labels) -> int:
    """Count where the or of the other labels is 0 and one of them is not."""
    if not labels.any_name:
        return 0
    any_index = labels.index(labels.any_name)
    others = np.delete(labels_NL, any_index, axis=1)
    return int(((labels_NL[:, any_index] == 0) & (others > 0).any(axis=1)).sum())
