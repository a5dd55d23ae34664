"""What the console says in words and characters: labels with probability and truth, and strips along a series."""

# N slices of a series

import math

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.records import Float64Array
from rsna_e2e.terminal.patients import Study
from rsna_e2e.terminal.session import Answer, Session

_BLOCKS = " ▁▂▃▄▅▆▇█"  # eighths
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
