"""What a person sees while a verb works: a progress bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

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


class _Lines:
    """Progress for a log file: title, count, share, time left."""

    def __init__(self, console: Console, title: str, *, unit: str) -> None:
        self._console, self._title, self._unit = console, title, unit
        self._started_s = self._shown_s = time.monotonic()

    def __call__(self, done: int, total: int, note: str = "") -> None:
        now_s = time.monotonic()
        if done < total and now_s - self._shown_s < _LINE_EVERY_S:
            return
        self._shown_s = now_s
        left_s = (now_s - self._started_s) / max(done, 1) * (total - done)
        share = done / max(total, 1)
        self._console.print(
            f"{self._title}: {done}/{total} {self._unit} ({share:.0%}), {left_s:.0f} s left  {note}".rstrip(),
            soft_wrap=True,
            highlight=False,
        )
