"""What a check of a GPU has found so far: one file of JSON lines, each on the disk before anything else is done.

Kinds of lines: machine (what it runs on), part (one has ended, and how), figure (something measured or counted),
stand_in (in a rehearsal: what took the place of something that only a GPU has).
"""

import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Line = dict[str, Any]


class Journal:
    """Appends lines to a file. Several processes may, one after the other; one killed in the middle spoils no other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def append(self, kind: str, **values: Any) -> Line:
        """Write a line and see it onto the disk. What JSON does not know is written as text."""
        line = {"kind": kind, "utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **values}
        with self.path.open("a+b") as file:
            text = json.dumps(line, default=str) + "\n"
            file.write((text if _ends_whole(self.path) else "\n" + text).encode())
            file.flush()
            os.fsync(file.fileno())
        return line

    def lines(self, *kinds: str) -> list[Line]:
        """All whole lines of these kinds, or of all."""
        return [line for line in read(self.path) if not kinds or line["kind"] in kinds]

    def take_over(self, others: Sequence[Path]) -> None:
        """Begin with the lines of earlier checks, whose parts then count as done."""
        for other in others:
            for line in read(other):
                self.append(**line)


def _ends_whole(path: Path) -> bool:
    data = path.read_bytes()
    return not data or data.endswith(b"\n")


def read(path: Path) -> Iterator[Line]:
    """The lines of a journal in their order; those that a killed process cut off are passed over."""
    for text in path.read_text(errors="replace").splitlines() if path.is_file() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and "kind" in line:
            yield line
