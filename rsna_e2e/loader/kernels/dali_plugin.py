"""Loads DALI with the operators of csrc, fn.rsna.transform_slices and fn.rsna.content_box, on first use."""

import importlib.util
import os
from functools import cache
from pathlib import Path
from types import ModuleType

from rsna_e2e.core.errors import BUILD_COMMAND, MissingCapabilityError

_FOLDER = Path(__file__).parent
_INSTALL = "pip install nvidia-dali-cuda130"
_BUILD = f"RSNA_WITH_DALI=1 {BUILD_COMMAND}"


def is_installed() -> bool:
    """Whether DALI and a plugin are installed; that their versions match is checked by `load`."""
    return _is_dali_installed() and bool(_plugin_versions())


@cache
def load() -> ModuleType:
    """Return nvidia.dali with our operators registered.

    Raises MissingCapabilityError, with the command that helps, when DALI or the plugin is missing, or when the plugin
    was built for another version of DALI: a plugin sees DALI's private classes, which change with every version.
    """
    if not _is_dali_installed():
        raise MissingCapabilityError(f"NVIDIA DALI is not installed. Install it with: {_INSTALL}; then: {_BUILD}")
    import torch  # noqa: F401  # brings the CUDA runtime that the plugin's CUDA half is linked to

    # DALI keeps memory of this size and more for its next outputs. Smaller outputs come from malloc, and DALI's default
    # is 32 MB: up to a third of the time went into pages that malloc had given back and fetched again.
    os.environ.setdefault("DALI_MALLOC_POOL_THRESHOLD", "1M")
    try:
        from nvidia import dali
    except ImportError as error:
        raise MissingCapabilityError(
            f"NVIDIA DALI cannot be imported ({error}). Install it again with: {_INSTALL}"
        ) from None
    plugin = _FOLDER / f"_dali-{dali.__version__}.so"
    if not plugin.exists():
        others = _plugin_versions()
        state = f"was built for DALI {', '.join(others)}" if others else "is not built"
        raise MissingCapabilityError(
            f"DALI {dali.__version__} is installed, but the plugin with our operators {state}. Build it with: {_BUILD}"
        )
    try:
        dali.plugin_manager.load_library(str(plugin))
    except RuntimeError as error:
        raise MissingCapabilityError(
            f"{plugin.name} cannot be loaded ({error}). Build it again with: {_BUILD}"
        ) from None
    module: ModuleType = dali
    return module


def _is_dali_installed() -> bool:
    try:
        return importlib.util.find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:  # there is no package nvidia
        return False


def _plugin_versions() -> list[str]:
    """The versions of DALI that plugins were built for."""
    return sorted(path.stem.removeprefix("_dali-") for path in _FOLDER.glob("_dali-*.so"))
