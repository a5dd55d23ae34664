"""What stands beside the scores: floors, consistency with the task's tree, parts of the studies, subgroups, views."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from rsna_e2e.evaluation.levels import plain
from rsna_e2e.tasks.metrics import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """What a prediction that sees no pixels scores: its task's score, and the AUC of the headline over slices.

    name: what it predicts from. auc: NaN where there is one class only.
    """

    name: str
    weighted_log_loss: float
    auc: float

    def row(self) -> dict[str, Any]:
        """Return what `metrics.json` holds of it."""
        return {name: value if name == "name" else plain(value) for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Consistency:
    """Studies that break the task's tree of labels, with their slices, before and after projection, and the scores.

    n_truth: those whose truth does. before: of the predictions as the model made them, where the tables beside the
    submission say it, else of the submission.
    """

    n_studies: int
    n_truth: int
    n_before: int
    n_after: int
    before: Estimate
    after: Estimate

    def row(self) -> dict[str, Any]:
        """Return what `metrics.json` holds of it."""
        counts = {name: getattr(self, name) for name in ("n_studies", "n_truth", "n_before", "n_after")}
        return {**counts, "before": plain(self.before), "after": plain(self.after)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Scores of the studies of which a note says yes, or no; the AUC is of the headline over their slices."""

    note: str
    value: bool
    n_studies: int
    n_slices: int
    weighted_log_loss: Estimate
    auc: Estimate

    def row(self) -> dict[str, Any]:
        """Return what `metrics.json` holds of it."""
        numbers = {"weighted_log_loss": plain(self.weighted_log_loss), "auc": plain(self.auc)}
        return {name: getattr(self, name) for name in ("note", "value", "n_studies", "n_slices")} | numbers


_TOO_SMALL = Estimate(math.nan)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subgroup:
    """The AUC of the headline over slices of a group of series, and of the other series whose group is known, and how
    much higher the former is; NaN where either are too few to be scored."""

    by: str
    group: str
    n_series: int
    n_positive_series: int
    n_slices: int
    n_positive: int
    auc: Estimate = _TOO_SMALL
    auc_of_others: Estimate = _TOO_SMALL
    difference: Estimate = _TOO_SMALL

    @property
    def is_worse(self) -> bool:
        """Whether the whole interval of the difference lies below 0."""
        return self.difference.high < 0

    def row(self) -> dict[str, Any]:
        """Return what `metrics.json` holds of it."""
        numbers = ("by", "group", "n_series", "n_positive_series", "n_slices", "n_positive")
        estimates = ("auc", "auc_of_others", "difference")
        return {
            **{name: getattr(self, name) for name in numbers},
            **{name: plain(getattr(self, name)) for name in estimates},
            "is_worse": self.is_worse,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class WithinViews:
    """The AUC of a label over all radiographs, and within each view, by its name; alone: that of the share of positives
    in each view, which is all that the view tells. NaN where there is one class only."""

    label: str
    auc: float
    alone: float
    views: dict[str, float]

    def row(self) -> dict[str, Any]:
        """Return what `metrics.json` holds of it."""
        views = [{"view": view, "auc": plain(area)} for view, area in self.views.items()]
        return {"label": self.label, "auc": plain(self.auc), "view_alone": plain(self.alone), "views": views}
