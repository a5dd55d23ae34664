"""Reads a task from YAML, or from the task.json of a run, and writes it: a user's own needs no code."""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.files import SEAL, as_json, read_json, unsealed
from rsna_e2e.core.plain_yaml import read_yaml, to_yaml
from rsna_e2e.core.records import printable
from rsna_e2e.tasks.task import BoxColumns, Csv, Inputs, Labels, Task, plain
from rsna_e2e.tasks.tree import Choice, Some

# What stands at a key, or is an item of a tree
_KINDS = {
    **{"slices": Labels, "series": Labels, "inputs": Inputs, "csv": Csv, "box_columns": BoxColumns},
    **{"choice": Choice, "some": Some},
}
_TREES = {Choice.__name__: "choice", Some.__name__: "some"}

# What YAML calls that which pydantic misses, by its names of errors
_EXPECTED = {
    "string_type": "must be text",
    "float_type": "must be a number",
    "tuple_type": "must be a list",
    "dataclass_type": "must be a mapping",
    "too_long": "has too many items",
}
_SHOWN, _LONGEST = 5, 80  # faults, and characters of a user's words in a message


def read_task_file(path: Path) -> Task:
    """Return the task that a YAML file describes, or that a run keeps in its task.json.

    Raises BadInputError naming the file and, where it is a field that is wrong, the field and what it may be.
    """
    try:
        raw = read_json(path) if path.suffix == ".json" else read_yaml(path)
        if isinstance(raw, dict) and SEAL in raw:
            raw = unsealed(raw)
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise BadInputError(f"{path}: not a readable task: {error}") from None
    return make_task(raw, where=f"{path}: ")


def make_task(raw: Any, *, where: str = "") -> Task:
    """Return the task that plain data describes. Raises BadInputError that begins with `where` and names the field."""
    if not isinstance(raw, dict):
        raise BadInputError(f"{where}not a task, but {_short(as_json(raw))}")
    try:
        return TypeAdapter(Task).validate_json(as_json(raw), strict=True)
    except ValidationError as error:
        faults = list(_faults(error, raw))
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise BadInputError(f"{where}{'; '.join(faults[:_SHOWN])}{more}") from None
    except UsageError as error:
        raise BadInputError(f"{where}{error}") from None


def task_as_yaml(task: Task) -> str:
    """Return a whole task as YAML, as `read_task_file` takes it."""
    return to_yaml(plain(task))


def _faults(error: ValidationError, raw: Any) -> Iterator[str]:
    """Say of each fault where it is and what is expected there."""
    for item in error.errors(include_url=False):
        loc = item["loc"]
        words = [_TREES.get(str(part), str(part)) for part in loc]
        kinds = [word for word in words if word in _TREES.values()]
        if kinds and kinds[0] != _kind_of(raw, loc):
            continue  # what keeps a group from being of the other kind
        field = ".".join(word for word in words if word not in _TREES.values())
        yield f"{_short(field)}: {_expected(item, words)}"


def _kind_of(raw: Any, loc: Sequence[int | str]) -> str:
    """Which kind of group a tree has at `loc`, LEVEL.tree.NUMBER."""
    level, _, number, *_ = loc
    group = raw[level]["tree"][number]
    return "some" if isinstance(group, dict) and group.get("kind") == "some" else "choice"


def _expected(item: Any, words: Sequence[str]) -> str:
    """What is expected where pydantic found a fault, at the field that `words` lead to."""
    kind = _KINDS.get(words[-2], Task) if len(words) > 1 else Task
    match item["type"]:
        case "unexpected_keyword_argument":
            known = [one.name for one in fields(kind)]
            near = get_close_matches(words[-1], known, n=1)
            meant = f"; did you mean {near[0]}?" if near else "."
            return f"there is no such field{meant} Known: {', '.join(known)}"
        case "missing" | "missing_argument":
            return "missing. rsna-e2e tasks prints a whole task to start from"
        case "literal_error":
            expected = "'choice' or 'some'" if words[-1] == "kind" else item["ctx"]["expected"]
            return f"must be {expected}, not {_short(as_json(item['input']))}"
        case "float_type" if _is_number(item["input"]):
            return (
                f"must be a number, and YAML takes {_short(item['input'])} for text: write it with a point, as 1.0e-3"
            )
        case other:
            return f"{_EXPECTED.get(other, item['msg'])}, not {_short(as_json(item['input']))}"


def _is_number(value: Any) -> bool:
    """Whether this is a number to Python, and to YAML text."""
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return isinstance(value, str)


def _short(text: str) -> str:
    """A user's words for a message: on one line, and not all of very many."""
    return printable(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...")
