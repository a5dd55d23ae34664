"""What bin/same_results.sh compares: two folders with the raw files, store, run, submission and report of a demo.

Usage: same_results.py ONE OTHER. Prints a line for each kind of result and ends with 1 where one differs. Numbers and
columns that only OTHER has, which a later version may add to what it logs, reports and stores, are not compared.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from safetensors.numpy import load_file

TIMES = re.compile(r"(_s|_share|^stalls)$")  # seconds, rates, and shares of the time
BUSY = "busy_share"  # counted, not timed

Differences = Iterator[str]


def files(one: Path, other: Path, pattern: str) -> Iterator[tuple[str, Path, Path]]:
    """Yield the files of either folder; one that is missing in a folder is yielded all the same."""
    names = {str(path.relative_to(folder)) for folder in (one, other) for path in folder.glob(pattern)}
    assert names, f"{one}, {other}: no {pattern}"
    for name in sorted(names):
        yield name, one / name, other / name


def of_bytes(one: Path, other: Path) -> Differences:
    """Compare two files byte by byte."""
    a, b = one.read_bytes(), other.read_bytes()
    if a != b:
        at = next((i for i, pair in enumerate(zip(a, b, strict=False)) if pair[0] != pair[1]), min(len(a), len(b)))
        yield f"byte {at:,} ({len(a):,} and {len(b):,} bytes)"


def of_slices(one: Path, other: Path) -> Differences:
    """Compare what the tables of two stores say of each slice, whichever of their tables says it."""
    a, b = columns_of_slices(one), columns_of_slices(other)
    for name in sorted(a):
        for row, (x, y) in enumerate(zip_longest(a[name], b.get(name, []))):
            if repr(x) != repr(y):
                yield f"column {name}, row {row}: {x!r} and {y!r}"
                break


def columns_of_slices(index: Path) -> dict[str, list[Any]]:
    """Return the columns of a store's index, and those of the labels of its slices, which have the same rows."""
    labels = [path for pattern in ("labels.parquet", "tasks/*/slices.parquet") for path in index.parent.glob(pattern)]
    tables = [pq.read_table(path) for path in (index, *labels)]
    assert len({len(table) for table in tables}) == 1
    return {name: table[name].to_pylist() for table in tables for name in table.column_names}


def of_tables(one: Path, other: Path) -> Differences:
    """Compare two Parquet tables row by row."""
    for row, (x, y) in enumerate(zip_longest(*(pq.read_table(path).to_pylist() for path in (one, other)))):
        if repr(x) != repr(y):
            yield f"row {row}: {x!r} and {y!r}"
            break


def of_tensors(one: Path, other: Path) -> Differences:
    """Compare the tensors of two safetensors files bit by bit."""
    a, b = load_file(one), load_file(other)
    for name in sorted({*a, *b}):
        x, y = a.get(name), b.get(name)
        if x is None or y is None or (x.dtype, x.shape) != (y.dtype, y.shape):
            yield f"{name}: {None if x is None else x.shape} and {None if y is None else y.shape}"
        elif x.tobytes() != y.tobytes():
            yield f"{name}: up to {np.abs(x.astype(float) - y.astype(float)).max():g} apart"


def of_json(one: Path, other: Path) -> Differences:
    """Compare the values of JSON, or of lines of it, but for times and for those that `one` does not have."""
    lines: Iterator[tuple[dict[str, Any], dict[str, Any]]] = zip_longest(values(one), values(other), fillvalue={})
    for line, (x, y) in enumerate(lines, start=1):
        if not x:
            yield f"line {line} is in one of them only"
        for key, value in sorted(x.items()):
            if repr(value) != repr(y.get(key)):
                yield f"line {line}, {key}: {value!r} and {y.get(key)!r}"
                break


def values(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the values of a JSON file, or of each of its lines, by their place."""
    text = path.read_text()
    for one in text.splitlines() if path.suffix == ".jsonl" else [text]:
        yield dict(flat(json.loads(one)))


def flat(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value with its place, such as best.any_auc."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if key == BUSY or not TIMES.search(str(key)):
                yield from flat(inner, f"{place}.{key}".lstrip("."))
    else:
        yield place, value


COMPARED: dict[str, tuple[str, Callable[[Path, Path], Differences]]] = {
    "DICOM files and labels": ("raw/**/*.*", of_bytes),
    "store: slices with checksums, content boxes, labels and folds": ("store/index.parquet", of_slices),
    "store: refusals": ("store/refusals.parquet", of_tables),
    "store: shards": ("store/shards/*", of_bytes),
    "weights and optimiser state": ("run/checkpoints/**/*.safetensors", of_tensors),
    "steps and epochs": ("run/metrics.jsonl", of_json),
    "submission": ("submission.csv", of_bytes),
    "scores": ("report/metrics.json", of_json),
}


def main(one: Path, other: Path) -> int:
    """Compare everything, print the first difference of each kind, and return the exit code."""
    is_same = True
    for what, (pattern, compare) in COMPARED.items():
        compared = list(files(one, other, pattern))
        different = first_difference(compared, compare)
        print(f"{'DIFFERS' if different else 'same   '}  {what} ({len(compared):,} files){different}")
        is_same &= not different
    return 0 if is_same else 1


def first_difference(compared: list[tuple[str, Path, Path]], compare: Callable[[Path, Path], Differences]) -> str:
    """Return where two sets of files differ first, or nothing."""
    for name, a, b in compared:
        if not (a.exists() and b.exists()):
            return f": {name} is in one of them only"
        for difference in compare(a, b):
            return f": {name}, {difference}"
    return ""


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
