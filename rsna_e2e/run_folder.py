"""What a run wrote about itself beside its weights, read with suspicion: its configuration and its manifest."""

from pathlib import Path
from typing import Any

from rsna_e2e.config import RunConfig, load_config
from rsna_e2e.errors import BadInputError
from rsna_e2e.files import read_json, sha256_of
from rsna_e2e.tasks import TASKS

CONFIG, MANIFEST = "config.yaml", "manifest.json"
CONFIG_SHA256 = "config_sha256"  # in the manifest; runs of before have none, and their configuration is taken as it is


def check_is_run(run: Path) -> None:
    """Raise BadInputError when a folder is not one that training made."""
    if not (run / CONFIG).is_file():
        raise BadInputError(f"{run}: not a run folder (no {CONFIG}). Make one with: rsna-e2e train STORE RUN")


def read_config(run: Path) -> RunConfig:
    """Return the configuration of a run as the run wrote it.

    Raises BadInputError when the folder is no run, and when the file is damaged or was changed since.
    """
    check_is_run(run)
    path = run / CONFIG
    expected = read_manifest(run).get(CONFIG_SHA256) if (run / MANIFEST).exists() else None
    if expected is not None and sha256_of(path) != expected:
        raise BadInputError(
            f"{path}: damaged or changed, its sha256 is not the one in {MANIFEST}. Put it back from a copy"
        )
    config = load_config(path)
    if config.task not in TASKS:
        raise BadInputError(f"{path}: of a task that is not known here; known are {', '.join(TASKS)}")
    return config


def read_manifest(run: Path) -> dict[str, Any]:
    """Return what a run says of its code, data and sessions. Raises BadInputError when it is missing or damaged."""
    path = run / MANIFEST
    try:
        manifest = read_json(path)
    except (OSError, ValueError):
        manifest = None
    if not isinstance(manifest, dict):
        what = "damaged" if path.exists() else "missing"
        raise BadInputError(f"{path}: {what}. Put it back from a copy, or train again")
    return manifest
