"""Results as a table for a terminal and as a JSON file."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rsna_e2e.bench.machine import Machine
from rsna_e2e.bench.timing import Summary
from rsna_e2e.core.files import prepare_file, write_json
from rsna_e2e.core.records import printable


def check_out(out: Path | None) -> None:
    """Make the folder of a result's file before anything is measured. Raises BadInputError, UsageError for a folder."""
    if out is not None:
        prepare_file(out, example="figures.json")


def write_result(out: Path | None, benchmark: str, machine: Machine, **content: Any) -> None:
    """Write a benchmark's machine and content (plain values) to the file `out`; nothing when it is None."""
    if out is not None:
        write_json(out, {"benchmark": benchmark, "machine": asdict(machine), **content})


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns set flush: the first to the left, all others to the right."""
    cells = [[printable(cell) for cell in line] for line in (header, *rows)]
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
    """Three significant digits, and all those before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(summary: Summary) -> str:
    """Median and interquartile range."""
    return f"{number(summary.median)} ({number(summary.iqr)})"
