"""Reads and writes YAML as plain data; what is read is held to limits.

Whatever is wrong with a file is a ValueError, and aliases cannot make its content grow beyond a fixed size.
"""

from pathlib import Path
from typing import Any, ClassVar

import yaml

MOST_BYTES = 2**20
MOST_LEVELS = 20
MOST_CHARACTERS = 4096  # of a value, as of a path
MOST_NODES = 10_000  # with everything that an alias stands for counted again
_TAG = "tag:yaml.org,2002:"
_KINDS = {_TAG + kind for kind in ("null", "bool", "int", "float", "str", "seq", "map")}
# What PyYAML's constructors raise for a tag that its value does not fit, such as !!int abc
_MISFITS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


def read_yaml(path: Path) -> Any:
    """Return what a file holds. Raises ValueError saying what is wrong with it, OSError when it cannot be read."""
    if not path.is_file():  # a pipe would be waited for, a device would never end
        raise ValueError("not a regular file")
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES:,} bytes")
    return parse_yaml(content.decode())


def parse_yaml(text: str) -> Any:
    """Return plain data: text, numbers, booleans, None, lists and dictionaries. Raises ValueError."""
    try:
        return yaml.load(text, Loader=_PlainLoader)
    except yaml.MarkedYAMLError as error:
        where = "" if error.problem_mark is None else f" in line {error.problem_mark.line + 1}"
        raise ValueError(f"{error.problem}{where}") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error).partition("\n")[0]) from None


class _PlainLoader(yaml.SafeLoader):
    """SafeLoader with limits, for the kinds that settings have. What looks like a date is text."""

    yaml_constructors: ClassVar[dict[Any, Any]] = {
        **{tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items() if tag is None or tag in _KINDS},
        f"{_TAG}timestamp": yaml.SafeLoader.construct_yaml_str,
    }

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._level = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._level += 1
        if self._level > MOST_LEVELS:
            raise _refused(f"nested in more than {MOST_LEVELS} levels", self.get_mark())
        node = super().compose_node(parent, index)
        self._level -= 1
        return node

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None:
            _count(node)
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except _MISFITS:
            kind = node.tag.rpartition(":")[2]
            raise _refused(f"not a value of the kind {kind}", node.start_mark) from None

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        is_map = isinstance(node, yaml.MappingNode)  # else the line after the next says what it is
        keys = [key for key, _ in node.value if key.tag != f"{_TAG}merge"] if is_map else []
        mapping = super().construct_mapping(node, deep=deep)  # puts what is merged in before them
        found = set()
        for key in keys:
            name = self.construct_object(key)
            if name in found:
                raise _refused(f"{name!r:.60} appears twice", key.start_mark)
            found.add(name)
        return mapping


def to_yaml(value: Any) -> str:
    """Return plain data as YAML: keys in their order, lists and mappings of plain values in one line each."""
    text: str = yaml.safe_dump(value, sort_keys=False, default_flow_style=None, width=120)
    return text


def _count(node: yaml.Node, level: int = 0, before: int = 0) -> int:
    """Return the number of nodes up to this one and all below it. Raises where they are too many, as in a circle."""
    n = before + 1
    if n > MOST_NODES or level > MOST_LEVELS:
        raise _refused("aliases are circular, or expand to too many values", node.start_mark)
    if isinstance(node, yaml.ScalarNode):
        if len(node.value) > MOST_CHARACTERS:
            raise _refused(f"a value of more than {MOST_CHARACTERS} characters", node.start_mark)
        if any("\ud800" <= character <= "\udfff" for character in node.value):
            raise _refused("half of a surrogate pair, which is no character", node.start_mark)
        return n
    for child in node.value:
        for part in child if isinstance(child, tuple) else (child,):
            n = _count(part, level + 1, n)
    return n


def _refused(problem: str, mark: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
