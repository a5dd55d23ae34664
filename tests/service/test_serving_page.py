"""What docs/serving.md says of the service: its settings with their defaults, and its requests with their roles."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from documents import Document
from services import make_desk

from rsna_e2e.config import Frozen
from rsna_e2e.core.plain_yaml import parse_yaml
from rsna_e2e.service.app import make_app
from rsna_e2e.service.roles import declared_roles
from rsna_e2e.service.settings import Settings

pytestmark = pytest.mark.needs_serve

PAGE = Document.read("docs/serving.md")
GIVEN = ("data", "models")  # without a default


def rows_below(heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading, without its head."""
    _, _, text = PAGE.text.partition(f"\n{heading}\n")
    table = re.search(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    assert table is not None
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table[0].splitlines()]
    return rows[2:]


def defaults_of(settings: Frozen, before: str = "") -> Iterator[tuple[str, str]]:
    """Yield each setting's name and default, as the page writes it."""
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, Frozen):
            yield from defaults_of(value, f"{name}.")
        else:
            yield before + name, "–" if name in GIVEN else as_written(name, value)


def as_written(name: str, value: Any) -> str:
    match value:
        case None | ():
            return "none"
        case bool():
            return str(value).lower()
        case tuple():
            return ", ".join(f"{one:g}" for one in value)
        case int() if name.endswith("_bytes"):
            return f"{value >> 30} GiB" if value % (1 << 30) == 0 else f"{value >> 20} MiB"
        case int() | float():
            return f"{value:g}"
    return str(value)


def test_every_setting_is_in_the_table_with_its_default() -> None:
    settings = Settings(data=Path("data"), models=(Path("model.rsna"),))
    told = {name.strip("`"): default for name, default, _ in rows_below("### Settings")}
    assert told == dict(defaults_of(settings))


def test_the_settings_of_the_example_are_understood() -> None:
    (block,) = (block for block in PAGE.blocks if block.language == "yaml")
    Settings.model_validate(parse_yaml(block.text) | {"data": "data", "models": ["model.rsna"]})


def test_every_request_is_in_the_table_with_its_role(tmp_path: Path) -> None:
    told: dict[tuple[str, str], str] = {}
    for requests, role, _ in rows_below("### Requests"):
        for method, path in re.findall(r"`([A-Z]+) ([^`?]+)[^`]*`", requests):
            told[method, path] = role
    root = "/api/v1"
    own = {"/healthz", "/readyz", "/metrics", "/", "/login", "/static/{name}"}  # beside those below the root
    declared = declared_roles(make_app(make_desk(tmp_path / "data").settings))
    wanted = {(method, path.removeprefix(root)): role or "" for (method, path), role in declared.items()}
    assert told == wanted
    assert {path for method, path in declared if not path.startswith(root)} == own
