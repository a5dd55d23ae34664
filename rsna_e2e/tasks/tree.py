"""How the labels of one level exclude and imply each other, as groups of branches that hang on earlier branches."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from rsna_e2e.core.errors import UsageError

# What pydantic is told of every part of a task: a key that is no field is an error
STRICT = {"extra": "forbid"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Where `given` holds, exactly one of the branches does. A branch that is no label ends in "*": a state without a
    name of its own. given: a branch of an earlier group; "": always."""

    __pydantic_config__: ClassVar[dict[str, str]] = STRICT

    branches: tuple[str, ...]
    given: str = ""
    kind: Literal["choice"] = "choice"


@dataclass(frozen=True, slots=True, kw_only=True)
class Some:
    """Where `given` holds, at least one of the branches does, each a label."""

    __pydantic_config__: ClassVar[dict[str, str]] = STRICT

    branches: tuple[str, ...]
    given: str
    kind: Literal["some"] = "some"


Tree = tuple[Choice | Some, ...]


def check_tree(where: str, names: Sequence[str], tree: Tree) -> None:
    """Raise UsageError, which begins with `where`, unless `tree` has each label once and hangs together; or is ()."""
    if not tree:
        return
    counted = Counter(branch for group in tree for branch in group.branches)
    labels = [branch for branch in counted if not branch.endswith("*")]
    earlier: set[str] = set()
    for group in tree:
        if (group.given == "") != (group is tree[0]) or (group.given and group.given not in earlier):
            raise UsageError(
                f"{where}: the group {', '.join(group.branches)} is given {group.given!r}. The first group "
                "has none, others a branch of an earlier group"
            )
        if isinstance(group, Some) and any(branch.endswith("*") for branch in group.branches):
            raise UsageError(f"{where}: branches of kind some must be labels: {', '.join(group.branches)}")
        earlier |= set(group.branches)
    if not isinstance(tree[0], Choice):
        raise UsageError(f"{where}: the first group of a tree must be a choice")
    if twice := [branch for branch, n in counted.items() if n > 1]:
        raise UsageError(f"{where}: {twice[0]} is a branch of the tree twice")
    if set(labels) != set(names):
        other = sorted(set(labels) ^ set(names))
        raise UsageError(f"{where}: its tree must have each label; the first that differs is {other[0]}")
