"""What a kind of simulated data set consists of, so that all kinds are made by one function."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rsna_e2e.tools.synth.common.plan import Request


class Plan(Protocol):
    """What is decided about one study before it is made: its number, its patient's, whether it is held out."""

    @property
    def index(self) -> int:
        """Its number, from 0."""
        ...

    @property
    def patient(self) -> int:
        """The number of its patient, from 0."""
        ...

    @property
    def is_test(self) -> bool:
        """Whether it is held out."""
        ...


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

    plan: says what to make. make_study: writes the files of one study below a folder and returns its truth, which can
    be pickled. write_tables: writes label files and truth, given the truths of all studies in the order of the plan,
    and the seed. has_masks: whether make_study takes a folder as `masks`, for pictures of where findings are.
    """

    folders: tuple[str, ...]
    plan: Callable[[Request], Sequence[Plan]]
    make_study: Callable[..., Any]
    write_tables: Callable[[Path, Any, int], Counts]
    has_masks: bool = False
