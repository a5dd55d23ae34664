"""Truth, and the list of missing images, that a mean of submissions takes over from those it is made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from rsna_e2e.core.files import atomic_writer
from rsna_e2e.inference.predictions import Derived, beside
from rsna_e2e.inference.truth import TruthFile
from rsna_e2e.tasks.labels import LabelTable, read_labels
from rsna_e2e.tasks.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriedNotes:
    """Contents of the files beside submissions, where all that have one agree; None where they do not, or none has one.

    with_truth: the images of the truth.
    """

    truth: bytes | None
    with_truth: frozenset[str]
    missing: bytes | None

    @classmethod
    def of(cls, submissions: Sequence[Path], task: Task) -> Self:
        """Read what stands beside these submissions. Raises BadInputError for truth that is no label file."""
        truths, missing = _contents(submissions, "truth.csv"), list(_contents(submissions, "missing.csv"))
        tables = [read_labels(path, task) for path in truths.values()]  # of other stores the order may differ
        agree = all(_agree(table, tables[0]) for table in tables)
        return cls(
            truth=next(iter(truths)) if tables and agree else None,
            with_truth=frozenset(tables[0].image_ids) if tables and agree else frozenset(),
            missing=missing[0] if len(missing) == 1 else None,
        )

    def write(self, submission: Path, image_ids: Sequence[str]) -> TruthFile | None:
        """Write them beside the mean, a submission of these images; return its truth."""
        if self.missing is not None:
            _write(beside(submission, "missing.csv"), self.missing)
        if self.truth is None:
            return None
        path = beside(submission, "truth.csv")
        _write(path, self.truth)
        n_slices = len(self.with_truth.intersection(image_ids))
        return TruthFile(path=path, n_slices=n_slices, n_predicted=len(image_ids))


def _agree(table: LabelTable, other: LabelTable) -> bool:
    ids, other_ids = ((t.image_ids, t.study_ids) for t in (table, other))
    values, other_values = ((t.values, t.study_values) for t in (table, other))
    same = (np.array_equal(a, b, equal_nan=True) for a, b in zip(values, other_values, strict=True))
    return ids == other_ids and all(same)


def _contents(submissions: Sequence[Path], what: Derived) -> dict[bytes, Path]:
    """Return the different contents of such files beside submissions, each with the first that has it."""
    found: dict[bytes, Path] = {}
    for path in (beside(submission, what) for submission in submissions):
        if path.is_file():
            found.setdefault(path.read_bytes(), path)
    return found


def _write(path: Path, content: bytes) -> None:
    with atomic_writer(path) as file:
        file.write(content)
