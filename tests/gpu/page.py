"""A journal as a page of figures, in the form of docs/benchmarks.md."""

from collections.abc import Sequence
from typing import Any

from journal import Line

SPREAD = ("n", "median_ms", "iqr_ms")  # the columns; what else a figure says is listed behind
SKIPPED = ("kind", "utc", "part", "name", "failed", *SPREAD)


def page(lines: Sequence[Line]) -> str:
    """The machine, how each part ended, and every figure with n, median and interquartile range."""
    machines = [line for line in lines if line["kind"] == "machine"]
    text = ["# Figures of bin/check_gpu.sh", "", *dict.fromkeys(map(_machine, machines)), ""]
    if any(str(line["device"]).startswith("REHEARSAL") for line in machines):
        text += ["**A rehearsal on a CPU, at tiny size: no figure here is one of a GPU.**", ""]
    text += _table(("part", "ended", "s"), [_ending(line) for line in _last_of_each(lines, "part", ("part",))])
    figures = _last_of_each(lines, "figure", ("part", "name"))
    for part in dict.fromkeys(line["part"] for line in figures):
        rows = [_row(line) for line in figures if line["part"] == part]
        text += [f"## {part}", "", *_table(("figure", "n", "median ms (iqr)", "more"), rows)]
    stand_ins = sorted({line["name"] for line in lines if line["kind"] == "stand_in"})
    if stand_ins:
        text += ["## Not rehearsed", "", *(f"- {name}" for name in stand_ins), ""]
    return "\n".join(text)


def _machine(line: Line) -> str:
    return (
        f"{line['device']}, {line['device_mib'] / 1024:.0f} GiB, driver {line['driver']}; {line['cores']} cores, "
        f"Python {line['python']}, torch {line['torch']}; commit {line['commit']}; {line['utc'][:10]}."
    )


def _last_of_each(lines: Sequence[Line], kind: str, keys: tuple[str, ...]) -> list[Line]:
    """The last line of its kind for every key: a part that was run again counts as it ended then."""
    return list({tuple(line.get(key) for key in keys): line for line in lines if line["kind"] == kind}.values())


def _ending(line: Line) -> tuple[str, ...]:
    detail = f" ({line['detail']})" if line["detail"] else ""
    return (line["part"], f"{line['status']}{detail}", f"{line['elapsed_s']:.0f}")


def _row(line: Line) -> tuple[str, ...]:
    if "failed" in line:
        return (line["name"], "", "", f"**failed**: {line['failed']}")
    timing = ""
    if "median_ms" in line:
        timing = f"{_number(line['median_ms'])} ({_number(line['iqr_ms'])})"
    rest = [f"{_words(key)} {_number(value)}" for key, value in line.items() if key not in SKIPPED]
    return (line["name"], str(line.get("n", "")), timing, "; ".join(rest))


def _words(key: str) -> str:
    return key.replace("_per_s", "/s").replace("_", " ").replace(" mib", " MiB")


def _number(value: Any) -> str:
    """Three significant digits, and all those before the point."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "n/a" if value is None else str(value)
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    cells = [header, ("---",) * len(header), *rows]
    return ["| " + " | ".join(_flat(cell) for cell in row) + " |" for row in cells] + [""]


def _flat(cell: str) -> str:
    return " ".join(cell.split()).replace("|", "\\|")
