"""Records which steps of a plan were begun and done in an output folder, and with which settings and data."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from rsna_e2e.config import Frozen
from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.files import as_json, make_folder, read_json, write_json

State = Literal["to do", "begun", "done"]

_SHOWN = 4  # differences in a message


class Entry(Frozen):
    """The record of a step: the settings and data it depends on, whether it is done, and how long it took."""

    made_of: dict[str, Any]
    is_done: bool
    elapsed_s: float | None = None


class Ledger:
    """A file for every step in a folder; a step that was begun keeps what it is made of."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def state(self, name: str, made_of: Mapping[str, Any], *, may_change: bool = False) -> State:
        """Say how far a step is. Raises UsageError, with the differences, when it was begun with something else.

        may_change: what differs makes it a step to do again instead. A value in `made_of` that is None is not known.
        """
        entry = self._read(name)
        if entry is None:
            return "to do"
        known = {key: value for key, value in entry.made_of.items() if made_of.get(key, value) is not None}
        differences = list(_differences(known, {key: value for key, value in made_of.items() if value is not None}))
        if differences and may_change:
            return "to do"
        if differences:
            shown = "; ".join(differences[:_SHOWN]) + "; ..." * (len(differences) > _SHOWN)
            raise UsageError(
                f"{self._folder.parent}: {name} was made with other settings or data ({shown}). Give the same again, "
                "or another output folder"
            )
        return "done" if entry.is_done else "begun"

    def begin(self, name: str, made_of: Mapping[str, Any]) -> None:
        """Note what a step is made of, before it leaves anything behind."""
        self._write(name, {"made_of": dict(made_of), "is_done": False, "elapsed_s": None})

    def finish(self, name: str, made_of: Mapping[str, Any], *, elapsed_s: float) -> None:
        """Note that a step is done."""
        self._write(name, {"made_of": dict(made_of), "is_done": True, "elapsed_s": elapsed_s})

    def elapsed_s(self, name: str) -> float:
        """Return how long a step took that is done. Raises BadInputError where there is no record of that."""
        entry = self._read(name)
        if entry is None or entry.elapsed_s is None:
            raise BadInputError(f"{self._path(name)}: does not say how long {name} took. Run it again")
        return entry.elapsed_s

    def digest(self, name: str) -> str | None:
        """Return a digest of the settings and data of a step; None when it was never begun."""
        entry = self._read(name)
        if entry is None:
            return None
        return hashlib.sha256(as_json(entry.made_of, sort_keys=True).encode()).hexdigest()

    def _path(self, name: str) -> Path:
        return self._folder / f"{name.replace('/', '-')}.json"

    def _read(self, name: str) -> Entry | None:
        path = self._path(name)
        try:
            return Entry.model_validate(read_json(path)) if path.exists() else None
        except (OSError, ValueError):
            raise BadInputError(f"{path}: damaged. Remove it together with what {name} made") from None

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        make_folder(self._folder)
        write_json(self._path(name), content)


def _differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """Say what differs between two plain values, by the dotted names of what is in them."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*before, *(key for key in now if key not in before)]:
            yield from _differences(before.get(key), now.get(key), f"{name}.{key}" if name else str(key))
    elif before != now:
        yield f"{name} {as_json(before)} instead of {as_json(now)}" if name else "all"
