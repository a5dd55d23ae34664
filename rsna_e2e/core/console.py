"""Terminal output of a running command: a progress bar, or a line every 10 s where there is no terminal."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from datetime import timedelta
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.progress import Progress, ProgressColumn, Task
from rich.text import Text

from rsna_e2e.core import records

_LINE_EVERY_S = 10.0
_MOST_WANTED = ("share", "count", "title", "left", "note", "rate", "elapsed")
_SHORTEST_BAR, _LONGEST_BAR = 8, 40  # columns


@contextmanager
def progress_bar(title: str, *, unit: str) -> Iterator[records.Progress]:
    """Yield a `records.Progress` that draws on the terminal, or prints a line every 10 s when there is none."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(console, title, unit=unit)
        return
    with Progress(_Line(console, unit), console=console) as bar:
        task = bar.add_task(title, total=None, note="")

        def show(done: int, total: int, note: str = "") -> None:
            bar.update(task, completed=done, total=total, note=note)

        yield show


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a text table: the first column left-aligned, all others right-aligned."""
    cells = [[records.printable(cell) for cell in line] for line in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [cells[0], ["-" * width for width in widths], *cells[1:]]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def number(value: float) -> str:
    """Return a number with three significant digits, and all digits before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def field_lines(report: Any) -> str:
    """Show a dataclass as lines of name and value: a dictionary as `key value` pairs, a tuple as a list."""
    shown = {item.name.replace("_", " "): getattr(report, item.name) for item in fields(report)}
    width = max(map(len, shown))
    return "\n".join(f"{name:<{width}}  {_value(value)}" for name, value in shown.items())


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{_value(key)} {_value(item)}" for key, item in value.items()) or "none"
    if isinstance(value, tuple):
        return ", ".join(map(_value, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else records.printable(str(value))


class _Line(ProgressColumn):
    """Progress in one line; a narrow terminal shows the most important parts."""

    def __init__(self, console: Console, unit: str) -> None:
        super().__init__()
        self._console, self._unit = console, unit

    def render(self, task: Task) -> Text:
        parts = self._parts(task)
        room = self._console.width + 1
        kept = set()
        for name in _MOST_WANTED:
            if parts[name] and cell_len(parts[name]) < room:
                kept.add(name)
                room -= cell_len(parts[name]) + 1
        line = Text(no_wrap=True, overflow="crop")
        for name, part in parts.items():
            if name == "count" and task.total and room > _SHORTEST_BAR:
                width = min(room - 1, _LONGEST_BAR)
                n_done = round(width * min(task.completed / task.total, 1.0))
                line.append("━" * n_done, "bar.complete").append("━" * (width - n_done), "bar.back").append(" ")
            if name in kept:
                line.append(f"{part} ")
        line.rstrip()
        return line

    def _parts(self, task: Task) -> dict[str, str]:
        """Return the parts of the line, in order."""
        left_s, per_s = task.time_remaining, task.finished_speed or task.speed
        return {
            "title": task.description,
            "count": "" if task.total is None else f"{task.completed:.0f}/{task.total:.0f} {self._unit}",
            "share": f"{task.completed / task.total:.0%}" if task.total else "",
            "rate": _rate(per_s, self._unit) if per_s else "",
            "elapsed": str(timedelta(seconds=int(task.finished_time or task.elapsed or 0.0))),
            "left": "" if left_s is None else f"left {timedelta(seconds=int(left_s))}",
            "note": task.fields["note"],
        }


class _Lines:
    """Progress for a log file: title, count, share, rate, time left.

    The rate counts from the first call, because resumed work begins with a high count. It starts again when the count
    falls, because work in two phases counts twice.
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
        self._console.print(f"{', '.join(words)}  {note}".rstrip(), soft_wrap=True, highlight=False, markup=False)


def _rate(per_s: float, unit: str) -> str:
    return f"{per_s:.{0 if per_s >= 10 else 1}f} {unit}/s"
