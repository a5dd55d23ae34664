"""Timing: contestants take turns in rounds; a rate is summed up by n, median and spread, and compared within rounds."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np

from rsna_e2e.core.records import Progress, no_progress

Clock = Callable[[], float]
Rates = tuple[float, ...]

MIN_TURN_S = 0.2  # many slices of the fastest contestant, and long beside the resolution of clock and scheduler


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A contestant. run: does its whole work once; the result is dropped. n_slices: slices in that work.

    setting: a context around each turn, entered and left outside the timing.
    """

    name: str
    run: Callable[[], object]
    n_slices: int
    setting: Callable[[], AbstractContextManager[object]] = nullcontext


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """n values, their median, and their interquartile range (between the quartiles by linear interpolation)."""

    n: int
    median: float
    iqr: float


def interleave(
    entries: Sequence[Entry],
    *,
    rounds: int,
    min_turn_s: float = MIN_TURN_S,
    clock: Clock = time.perf_counter,
    progress: Progress = no_progress,
) -> dict[str, Rates]:
    """Return each entry's slices per second, one for each round.

    A round gives every entry one turn, and each round begins with the next entry, so that none always follows the
    same one. Before the first round every entry warms up, untimed: it runs at least twice and for at least
    `min_turn_s`. The duration of its last run decides how many runs make a turn of at least `min_turn_s`.
    """
    repeats = [_warm_up(entry, min_turn_s=min_turn_s, clock=clock) for entry in entries]
    rates: list[list[float]] = [[] for _ in entries]
    for turn in range(rounds):
        for k in range(len(entries)):
            i = (turn + k) % len(entries)
            with entries[i].setting():
                elapsed_s = _run(entries[i], repeats[i], clock)
            rates[i].append(entries[i].n_slices * repeats[i] / elapsed_s)
        progress(turn + 1, rounds)
    return {entry.name: tuple(values) for entry, values in zip(entries, rates, strict=True)}


def summarise(values: Sequence[float]) -> Summary:
    """Describe a sample of at least one value."""
    low, median, high = np.percentile(values, (25, 50, 75)).tolist()
    return Summary(n=len(values), median=median, iqr=high - low)


def ratio(ours: Sequence[float], other: Sequence[float]) -> Summary:
    """How many times as fast as `other` we are: the quotient within each round, then its median and spread."""
    return summarise([own / theirs for own, theirs in zip(ours, other, strict=True)])


def _warm_up(entry: Entry, *, min_turn_s: float, clock: Clock) -> int:
    with entry.setting():
        spent_s, runs = 0.0, 0
        while runs < 2 or spent_s < min_turn_s:
            last_s = _run(entry, 1, clock)
            spent_s, runs = spent_s + last_s, runs + 1
    return max(1, math.ceil(min_turn_s / last_s))


def _run(entry: Entry, repeats: int, clock: Clock) -> float:
    started_s = clock()
    for _ in range(repeats):
        entry.run()
    return clock() - started_s
