"""The metadata of a checkpoint, in checkpoint.json: strict JSON that holds its own sha256."""

import json
from pathlib import Path
from typing import Literal

from rsna_e2e.config import Frozen
from rsna_e2e.config.limits import Int64
from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.files import as_json, read_json, sealed, unsealed
from rsna_e2e.tasks.task import Task, task_sha256

NAME = "checkpoint.json"

FileName = Literal["model.safetensors", "optimizer.safetensors", "ema.safetensors"]
Scalars = list[dict[str, int | float]]  # by parameter group of an optimiser


class Best(Frozen):
    """The best validation so far: when it was, its loss, and its scores (None where one could not be computed)."""

    step: Int64
    epoch: Int64
    validation_loss: float
    validation: dict[str, float | None]


class CheckpointState(Frozen):
    """Where a run stands. Numbers are finite; what does not exist is None.

    step: optimiser steps consumed, skipped ones included: the position in the data. epoch: epochs completed, their
    validation included. phase: whose the optimiser is. n_slices: trained on so far. validation_loss: of these very
    weights, None between epochs. skipped: steps without a finite loss or gradient, in all and the last in a row.
    scaler: GradScaler.state_dict(). task_sha256: of the task that is learned, None in checkpoints of earlier versions.
    """

    step: Int64
    epoch: Int64
    phase: Literal["slices", "series"]
    data_hash: str
    n_slices: Int64 = 0
    elapsed_s: float = 0.0
    validation_loss: float | None = None
    best: Best | None = None
    epochs_since_best: Int64 = 0
    skipped: Int64 = 0
    skipped_in_a_row: Int64 = 0
    scaler: dict[str, int | float] | None = None
    task_sha256: str | None = None


class Description(Frozen):
    """The content of checkpoint.json, beside its own sha256."""

    format_version: Literal[1] = 1
    state: CheckpointState
    optimizer_groups: Scalars
    sha256: dict[FileName, str]


def to_json(description: Description) -> bytes:
    """Return the content of checkpoint.json. Raises ValueError for what `describe` would refuse, as a NaN."""
    content = description.model_dump()
    written = (as_json(sealed(content), indent=2) + "\n").encode()
    _parse(json.loads(written))
    return written


def describe(folder: Path) -> Description:
    """Read a folder's checkpoint.json. Raises BadInputError when it is not one, or is damaged.

    Every key must be there, with a value of its type, and no other.
    """
    path = folder / NAME
    if not path.is_file():  # a pipe would be waited for
        raise BadInputError(f"{folder}: not a checkpoint (no {NAME}). Use another checkpoint")
    try:
        return _parse(read_json(path))
    except (OSError, ValueError):
        raise damaged(path) from None


def check_task(folder: Path, state: CheckpointState, task: Task) -> None:
    """Raise BadInputError when the checkpoint in `folder` is of a run of another task."""
    if state.task_sha256 not in (None, task_sha256(task)):
        raise BadInputError(
            f"{folder}: the checkpoint of a run for another task than {task.name}, or for another version of it. "
            "Use a checkpoint that this run saved"
        )


def damaged(path: Path) -> BadInputError:
    """The error for a file of a checkpoint that is not as it was written."""
    return BadInputError(f"{path}: damaged, its sha256 is not the recorded one. Use another checkpoint")


def _parse(written: object) -> Description:
    content = unsealed(written)
    if isinstance(content.get("state"), dict):
        content["state"].setdefault("task_sha256", None)  # earlier versions wrote none
    described = Description.model_validate(content, strict=True)
    if described.model_dump() != content:
        raise ValueError("keys are missing")
    return described
