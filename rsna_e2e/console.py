"""What a person sees while a verb works: a progress bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from rsna_e2e import records

_LINE_EVERY_S = 10.0


@contextmanager
def progress_bar(title: str, *, unit: str) -> Iterator[records.Progress]:
    """Yield a `records.Progress` that draws on the terminal, or prints a line every 10 s when there is none."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(console, title, unit=unit)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        _Rate(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=None, note="")

        def show(done: int, total: int, note: str = "") -> None:
            bar.update(task, completed=done, total=total, note=note)

        yield show


def field_lines(report: Any) -> str:
    """Show a dataclass as lines of name and value; a dictionary as `key value` pairs."""
    shown = {item.name.replace("_", " "): getattr(report, item.name) for item in fields(report)}
    width = max(map(len, shown))
    return "\n".join(f"{name:<{width}}  {_value(value)}" for name, value in shown.items())


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(item)}" for key, item in value.items()) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class _Rate(ProgressColumn):
    """Units per second, of late."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(_rate(task.speed or 0.0, self._unit))


class _Lines:
    """Progress for a log file: title, count, share, rate, time left.

    The rate is counted from the first call on, as work that goes on where it was stopped begins with a high count; and
    from nothing when the count falls back, as work in two phases begins twice.
    """

    def __init__(self, console: Console, title: str, *, unit: str) -> None:
        self._console, self._title, self._unit = console, title, unit
        self._shown_s = time.monotonic()
        self._first: tuple[float, int] | None = None  # when, and how many were done
        self._last = self._shown_s, 0

    def __call__(self, done: int, total: int, note: str = "") -> None:
        now_s = time.monotonic()
        if self._first is None:
            self._first = now_s, done
        elif done < self._last[1]:
            self._first = self._last[0], 0
        self._last = now_s, done
        if done < total and now_s - self._shown_s < _LINE_EVERY_S:
            return
        self._shown_s = now_s
        first_s, first_done = self._first
        rate = (done - first_done) / (now_s - first_s) if now_s > first_s else 0.0
        words = [f"{self._title}: {done}/{total} {self._unit} ({done / max(total, 1):.0%})"]
        if rate:
            words += [_rate(rate, self._unit), f"{(total - done) / rate:.0f} s left"]
        self._console.print(f"{', '.join(words)}  {note}".rstrip(), soft_wrap=True, highlight=False)


def _rate(per_s: float, unit: str) -> str:
    return f"{per_s:.{0 if per_s >= 10 else 1}f} {unit}/s"
