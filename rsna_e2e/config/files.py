"""Configurations by the name of a recipe or from a file, with `a.b=value` overrides; and saving them whole."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from rsna_e2e.config.catalogue import field_at, near_names, section_in, sections
from rsna_e2e.config.recipes import RECIPES, TWO_STAGE_RECIPES
from rsna_e2e.config.run import RunConfig
from rsna_e2e.config.sections import Frozen
from rsna_e2e.config.two_stage import TwoStageConfig
from rsna_e2e.core.errors import BadInputError, RsnaError, UsageError
from rsna_e2e.core.files import as_json
from rsna_e2e.core.plain_yaml import parse_yaml, read_yaml
from rsna_e2e.core.records import printable

_SHOWN, _SHOWN_NAMES, _LONGEST = 8, 40, 80  # faults, names, and characters of a user's words in a message

Config = TypeVar("Config", bound=Frozen)


def load_config(recipe: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Return a recipe by name, or a saved config.yaml by path, with `a.b=value` overrides applied.

    Raises UsageError for an unknown recipe, key or value; BadInputError for a file that is not a configuration.
    """
    return _load(RunConfig, RECIPES, recipe, overrides)


def load_two_stage(recipe: str | Path, overrides: Sequence[str] = ()) -> TwoStageConfig:
    """The same of the two-stage pipeline; overrides begin with two_stage, images or sequences."""
    return _load(TwoStageConfig, TWO_STAGE_RECIPES, recipe, overrides)


def is_two_stage(path: Path) -> bool:
    """Whether a YAML file is a configuration of the two-stage pipeline. Raises BadInputError as `load_config` does."""
    return "two_stage" in _read(path)


def _load(
    kind: type[Config], recipes: Mapping[str, Callable[[], Config]], recipe: str | Path, overrides: Sequence[str]
) -> Config:
    if str(recipe) in recipes:
        raw = recipes[str(recipe)]().model_dump(mode="json")
    elif Path(recipe).is_file():
        raw = _read(Path(recipe))
    else:
        raise UsageError(
            f"unknown recipe {_short(str(recipe))!r}; known: {', '.join(recipes)}, or the path of a config.yaml"
        )
    for override in overrides:
        _override(raw, override, kind)
    wrong = UsageError if overrides or str(recipe) in recipes else BadInputError
    return make_config(kind, raw, name=f"configuration {printable(str(recipe))}", wrong=wrong)


def make_config(
    kind: type[Config], values: Mapping[str, Any], *, name: str, wrong: type[RsnaError] = UsageError
) -> Config:
    """Return a configuration of these values. Raises `wrong` with a message that begins with `name`."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise wrong(f"{name}: {_explain(error)}") from None


def save_config(config: Frozen, *, path: Path) -> None:
    """Write the whole configuration as YAML."""
    path.write_bytes(as_yaml(config))


def as_yaml(config: Frozen) -> bytes:
    """Return the whole configuration as YAML."""
    text: str = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    return text.encode()


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = read_yaml(path)
    except ValueError as error:
        raise BadInputError(f"{path}: not a YAML configuration: {error}") from None
    if not isinstance(raw, dict):
        raise BadInputError(f"{path}: not a YAML configuration, but {type(raw).__name__}")
    return raw


def _override(raw: dict[str, Any], override: str, kind: type[Frozen]) -> None:
    name, separator, text = override.partition("=")
    said = f"--set {_short(override)}"
    if not separator:
        raise UsageError(f"{said}: expected a.b=value, for example --set optimizer.learning_rate=1e-3")
    *parents, leaf = name.split(".")
    node = raw
    within: list[str] = []
    for parent in parents:
        within.append(parent)
        if parent not in node and (field := field_at(kind, within)) is not None:  # left out of braces, or of a file
            node[parent] = {} if section_in(field.annotation) is field.annotation else None
        child = node.get(parent)
        if isinstance(child, list):  # of sections, by their numbers
            child = dict(zip(map(str, range(len(child))), child, strict=True))
        if not isinstance(child, dict):
            if parent in node:
                raise UsageError(
                    f"{said}: {parent} is {_short(as_json(child))} in this recipe, not a section. "
                    f"rsna-e2e settings {parent} says how to set it"
                )
            raise UsageError(f"{said}: there is no section {_short(parent)!r}{_instead(name, node, kind)}")
        node = child
    if leaf not in node and field_at(kind, [*parents, leaf]) is None:
        raise UsageError(f"{said}: there is no {_short(leaf)!r}{_instead(name, node, kind)}")
    try:
        node[leaf] = _number_or(parse_yaml(text))
    except ValueError as error:
        raise UsageError(f"{said}: cannot read the value: {error}") from None


def _number_or(value: Any) -> Any:
    """YAML 1.1 reads 1e-3 as a string; take it as the number that was meant."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _explain(error: ValidationError) -> str:
    """What is wrong with each setting, in one line; of very many, with the first."""
    wrong = [
        f"{_short(_setting(item['loc']))}: {item['msg'].removeprefix('Value error, ')}".removeprefix(": ")
        for item in error.errors(include_input=False, include_url=False)
    ]
    more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    return "; ".join(wrong[:_SHOWN]) + more


def _setting(loc: Sequence[int | str]) -> str:
    """The name of a setting. Of one that takes a number or a word, pydantic names which of the two it tried."""
    return ".".join(part for part in map(str, loc) if "[" not in part or part == "[key]")


def _instead(name: str, node: dict[Any, Any], kind: type[Frozen]) -> str:
    """What may have been meant by a setting that is not in `node`: the nearest names, else those that are there."""
    if near := near_names(name[:_LONGEST], sections(kind)):
        return f". Near: {', '.join(near)}. rsna-e2e settings lists all"
    return f"; it has {', '.join(_short(str(known)) for known in list(node)[:_SHOWN_NAMES])}"


def _short(text: str) -> str:
    """A user's words for a message: on one line, and not all of very many."""
    return printable(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...")
