"""Every setting with its values, unit and meaning, read from the models that check them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from inspect import cleandoc
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo

from rsna_e2e.config.effects import Effect, effect_of
from rsna_e2e.config.sections import Frozen
from rsna_e2e.core.files import as_json

_NEAR, _ALIKE, _LESS = 6, 0.65, 0.1  # names that are shown; how alike they are at least, 1 is equal, beside the nearest
_PART = 0.9  # how alike a part of a name, such as `learn`, or its initials are to the whole
_SHORTEST = 3  # characters of a part

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
        section, mark = section_in(field.annotation), effect or effect_of(field)
        if section is not None:
            is_list = get_origin(field.annotation) is tuple
            inner += sections(section, prefix=f"{prefix}{name}.{'0.' * is_list}", effect=mark)
            continue
        meaning = " ".join((field.description or "").split())
        settings.append(Setting(name=f"{prefix}{name}", values=_words(schemas[name]), effect=mark, meaning=meaning))
    yield Section(name=prefix.rstrip("."), meaning=cleandoc(kind.__doc__ or ""), settings=tuple(settings))
    yield from inner


def section_in(annotation: Any) -> type[Frozen] | None:
    """Return the section that a field holds, or may hold."""
    kinds = (annotation, *get_args(annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Frozen)), None)


def field_at(kind: type[Frozen], path: Iterable[str]) -> FieldInfo | None:
    """Return the field that is reached by these names, None where there is none, and inside of lists."""
    section: type[Frozen] | None = kind
    field = None
    for name in path:
        field = section.model_fields.get(name) if section else None
        section = section_in(field.annotation) if field and get_origin(field.annotation) is not tuple else None
    return field


def value_of(config: Frozen, name: str) -> str:
    """Return the value of a setting as `--set` takes it; empty in a section that the configuration leaves out."""
    value: Any = config.model_dump(mode="json")
    for part in name.split("."):
        if value is None or (isinstance(value, list) and int(part) >= len(value)):
            return ""
        value = value[int(part) if isinstance(value, list) else part]
    return value if isinstance(value, str) else as_json(value)


def near_names(asked: str, known: Iterable[Section]) -> list[str]:
    """Return the sections and settings that are called most like what was asked for, none where nothing is."""
    found = list(known)
    names = [*(section.name for section in found), *(item.name for section in found for item in section.settings)]
    alike = {name: _likeness(asked.lower(), name) for name in names if name}
    least = max(_ALIKE, max(alike.values(), default=0.0) - _LESS)
    near = [name for name in alike if alike[name] >= least]
    return sorted(near, key=lambda name: (alike[name], _ratio(asked, name)), reverse=True)[:_NEAR]


def _likeness(asked: str, name: str) -> float:
    """How alike the last parts of two names are: those before differ by where a setting stands."""
    asked, name = asked.rpartition(".")[2], name.rpartition(".")[2]
    words = name.split("_")
    is_part = len(asked) >= _SHORTEST and asked in name
    is_initials = len(words) > 1 and asked == "".join(word[:1] for word in words)
    return max(_PART * (is_part or is_initials), *(_ratio(asked, word) for word in (name, *words)))


def _ratio(asked: str, name: str) -> float:
    return SequenceMatcher(None, asked, name).ratio()


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
            if "prefixItems" in schema:
                return f"[{', '.join(map(_words, schema['prefixItems']))}]"
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
    text = f"{value:.2g}" if abs(value) >= _LARGE else f"{value:g}"
    return text.replace("e+0", "e").replace("e+", "e").replace("e-0", "e-")
