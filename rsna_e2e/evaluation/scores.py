"""Result of an evaluation: scores of each label over slices and over series, and the files that were scored."""

# N slices, S series

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from rsna_e2e.core.records import Float64Array
from rsna_e2e.evaluation.cells import Cells
from rsna_e2e.evaluation.comparisons import Consistency, Floor, Part, Subgroup, WithinViews
from rsna_e2e.evaluation.levels import Level, plain
from rsna_e2e.evaluation.resamples import Resamples
from rsna_e2e.tasks.metrics import CONFIDENCE, DECISION_THRESHOLD, LOG_LOSS_EPS, Estimate, Int64Array
from rsna_e2e.tasks.task import Task

NO_STORE = "no store was given, on whose training split they are fitted"

Unit = Literal["series", "study", "patient"]  # what is drawn for intervals
UNITS: dict[Unit, str] = {"series": "series", "study": "studies", "patient": "patients"}

# Intervals are as wide as Student's for a mean, see `with_interval`. What is skewed, as losses and areas near 1 are,
# takes more series than that for its intervals to hold the truth as often as they say.
FEW_SERIES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesLayout:
    """Which series each slice belongs to and where it lies: keys sorted [S], and per slice [N].

    position_mm: None where it is not known; slice_index then only says which slice comes before which.
    """

    series_keys: list[str]
    series_of_slice: Int64Array
    slice_index: Int64Array
    position_mm: Float64Array | None

    def slices_of(self, series: int) -> Int64Array:
        """Slices of one series, in geometric order where that is known."""
        slices = np.flatnonzero(self.series_of_slice == series)
        return slices[np.argsort(self.slice_index[slices], kind="stable")]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """What is not scored, because submission and truth do not both have it.

    labels: of the task. n_not_predicted: images of the truth; n_without_truth: images of the submission. n_studies:
    those that one of the files lacks.
    """

    labels: tuple[str, ...] = ()
    n_not_predicted: int = 0
    n_without_truth: int = 0
    n_studies: int = 0

    def __str__(self) -> str:
        parts = []
        if self.labels:
            parts.append(f"labels that only one of the files has, or none ({', '.join(self.labels)})")
        if self.n_not_predicted:
            parts.append(f"images of the truth that are not predicted ({self.n_not_predicted})")
        if self.n_without_truth:
            parts.append(f"predicted images that the truth does not have ({self.n_without_truth})")
        if self.n_studies:
            parts.append(f"studies that one of the files lacks ({self.n_studies})")
        return "; ".join(parts)

    def plain(self) -> dict[str, Any]:
        """Return what `metrics.json` holds; studies only where they have labels of their own."""
        return {name: value for name, value in asdict(self).items() if name != "n_studies" or value}


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFile:
    """A file that was scored: its name without folders, and the SHA-256 of its bytes."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """All numbers of one evaluation; image_ids [N] are sorted and in step with `slices`.

    task: with the labels that are scored alone. files: those that were read, by role: submission, truth, and
    series_table or series_map where there is one. weighted_log_loss: the task's score, and that of the best constant
    predictions. series: predicted by the highest of their slices, None where each has one, as radiographs do.
    series_head: predicted by the model's series head; None without a series table. studies: in place of both, where
    these have labels of their own; layout is then by study. Where it is not known which series slices belong to,
    `layout`, `series` and `series_head` are None, and intervals have no ends: slices of one series are not independent,
    so they cannot be resampled one by one. resampled: what is drawn for intervals, of which there are n_clusters.
    consistency: of a task with a tree. floors, parts, subgroups and within_views: what a store adds, see `with_floors`,
    `with_parts`, `with_subgroups` and `with_views`; without it, the constant predictions are the only floor, and
    floors_left_out says why.
    """

    task: Task
    files: dict[str, InputFile]
    n_repeated_truth_rows: int
    left_out: LeftOut
    image_ids: list[str]
    weighted_log_loss: Estimate
    constant_weighted_log_loss: float
    ratio_to_constant: Estimate
    slices: Level
    series: Level | None
    series_head: Level | None
    studies: Level | None
    layout: SeriesLayout | None
    consistency: Consistency | None
    resampled: Unit | None
    by_unit: Resamples
    n_bootstrap: int
    seed: int
    floors: tuple[Floor, ...]
    floors_left_out: str = NO_STORE
    parts: tuple[Part, ...] = ()
    subgroups: tuple[Subgroup, ...] = ()
    within_views: tuple[WithinViews, ...] = ()

    @property
    def levels(self) -> dict[str, Level]:
        """The levels that were scored, by the name that they have in `metrics.json`."""
        levels = {"slice": self.slices, "series": self.series, "series_head": self.series_head, "study": self.studies}
        return {name: level for name, level in levels.items() if level is not None}

    @property
    def truth(self) -> Cells:
        """Truth of slices, and of studies where these have labels of their own."""
        return Cells(slices=self.slices.truth, studies=self.studies.truth if self.studies else np.zeros((0, 0)))

    @property
    def predicted(self) -> Cells:
        """Probabilities in step with `truth`."""
        studies = self.studies.probability if self.studies else np.zeros((0, 0))
        return Cells(slices=self.slices.probability, studies=studies)

    @property
    def study_of_slice(self) -> Int64Array:
        """The row of each slice's study, where studies have labels of their own."""
        return self.layout.series_of_slice if self.layout and self.studies else np.zeros(0, dtype=np.int64)

    @property
    def few_series(self) -> str:
        """What to know about the intervals where series are few; empty where they are not."""
        if self.resampled is None:
            return ""
        n = self.by_unit.draws.shape[1]
        if n == 1:
            one = f"one {self.resampled} alone"
            return f"{one}: nothing is known of how the scores vary, so there are no intervals"
        few = f"{n} {UNITS[self.resampled]} are few: the true intervals are wider than these"
        return few if n < FEW_SERIES else ""

    def to_dict(self) -> dict[str, Any]:
        """Return what `metrics.json` holds: plain numbers and texts, None where a number is undefined."""
        n_series = len(self.layout.series_keys) if self.layout else None
        labels = [self.task.slices, self.task.series]
        return {
            "task": self.task.name,
            **{role: asdict(file) for role, file in self.files.items()},
            "n_slices": len(self.image_ids),
            **({"n_studies": n_series} if self.studies else {"n_series": n_series}),
            "n_repeated_truth_rows": self.n_repeated_truth_rows,
            **({"left_out": self.left_out.plain()} if str(self.left_out) else {}),
            "weighted_log_loss": plain(self.weighted_log_loss),
            "constant_weighted_log_loss": plain(self.constant_weighted_log_loss),
            "ratio_to_constant": plain(self.ratio_to_constant),
            "label_weights": {name: w for one in labels for name, w in zip(one.names, one.weights, strict=True)},
            "floors": [floor.row() for floor in self.floors],
            **({"floors_left_out": self.floors_left_out} if self.floors_left_out else {}),
            **({"consistency": self.consistency.row()} if self.consistency else {}),
            **({"parts": [part.row() for part in self.parts]} if self.parts else {}),
            **({"subgroups": [group.row() for group in self.subgroups]} if self.subgroups else {}),
            **({"within_views": [one.row() for one in self.within_views]} if self.within_views else {}),
            "labels": [scores.row(name) for name, level in self.levels.items() for scores in level.scores],
            "decision_threshold": DECISION_THRESHOLD,
            "log_loss_eps": LOG_LOSS_EPS,
            "confidence": CONFIDENCE,
            "resampled_unit": self.resampled,
            "n_bootstrap": self.n_bootstrap if len(self.by_unit.draws) else 0,
            "seed": self.seed,
        }
