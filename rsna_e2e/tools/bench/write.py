"""Results as a table for a terminal and as a JSON file."""

from collections.abc import Mapping
from pathlib import Path

from rsna_e2e.core.console import number
from rsna_e2e.core.files import prepare_file, write_json
from rsna_e2e.tools.bench.timing import Summary


def check_out(out: Path | None) -> None:
    """Make the folder of a result's file before anything is measured. Raises BadInputError, UsageError for a folder."""
    if out is not None:
        prepare_file(out, example="figures.json")


def write_result(out: Path | None, benchmark: str, content: Mapping[str, object]) -> None:
    """Write a benchmark's name and content (plain values) to the file `out`; nothing when it is None."""
    if out is not None:
        write_json(out, {"benchmark": benchmark, **content})


def spread(summary: Summary) -> str:
    """Median and interquartile range."""
    return f"{number(summary.median)} ({number(summary.iqr)})"
