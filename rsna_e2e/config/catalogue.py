"""Every setting with its values, unit and meaning, read from the models that check them."""

from collections.abc import Iterator
from dataclasses import dataclass
from inspect import cleandoc
from typing import Any, get_args

from rsna_e2e.config.effects import Effect, effect_of
from rsna_e2e.config.sections import Frozen
from rsna_e2e.core.files import as_json

_LARGE = 10**6  # from here on, bounds are written as powers of ten


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A setting, by the name that `--set` takes. values: those it may have, with their unit. effect: None outside of a
    run."""

    name: str
    values: str
    effect: Effect | None
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """The settings that stand together in a configuration. name: empty for those at its top."""

    name: str
    meaning: str
    settings: tuple[Setting, ...]


def sections(kind: type[Frozen], *, prefix: str = "", effect: Effect | None = None) -> Iterator[Section]:
    """Yield the section that `kind` is, and those in it. effect: the mark on all of it."""
    schemas = kind.model_json_schema()["properties"]
    settings: list[Setting] = []
    inner: list[Section] = []
    for name, field in kind.model_fields.items():
        section, mark = _section_in(field.annotation), effect or effect_of(field)
        if section is not None:
            inner += sections(section, prefix=f"{prefix}{name}.", effect=mark)
            continue
        meaning = " ".join((field.description or "").split())
        settings.append(Setting(name=f"{prefix}{name}", values=_words(schemas[name]), effect=mark, meaning=meaning))
    yield Section(name=prefix.rstrip("."), meaning=cleandoc(kind.__doc__ or ""), settings=tuple(settings))
    yield from inner


def value_of(config: Frozen, name: str) -> str:
    """Return the value of a setting as `--set` takes it; empty in a section that the configuration leaves out."""
    value: Any = config.model_dump(mode="json")
    for part in name.split("."):
        if value is None:
            return ""
        value = value[part]
    return value if isinstance(value, str) else as_json(value)


def _section_in(annotation: Any) -> type[Frozen] | None:
    """The section that a field holds, or may hold."""
    kinds = (annotation, *get_args(annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Frozen)), None)


def _words(schema: dict[str, Any]) -> str:
    """The values that a JSON schema allows."""
    if "anyOf" in schema:
        return " or ".join(map(_words, schema["anyOf"]))
    if "enum" in schema:
        *first, last = schema["enum"]
        return f"{', '.join(first)} or {last}"
    match schema.get("const", schema["type"]):
        case "integer" | "number":
            return f"{_range(schema)} {schema.get('unit', '')}".rstrip()
        case "array":
            return f"[{_words(schema['items'])}, ...]"
        case "object":
            members = schema["additionalProperties"]
            return f"mapping to {_words(members)}" if isinstance(members, dict) else "mapping"
        case "boolean":
            return "true or false"
        case "string":
            return str(schema.get("format", "text"))  # path
        case word:
            return str(word)


def _range(schema: dict[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None and schema["type"] == "integer":
        low = schema["exclusiveMinimum"] + 1
    begin = f"above {_number(schema['exclusiveMinimum'])}" if low is None else _number(low)
    end = f"below {_number(schema['exclusiveMaximum'])}" if high is None else _number(high)
    return f"{begin} to {end}"


def _number(value: float) -> str:
    return f"{value:.2g}".replace("e+0", "e").replace("e+", "e") if value >= _LARGE else f"{value:g}"
