"""Configurations by the name of a recipe or from a file, with `a.b=value` overrides; and saving them whole."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from rsna_e2e.config.recipes import RECIPES, TWO_STAGE_RECIPES
from rsna_e2e.config.run import RunConfig
from rsna_e2e.config.sections import Frozen
from rsna_e2e.config.two_stage import TwoStageConfig
from rsna_e2e.errors import BadInputError, UsageError

Config = TypeVar("Config", bound=Frozen)


def load_config(recipe: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Return a recipe by name, or a saved config.yaml by path, with `a.b=value` overrides applied.

    Raises UsageError for an unknown recipe, key or value; BadInputError for a file that is not a configuration.
    """
    return _load(RunConfig, RECIPES, recipe, overrides)


def load_two_stage(recipe: str | Path, overrides: Sequence[str] = ()) -> TwoStageConfig:
    """The same of the two-stage pipeline; overrides begin with two_stage, images or sequences."""
    return _load(TwoStageConfig, TWO_STAGE_RECIPES, recipe, overrides)


def _load(
    kind: type[Config], recipes: Mapping[str, Callable[[], Config]], recipe: str | Path, overrides: Sequence[str]
) -> Config:
    if str(recipe) in recipes:
        raw = recipes[str(recipe)]().model_dump(mode="json")
    elif Path(recipe).is_file():
        raw = _read_yaml(Path(recipe))
    else:
        raise UsageError(f"unknown recipe {str(recipe)!r}; known: {', '.join(recipes)}, or the path of a config.yaml")
    for override in overrides:
        _override(raw, override)
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        wrong = UsageError if overrides or str(recipe) in recipes else BadInputError
        raise wrong(f"configuration {recipe}: {_explain(error)}") from None


def save_config(config: Frozen, *, path: Path) -> None:
    """Write the whole configuration as YAML."""
    path.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError):
        raise BadInputError(f"{path}: not a YAML configuration") from None
    if not isinstance(raw, dict):
        raise BadInputError(f"{path}: not a YAML configuration")
    return raw


def _override(raw: dict[str, Any], override: str) -> None:
    name, separator, text = override.partition("=")
    if not separator:
        raise UsageError(f"--set {override}: expected a.b=value, for example --set optimizer.learning_rate=1e-3")
    *parents, leaf = name.split(".")
    node = raw
    for parent in parents:
        child = node.get(parent)
        if not isinstance(child, dict):
            raise UsageError(f"--set {override}: there is no section {parent!r}; it has {', '.join(node)}")
        node = child
    if leaf not in node:
        raise UsageError(f"--set {override}: there is no {leaf!r}; it has {', '.join(node)}")
    try:
        node[leaf] = _number_or(yaml.safe_load(text))
    except yaml.YAMLError:
        raise UsageError(f"--set {override}: cannot read the value {text!r}") from None


def _number_or(value: Any) -> Any:
    """YAML 1.1 reads 1e-3 as a string; take it as the number that was meant."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _explain(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
