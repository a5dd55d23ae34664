"""What the console says in words and characters: labels with probability and truth, and strips along a series."""

# N slices of a series

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.records import Float64Array
from rsna_e2e.serving.result import LabelResult
from rsna_e2e.store import SeriesSpan
from rsna_e2e.terminal.patients import Study
from rsna_e2e.terminal.session import Answer, Session
from rsna_e2e.terminal.view import View

_BLOCKS = " ▁▂▃▄▅▆▇█"  # eighths
N_KEYS = 9  # labels that keys choose: 1 to 9
HEADER = ("label", "probability", "threshold", "above", "truth")


def label_rows(session: Session, study: Study, answer: Answer) -> list[tuple[str, ...]]:
    """Return for each label its name, probability, threshold, whether it is above, and the truth, as `HEADER` says."""
    rows: list[tuple[str, ...]] = []
    for label, name in session.labels:
        said = answer.label(label)
        threshold = f"{said.threshold:.2f}" + ("" if said.is_learned else " (default)")
        above = "yes" if said.above else "no"
        rows.append((name, f"{said.probability:.4f}", threshold, above, truth_word(session.truth(study, label))))
    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelLine:
    """A label as the screen shows it. key: that chooses it, or empty; numbers: probability, > or < its threshold,
    truth; bars: a strip along the series, empty for a label of series; cursor: the column of the slice that is looked
    at; is_true: of each column."""

    key: str
    name: str
    numbers: str
    is_above: bool
    is_chosen: bool
    bars: str = ""
    cursor: int = -1
    is_true: tuple[bool, ...] = ()


LABELS_HEADER = f"{'label':<22}  prob   from  truth"


def label_lines(
    session: Session, study: Study, span: SeriesSpan, answer: Answer | None, view: View, *, width: int
) -> list[LabelLine]:
    """Return the labels of a study, those of slices with a strip along a series of `width` columns at most.

    Without an answer, strips are of the truth alone.
    """
    truth_NL = session.truth_of_slices(span)
    found = []
    for number, (label, name) in enumerate(session.labels):
        said = None if answer is None else answer.label(label)
        line = LabelLine(
            key=str(number + 1) if number < N_KEYS else "",
            name=name,
            numbers=_numbers(said, truth_word(session.truth(study, label))),
            is_above=said is not None and said.above,
            is_chosen=number == view.label,
        )
        if label[0] == "slice":
            truth_N = truth_NL[:, label[1]]
            shown_N = np.nan_to_num(truth_N) if answer is None else answer.slices[span.series_key][:, label[1]]
            line = replace(
                line,
                bars=strip(shown_N, width),
                cursor=int(columns_of(len(shown_N), width)[view.place]),
                is_true=tuple(true_columns(truth_N, width)),
            )
        found.append(line)
    return found


def _numbers(said: LabelResult | None, truth: str) -> str:
    if said is None:
        return f"{'-':>5} {'-':>6}  {truth}"
    return f"{said.probability:5.2f} {'>' if said.above else '<'} {said.threshold:4.2f}  {truth}"


def truth_word(truth: float) -> str:
    """Return a truth of 0, 1 or NaN in a word."""
    return "unknown" if math.isnan(truth) else "yes" if truth == 1 else "no"


def columns_of(n_slices: int, width: int) -> npt.NDArray[np.int64]:
    """Return the column of a strip in which each slice is [N]: one for each where they fit, else several in one."""
    if n_slices <= width:
        return np.arange(n_slices)
    return np.arange(n_slices) * width // n_slices


def strip(probability_N: Float64Array, width: int) -> str:
    """Return a bar for each column of a strip, as high as the highest probability of its slices, in eighths."""
    columns_N = columns_of(len(probability_N), width)
    highest = np.zeros(columns_N[-1] + 1)
    np.maximum.at(highest, columns_N, probability_N)
    return "".join(_BLOCKS[step] for step in np.rint(highest * (len(_BLOCKS) - 1)).astype(int).tolist())


def true_columns(truth_N: Float64Array, width: int) -> list[bool]:
    """Return for each column of a strip whether a slice in it has the label."""
    columns_N = columns_of(len(truth_N), width)
    found = np.zeros(columns_N[-1] + 1, dtype=np.bool_)
    np.logical_or.at(found, columns_N, truth_N == 1)
    return [bool(one) for one in found]
