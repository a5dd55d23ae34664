"""Reads configuration, task and manifest of a run, and verifies them: the folder may be damaged or not be ours."""

from pathlib import Path
from typing import Any

from rsna_e2e.config import RunConfig, load_config, resolve_task
from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.files import read_json, sealed, sha256_of, unsealed, write_json
from rsna_e2e.tasks.catalogue import is_of_package
from rsna_e2e.tasks.files import make_task
from rsna_e2e.tasks.task import Task, first_difference, plain
from rsna_e2e.training.run_layout import CONFIG, MANIFEST, TASK

CONFIG_SHA256 = (
    "config_sha256"  # in the manifest; runs of earlier versions have none, and their configuration is not verified
)
STORE_HASH = "store_data_hash"  # in the manifest: of the store alone, where data_hash stands for its embeddings too


def check_is_run(run: Path) -> None:
    """Raise BadInputError when a folder is not one that training made."""
    if run.is_file():
        raise BadInputError(
            f"{run}: is a file, and this needs the folder of a run. Bundles are for predict, explain and process"
        )
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
    return load_config(path)


def write_task(run: Path, task: Task) -> None:
    """Save the whole task of a run, because a later version of this program may define it differently."""
    write_json(run / TASK, sealed(plain(task)))


def read_task(run: Path, config: RunConfig) -> Task:
    """Return the task of a run as the run wrote it; of an earlier version's, which wrote none, that of its `config`.

    Fields that an earlier version did not write have their defaults. Raises BadInputError when the file is damaged, and
    naming the field when it says another task than `config`, or this program means another by the name in it.
    """
    path, known = run / TASK, resolve_task(config)
    if not path.exists():
        return known
    try:
        task = make_task(_nested(unsealed(read_json(path)), title=known.title))
    except (BadInputError, LookupError, OSError, ValueError):
        raise BadInputError(f"{path}: damaged. Put it back from a copy, or train again") from None
    if difference := first_difference(task, known):
        way_out = f"Put the file back from a copy; {CONFIG} has the other"
        if is_of_package(config.task):
            way_out = f"Use the version of this program that trained it; {MANIFEST} names it"
        raise BadInputError(
            f"{path}: the run was trained for another version of the task {known.name}: {difference}. {way_out}"
        )
    return task


def _nested(content: dict[str, Any], *, title: str) -> dict[str, Any]:
    """Return the content of a task's file in today's form. Earlier versions wrote one without levels or `title`."""
    if "label_names" not in content:
        return content
    rest = dict(content)
    slices = {"names": rest.pop("label_names"), "weights": rest.pop("label_weights"), "any_name": rest["any_label"]}
    inputs = {"windows_hu": rest.pop("windows_hu"), "mean": rest.pop("channel_mean"), "std": rest.pop("channel_std")}
    series_truth = "own" if rest.pop("has_series_labels", False) else "any_slice"
    headline = rest.pop("any_label")
    return rest | dict(title=title, slices=slices, series_truth=series_truth, headline=headline, inputs=inputs)


def store_hash_of(run: Path) -> str | None:
    """Return the data_hash of the store that a run was trained on; None of a run on embeddings by an earlier version.

    Raises what `read_manifest` raises.
    """
    manifest = read_manifest(run)
    has_images = not manifest.get("classifiers")
    return manifest.get(STORE_HASH, manifest.get("data_hash", "") if has_images else None)


def read_manifest(run: Path) -> dict[str, Any]:
    """Return a run's record of its code, data and sessions. Raises BadInputError when it is missing or damaged."""
    path = run / MANIFEST
    try:
        manifest = read_json(path)
    except (OSError, ValueError):
        manifest = None
    if not isinstance(manifest, dict):
        what = "damaged" if path.exists() else "missing"
        raise BadInputError(f"{path}: {what}. Put it back from a copy, or train again")
    return manifest
