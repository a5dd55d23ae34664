"""Whether a run may be resumed with other settings: only with those that change how it is done, not what it gives."""

from pathlib import Path
from typing import Any

from rsna_e2e.config import Frozen, RunConfig
from rsna_e2e.core.errors import UsageError
from rsna_e2e.core.files import as_json

# Settings, and whole sections, that leave the result as it is
_FREE = (
    "graph_slices",
    "loader.backend",
    "loader.threads",
    "loader.prefetch_batches",
    "checkpoint.every_steps",
    "checkpoint.every_minutes",
    "checkpoint.keep_last",
    "checkpoint.on_disk_full",
    "distributed",
)


def compare_configs(saved: RunConfig, wanted: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ and matter, by name: (saved, wanted).

    auto in the wanted one takes what it was resolved to in the saved one.
    """
    return {
        name: values
        for name, values in _differences("", saved, wanted).items()
        if not _is_free(name) and values[1] != "auto"
    }


def what_matters(config: RunConfig) -> dict[str, Any]:
    """Return the settings that a result depends on, as plain values by section."""
    return _mattering("", config.model_dump(mode="json"))


def _mattering(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _mattering(f"{prefix}{name}.", value) if isinstance(value, dict) else value
        for name, value in values.items()
        if not _is_free(f"{prefix}{name}")
    }


def _is_free(name: str) -> bool:
    return any(name == free or name.startswith(f"{free}.") for free in _FREE)


def check_same_settings(run: Path, *, saved: RunConfig, wanted: RunConfig) -> None:
    """Raise UsageError naming what differs between a run's configuration and the one to resume it with."""
    differences = compare_configs(saved, wanted)
    if differences:
        listed = "; ".join(f"{name}={_shown(old)}, not {_shown(new)}" for name, (old, new) in differences.items())
        raise UsageError(f"{run} was started with {listed}. Give the same settings, or another run folder")


def _differences(prefix: str, saved: Frozen, wanted: Frozen) -> dict[str, tuple[Any, Any]]:
    found: dict[str, tuple[Any, Any]] = {}
    for field in type(saved).model_fields:
        old, new = getattr(saved, field), getattr(wanted, field)
        if isinstance(old, Frozen) and isinstance(new, Frozen):
            found |= _differences(f"{prefix}{field}.", old, new)
        elif old != new:
            found[f"{prefix}{field}"] = (old, new)
    return found


def _shown(value: Any) -> str:
    """As `--set` takes it."""
    plain = value.model_dump(mode="json") if isinstance(value, Frozen) else value
    return str(plain) if isinstance(plain, str | Path) else as_json(plain)
