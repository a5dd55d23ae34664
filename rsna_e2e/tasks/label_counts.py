"""Counts what is known of the labels of a data set, and says in words what cannot be learned from them."""

# N slices, L labels

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rsna_e2e.tasks.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelCounts:
    """Slices of which each label is known, and those that are positive, by label name.

    any_name: the label that is the logical or of the others, "" without such. n_contradictory: slices in which it is 0
    and another is not.
    """

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
        """Return what cannot be learned. where: the slices that were counted, such as "the training series"."""
        said = []
        if self.unknown:
            said.append(
                f"no slice of {where} has a label for {', '.join(self.unknown)}: a model does not learn these, and its "
                "predictions of them mean nothing"
            )
        if self.without_positive:
            said.append(
                f"no slice of {where} is positive for {', '.join(self.without_positive)}: a model only learns to "
                "predict 0 for these"
            )
        return said


def count_labels(labels_NL: npt.NDArray[Any], task: Task) -> LabelCounts:
    """Count labels [N, L], NaN where they are unknown."""
    known_L, positive_L = (~np.isnan(labels_NL)).sum(axis=0), (labels_NL > 0).sum(axis=0)
    return LabelCounts(
        any_name=task.slices.any_name,
        known=dict(zip(task.slices.names, known_L.tolist(), strict=True)),
        positive=dict(zip(task.slices.names, positive_L.tolist(), strict=True)),
        n_contradictory=_count_contradictory(labels_NL, task),
    )


def _count_contradictory(labels_NL: npt.NDArray[Any], task: Task) -> int:
    """Count the slices in which the or of the other labels is 0 and one of them is not."""
    if not task.slices.any_name:
        return 0
    any_index = task.slices.index(task.slices.any_name)
    others = np.delete(labels_NL, any_index, axis=1)
    return int(((labels_NL[:, any_index] == 0) & (others > 0).any(axis=1)).sum())
