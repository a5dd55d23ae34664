"""What a part of a check is given, and how it writes down what it finds."""

import hashlib
import os
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from journal import Journal

IN_MEMORY = Path("/dev/shm")


def store_folder(scratch: Path, *, is_rehearsal: bool) -> Path:
    """Where a simulated store lies: in memory where there is a folder for that, but a rehearsal keeps to its own."""
    if is_rehearsal or not os.access(IN_MEMORY, os.W_OK):
        return scratch / "simulated"
    return IN_MEMORY / f"rsna_e2e-{hashlib.sha256(str(scratch.resolve()).encode()).hexdigest()[:12]}"


class MissingError(Exception):
    """What a part needs and does not find."""


@dataclass
class Context:
    """What a part is given. kind: of device, cuda or cpu. pack: the folder that was carried, if one was.

    scratch: a folder for what parts leave for each other. `is_good` becomes False with the first figure that fails.
    """

    part: str
    journal: Journal
    kind: str
    scale_name: str
    scratch: Path
    pack: Path | None
    is_good: bool = True

    @property
    def is_rehearsal(self) -> bool:
        return self.kind == "cpu"

    def figure(self, name: str, values: Mapping[str, Any]) -> None:
        """Write a figure down."""
        self.journal.append("figure", part=self.part, name=name, **values)

    def take(self, name: str, measure: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """Measure a figure and write it down, or why it could not be: the others are worth having."""
        try:
            values = dict(measure())
        except MissingError:
            raise
        except Exception as error:
            traceback.print_exc()
            values = {"failed": f"{type(error).__name__}: {error}"}
            self.is_good = False
        self.figure(name, values)
        return values

    def stand_in(self, what: str) -> None:
        """Write down that something only a GPU has was replaced, in a rehearsal."""
        assert self.is_rehearsal, what
        self.journal.append("stand_in", part=self.part, name=what)
