"""Compares settings of a run with those to resume it with: only settings without effect on the result may differ."""

from pathlib import Path
from typing import Any

from rsna_e2e.config import Frozen, RunConfig
from rsna_e2e.config.effects import Effect, effect_of, fields_with
from rsna_e2e.core.errors import UsageError
from rsna_e2e.core.files import as_json
from rsna_e2e.tasks.task import Task, flat


def compare_configs(saved: RunConfig, wanted: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Return the settings with an effect on the result that differ, by name: (saved, wanted).

    auto in the wanted ones stands for the saved value.
    """
    return {name: values for name, values in _differences("", saved, wanted).items() if values[1] != "auto"}


def settings_of_result(config: RunConfig) -> dict[str, Any]:
    """Return the settings that the result of a run depends on, as plain values by section."""
    return config.model_dump(mode="json", exclude=fields_with(RunConfig, {Effect.NONE}))


def check_same_settings(run: Path, *, saved: RunConfig, wanted: RunConfig) -> None:
    """Raise UsageError naming what differs between a run's configuration and the one to resume it with."""
    differences = compare_configs(saved, wanted)
    if differences:
        listed = "; ".join(f"{name}={_shown(old)}, not {_shown(new)}" for name, (old, new) in differences.items())
        raise UsageError(f"{run} was started with {listed}. Give the same settings, or another run folder")


def _differences(prefix: str, saved: Frozen, wanted: Frozen) -> dict[str, tuple[Any, Any]]:
    found: dict[str, tuple[Any, Any]] = {}
    for field, info in type(saved).model_fields.items():
        if effect_of(info) is Effect.NONE:
            continue
        old, new = getattr(saved, field), getattr(wanted, field)
        if isinstance(old, Frozen) and isinstance(new, Frozen):
            found |= _differences(f"{prefix}{field}.", old, new)
        elif isinstance(old, Task) and isinstance(new, Task) and old.name == new.name:
            before, now = flat(old), flat(new)
            found |= {f"{prefix}{field}.{name}": (before[name], now[name]) for name in now if before[name] != now[name]}
        elif old != new:
            found[f"{prefix}{field}"] = (old, new)
    return found


def _shown(value: Any) -> str:
    """As `--set` takes it."""
    if isinstance(value, Task):
        return value.name
    plain = value.model_dump(mode="json") if isinstance(value, Frozen) else value
    return str(plain) if isinstance(plain, str | Path) else as_json(plain)
