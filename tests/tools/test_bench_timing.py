"""Rates and what is said of them, on a clock that the test turns."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from rsna_e2e.tools.bench.timing import Entry, interleave, ratio, summarise


class FakeClock:
    """Time passes only when work is done."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Worker:
    """Takes `seconds` for 10 slices, the first time ten times as long; remembers when it ran."""

    def __init__(self, clock: FakeClock, log: list[str], name: str, seconds: float) -> None:
        self._clock, self._log, self.name, self._seconds = clock, log, name, seconds
        self._is_cold = True

    def __call__(self) -> None:
        self._clock.now_s += self._seconds * (10 if self._is_cold else 1)
        self._is_cold = False
        self._log.append(self.name)

    def entry(self) -> Entry:
        return Entry(name=self.name, run=self, n_slices=10, setting=self._slow_setting)

    @contextmanager
    def _slow_setting(self) -> Iterator[None]:
        self._clock.now_s += 1000.0
        yield
        self._clock.now_s += 1000.0


def test_rates_leave_out_warm_up_and_settings() -> None:
    clock, log = FakeClock(), []
    workers = [Worker(clock, log, "quick", 0.125), Worker(clock, log, "slow", 2.0)]
    rates = interleave([worker.entry() for worker in workers], rounds=3, min_turn_s=0.5, clock=clock)
    assert rates == {"quick": (80.0,) * 3, "slow": (5.0,) * 3}


def test_rounds_take_turns_and_each_begins_one_further_on() -> None:
    clock, log = FakeClock(), []
    workers = [Worker(clock, log, name, 1.0) for name in "abc"]
    interleave([worker.entry() for worker in workers], rounds=3, min_turn_s=0.0, clock=clock)
    assert "".join(log) == "aabbcc" + "abc" + "bca" + "cab"


def test_a_turn_lasts_at_least_as_long_as_asked_for() -> None:
    clock, log = FakeClock(), []
    interleave([Worker(clock, log, "a", 0.125).entry()], rounds=1, min_turn_s=0.3, clock=clock)
    assert len(log) == 2 + 3  # warm-up: 1.25 s and 0.125 s; then three runs for 0.3 s


def test_progress_counts_rounds() -> None:
    clock, seen = FakeClock(), []
    entry = Worker(clock, [], "a", 1.0).entry()
    interleave([entry], rounds=2, clock=clock, progress=lambda done, total, note="": seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


def test_median_and_spread_worked_out_by_hand() -> None:
    summary = summarise([40.0, 10.0, 20.0, 30.0, 1000.0])  # quartiles are the second and the fourth
    assert (summary.n, summary.median, summary.iqr) == (5, 30.0, 20.0)


def test_ratios_are_formed_within_a_round() -> None:
    """A machine that is ten times slower in the second round leaves the ratio alone; that of medians would be 5.5."""
    summary = ratio([100.0, 10.0, 100.0], [50.0, 5.0, 50.0])
    assert (summary.median, summary.iqr) == (2.0, 0.0)


def test_rates_of_unequal_length_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratio([1.0, 2.0], [1.0])
