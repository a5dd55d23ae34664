"""Selection of the example series of a report by a fixed rule, and the names under which they are shown."""

# S series, L labels

import hashlib
import re
from dataclasses import dataclass

import numpy as np

from rsna_e2e.core.records import Float64Array
from rsna_e2e.evaluation.scores import Evaluation, SeriesLayout
from rsna_e2e.tasks.metrics import DECISION_THRESHOLD, Int64Array, group_max

_N_TRUE_POSITIVES = 2
_N_FALSE_NEGATIVES = 2
_N_FALSE_POSITIVES = 2
_N_TRUE_NEGATIVES = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One series to show: index into the layout, outcome, and its slices in geometric order."""

    series: int
    outcome: str
    probability: float
    slices: Int64Array


def selection_rule(headline: str, unit: str) -> str:
    """Return the rule of `choose_examples` as a sentence for the page. unit: series, or study."""
    return (
        f"A {unit} is called positive when its highest probability of “{headline}” is at least {DECISION_THRESHOLD}. "
        f"Shown are the {_N_TRUE_POSITIVES} true positives nearest their median probability, the "
        f"{_N_FALSE_NEGATIVES} false negatives with the lowest and the {_N_FALSE_POSITIVES} false positives with the "
        f"highest probability, and {_N_TRUE_NEGATIVES} true negative nearest their median. Kinds that do not occur "
        "are left out."
    )


def choose_examples(evaluation: Evaluation, layout: SeriesLayout) -> list[Example]:
    """Choose example series by `selection_rule`; outcomes that do not occur are absent."""
    headline, n_series = evaluation.task.headline_index, len(layout.series_keys)
    truth_S, score_S = (
        group_max(part[:, [headline]], layout.series_of_slice, n_series)[:, 0]
        for part in (evaluation.slices.truth, evaluation.slices.probability)
    )
    is_positive = truth_S == 1
    is_called = score_S >= DECISION_THRESHOLD
    chosen = {
        "true positive": _nearest_median(score_S, is_positive & is_called)[:_N_TRUE_POSITIVES],
        "false negative": _lowest(score_S, is_positive & ~is_called)[:_N_FALSE_NEGATIVES],
        "false positive": _lowest(-score_S, ~is_positive & is_called)[:_N_FALSE_POSITIVES],
        "true negative": _nearest_median(score_S, ~is_positive & ~is_called)[:_N_TRUE_NEGATIVES],
    }
    return [
        Example(series=series, outcome=outcome, probability=float(score_S[series]), slices=layout.slices_of(series))
        for outcome, members in chosen.items()
        for series in members
    ]


def series_name(series_key: str) -> str:
    """Return the 8 hex digits under which a series is shown: the first of its key, so that it can be looked up.

    A key that is not the store's 16 hex digits may hold identifiers, and is hashed first.
    """
    is_digest = re.fullmatch("[0-9a-f]{16}", series_key) is not None
    return (series_key if is_digest else hashlib.sha256(series_key.encode()).hexdigest())[:8]


def _lowest(score_S: Float64Array, is_member: np.ndarray) -> list[int]:
    members = np.flatnonzero(is_member)
    return [int(series) for series in members[np.argsort(score_S[members], kind="stable")]]


def _nearest_median(score_S: Float64Array, is_member: np.ndarray) -> list[int]:
    if not is_member.any():
        return []
    return _lowest(np.abs(score_S - np.median(score_S[is_member])), is_member)
