"""What all benchmarks share to write results: checks of the file, JSON, and the form of a median with its spread."""

from collections.abc import Mapping
from pathlib import Path

from rsna_e2e.core.console import number
from rsna_e2e.core.files import prepare_file, write_json
from rsna_e2e.tools.bench.timing import Summary


def check_out(out: Path | None) -> None:
    """Make the folder of the result file before anything is measured.

    Raises BadInputError when it cannot be written, UsageError when `out` is a folder.
    """
    if out is not None:
        prepare_file(out, example="figures.json")


def write_result(out: Path | None, benchmark: str, content: Mapping[str, object]) -> None:
    """Write a benchmark's name and content (plain values) to the file `out`; nothing when it is None."""
    if out is not None:
        write_json(out, {"benchmark": benchmark, **content})


def spread(summary: Summary) -> str:
    """Format median and interquartile range, as `12.3 (0.4)`."""
    return f"{number(summary.median)} ({number(summary.iqr)})"
