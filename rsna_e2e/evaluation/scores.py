"""Result of an evaluation: scores of each label over slices and over series, and the files that were scored."""

# N slices, S series, L labels

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tasks.metrics import CONFIDENCE, LOG_LOSS_EPS, Estimate, Int64Array
from rsna_e2e.tasks.task import Task

# For the mean of n series a percentile bootstrap is narrower than Student's interval by sqrt((n - 1) / n) * 1.96 / t,
# t the 97.5 % quantile of n - 1 degrees of freedom: 0.91 for 20 series, 0.82 for 10, 0.63 for 5.
FEW_SERIES = 20

# Where a decision is shown, a probability at or above this calls a label present.
DECISION_THRESHOLD = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelScores:
    """How well one label is predicted, over slices or over series; NaN where truth has one class only."""

    label: str
    n: int
    n_positive: int
    log_loss: Estimate
    constant_log_loss: float
    auc: Estimate
    average_precision: float
    calibration_error: float
    sensitivity: float
    specificity: float

    @property
    def prevalence(self) -> float:
        """Share of positives."""
        return self.n_positive / self.n


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """Truth and probability [N, L] of slices or of series, and the scores of each label in task order."""

    truth: Float64Array
    probability: Float64Array
    scores: tuple[LabelScores, ...]


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

    labels: of the task. n_not_predicted: images of the truth; n_without_truth: images of the submission.
    """

    labels: tuple[str, ...] = ()
    n_not_predicted: int = 0
    n_without_truth: int = 0

    def __str__(self) -> str:
        parts = []
        if self.labels:
            parts.append(f"labels that only one of the files has, or none ({', '.join(self.labels)})")
        if self.n_not_predicted:
            parts.append(f"images of the truth that are not predicted ({self.n_not_predicted})")
        if self.n_without_truth:
            parts.append(f"predicted images that the truth does not have ({self.n_without_truth})")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFile:
    """A file that was scored: its name without folders, and the SHA-256 of its bytes."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """All numbers of one evaluation; image_ids [N] are sorted and in step with `slices`.

    task: with the labels that are scored alone. files: those that were read, by role: submission, truth, and
    series_table or series_map where there is one. series: predicted by the highest of their slices. series_head:
    predicted by the model's series head; None without a series table. Where it is not known which series slices belong
    to, `layout`, `series` and `series_head` are None, and intervals have no ends: slices of one series are not
    independent, so they cannot be resampled one by one.
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
    layout: SeriesLayout | None
    n_bootstrap: int
    seed: int

    @property
    def levels(self) -> dict[str, Level]:
        """The levels that were scored, by the name that they have in `metrics.json`."""
        levels = {"slice": self.slices, "series": self.series, "series_head": self.series_head}
        return {name: level for name, level in levels.items() if level is not None}

    @property
    def few_series(self) -> str:
        """What to know about the intervals where series are few; empty where they are not."""
        n = len(self.layout.series_keys) if self.layout else FEW_SERIES
        if n == 1:
            return "one series alone: nothing is known of how the scores vary, so there are no intervals"
        return f"{n} series are few: the true intervals are wider than these" if n < FEW_SERIES else ""

    def summary(self) -> str:
        """Return the headline numbers as a few lines of text."""
        names = {"slice": "slices", "series": "series"}
        if self.series_head is not None:
            names |= {"series": "series, by their highest slice", "series_head": "series, by the series head"}
        level_lines = [
            f"AUC of {self.task.headline!r} over {names[name]}: {_text(scores.auc, 3)}, "
            f"{scores.n_positive} of {scores.n} positive"
            for name, level in self.levels.items()
            for scores in (level.scores[self.task.headline_index],)
        ]
        what = "weighted log loss"
        if self.left_out.labels:
            what += f" of {', '.join(self.task.slices.names)} alone"
        compared = "nothing to compare it with, because every label is the same in all slices of the truth"
        if math.isfinite(self.ratio_to_constant.value):
            prevalence = f"what always predicting the prevalence gives ({self.constant_weighted_log_loss:.4f})"
            compared = f"{_percent(self.ratio_to_constant)} of {prevalence}"
        few = [self.few_series] if self.few_series else []
        left_out = [f"left out: {self.left_out}"] if str(self.left_out) else []
        return "\n".join([f"{what} {_text(self.weighted_log_loss, 4)}: {compared}", *level_lines, *few, *left_out])

    def to_dict(self) -> dict[str, Any]:
        """Return what `metrics.json` holds: plain numbers and texts, None where a number is undefined."""
        return {
            "task": self.task.name,
            **{role: asdict(file) for role, file in self.files.items()},
            "n_slices": len(self.image_ids),
            "n_series": len(self.layout.series_keys) if self.layout else None,
            "n_repeated_truth_rows": self.n_repeated_truth_rows,
            **({"left_out": asdict(self.left_out)} if str(self.left_out) else {}),
            "weighted_log_loss": _plain(self.weighted_log_loss),
            "constant_weighted_log_loss": _plain(self.constant_weighted_log_loss),
            "ratio_to_constant": _plain(self.ratio_to_constant),
            "label_weights": dict(zip(self.task.slices.names, self.task.slices.weights, strict=True)),
            "labels": [_row(name, scores) for name, level in self.levels.items() for scores in level.scores],
            "decision_threshold": DECISION_THRESHOLD,
            "log_loss_eps": LOG_LOSS_EPS,
            "confidence": CONFIDENCE,
            "resampled_unit": "series" if self.layout else None,
            "n_bootstrap": self.n_bootstrap if self.layout and len(self.layout.series_keys) > 1 else 0,
            "seed": self.seed,
        }


def _row(level: str, scores: LabelScores) -> dict[str, Any]:
    return {
        "label": scores.label,
        "level": level,
        "n": scores.n,
        "n_positive": scores.n_positive,
        "prevalence": scores.prevalence,
        "log_loss": _plain(scores.log_loss),
        "constant_log_loss": _plain(scores.constant_log_loss),
        "auc": _plain(scores.auc),
        "average_precision": _plain(scores.average_precision),
        "calibration_error": _plain(scores.calibration_error),
        "sensitivity": _plain(scores.sensitivity),
        "specificity": _plain(scores.specificity),
    }


def _plain(number: float | Estimate) -> Any:
    """JSON has no NaN: an undefined number is None."""
    if isinstance(number, Estimate):
        return {"value": _plain(number.value), "low": _plain(number.low), "high": _plain(number.high)}
    return number if math.isfinite(number) else None


def _percent(estimate: Estimate) -> str:
    text = f"{100 * estimate.value:.0f} %"
    if math.isfinite(estimate.low):
        text += f" [{100 * estimate.low:.0f}, {100 * estimate.high:.0f}]"
    return text


def _text(estimate: Estimate, decimals: int) -> str:
    if not math.isfinite(estimate.value):
        return "undefined"
    text = f"{estimate.value:.{decimals}f}"
    if math.isfinite(estimate.low):
        text += f" [{estimate.low:.{decimals}f}, {estimate.high:.{decimals}f}]"
    return text
