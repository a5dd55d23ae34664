"""What a kind of simulated data set consists of, so that all kinds are made by one function."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rsna_e2e.tools.synth.common.plan import StudyPlan


class StudyTruth(Protocol):
    """Ground truth of one study, of whichever kind."""

    @property
    def image_ids(self) -> tuple[str, ...]:
        """Ids of its slices in the order of acquisition."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Counts of a data set that was written. label_rates: share of slices (of studies, for theirs) with each label."""

    n_slices: int
    n_repeated_images: int
    label_rates: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of data set. folders: where images go, relative to the data set; the first one is that of training.

    make_study: writes the files of one study below a folder and returns its truth, which can be pickled. write_tables:
    writes label files and truth, given the truths of all studies in the order of the plan, and the seed.
    """

    folders: tuple[str, ...]
    make_study: Callable[[StudyPlan, Path], Any]
    write_tables: Callable[[Path, Any, int], Counts]
