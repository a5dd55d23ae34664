"""The runs of a comparison: a recipe, and settings of it to vary."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Self

from rsna_e2e.config import RunConfig, load_config
from rsna_e2e.core.errors import UsageError
from rsna_e2e.core.files import as_json
from rsna_e2e.core.plain_yaml import parse_yaml

MOST_RUNS = 1000
_PLAIN = re.compile(r"[A-Za-z0-9._=,+-]{1,100}")  # names of folders that need no other


@dataclass(frozen=True, slots=True)
class Varied:
    """A setting and the values that it takes in turn, as --set takes them."""

    name: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return what `a.b=x,y` says; commas inside brackets and braces are part of a value. Raises UsageError."""
        name, _, listed = text.partition("=")
        try:
            values = parse_yaml(f"[{listed}]")
        except ValueError as error:
            raise UsageError(f"--vary {text:.80}: cannot read the values: {error}") from None
        if not name or not isinstance(values, list) or not values:
            raise UsageError(f"--vary {text:.80}: expected a.b=x,y, for example --vary optimizer.weight_decay=0,0.01")
        return cls(name, tuple(value if isinstance(value, str) else as_json(value) for value in values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One run: the settings that make it what it is, and all of them. name: the former in one line."""

    settings: dict[str, str]
    config: RunConfig

    @property
    def name(self) -> str:
        """The settings that make it what it is, in one line."""
        return ", ".join(f"{name}={value}" for name, value in self.settings.items())

    @property
    def folder(self) -> str:
        """The name of its folder: the same for the same settings, whatever other runs there are."""
        name = ",".join(f"{name}={value}" for name, value in self.settings.items())
        if _PLAIN.fullmatch(name):
            return name
        return f"{re.sub(r'[^A-Za-z0-9._=,+-]+', '-', name)[:80]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def make_variants(
    recipe: str | Path, overrides: Sequence[str], varied: Sequence[Varied], *, is_grid: bool
) -> list[Variant]:
    """Return the runs: one for each value of each setting, the others as in the recipe; is_grid: one for each
    combination of values. Runs whose settings are the same come once.

    Raises UsageError, naming it, for a value that makes no configuration, and for a setting that is varied twice.
    """
    names = [one.name for one in varied]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"--vary {twice[0]} is given twice. Put all of its values into one")
    if is_grid:
        chosen = [dict(zip(names, values, strict=True)) for values in product(*(one.values for one in varied))]
    else:
        chosen = [{one.name: value} for one in varied for value in one.values]
    if len(chosen) > MOST_RUNS:
        raise UsageError(f"--vary makes {len(chosen)} runs; {MOST_RUNS} are the most. Vary less at once")
    variants: list[Variant] = []
    for settings in chosen:
        both = [*overrides, *(f"{name}={value}" for name, value in settings.items())]
        config = load_config(recipe, both)
        if config not in [one.config for one in variants]:
            variants.append(Variant(settings=settings, config=config))
    return variants
