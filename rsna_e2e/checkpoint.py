"""Model checkpoints: safetensors beside a JSON file with their sha256; nothing is ever unpickled.

A checkpoint is a folder `RUN/checkpoints/NAME` that appears whole: it is written under a temporary name and renamed.
"""

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors.torch
from torch import nn

from rsna_e2e.errors import BadInputError
from rsna_e2e.files import atomic_writer, write_json
from rsna_e2e.model import load_weights

WEIGHTS_NAME = "model.safetensors"
STATE_NAME = "checkpoint.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointState:
    """What a checkpoint says of itself: steps and epochs done, and the validation loss then (None without one)."""

    step: int
    epoch: int
    validation_loss: float | None
    data_hash: str
    weights_sha256: str = ""


def save_checkpoint(model: nn.Module, state: CheckpointState, *, folder: Path) -> None:
    """Write `folder`, replacing one that is there. Raises OutOfResourcesError when the disk is full."""
    temporary = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        weights = safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()})
        with atomic_writer(temporary / WEIGHTS_NAME) as file:
            file.write(weights)
        described = asdict(state) | {"weights_sha256": hashlib.sha256(weights).hexdigest()}
        write_json(temporary / STATE_NAME, described)
        replaced = folder.with_name(f"{folder.name}.old-{os.getpid()}")
        if folder.exists():
            folder.rename(replaced)
        temporary.rename(folder)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_checkpoint(model: nn.Module, folder: Path) -> CheckpointState:
    """Copy a checkpoint's weights into `model`.

    Raises BadInputError when it is not a checkpoint, its weights are damaged, or they do not fit the model.
    """
    try:
        state = CheckpointState(**json.loads((folder / STATE_NAME).read_text()))
        digest = hashlib.sha256((folder / WEIGHTS_NAME).read_bytes()).hexdigest()
    except (OSError, ValueError, TypeError):
        raise BadInputError(f"{folder}: not a checkpoint (it needs {STATE_NAME} and {WEIGHTS_NAME})") from None
    if digest != state.weights_sha256:
        raise BadInputError(
            f"{folder / WEIGHTS_NAME}: damaged, its sha256 is not the recorded one. Use another checkpoint"
        )
    load_weights(model, folder / WEIGHTS_NAME)
    return state


def find_checkpoint(run: Path, name: str = "auto") -> Path:
    """Return the folder of a run's checkpoint: `best` or `last`; auto prefers the best.

    Raises BadInputError when the folder is no run or has no such checkpoint.
    """
    if not (run / "config.yaml").is_file():
        raise BadInputError(f"{run}: not a run folder (no config.yaml). Make one with: rsna-e2e train STORE RUN")
    names = ("best", "last") if name == "auto" else (name,)
    for candidate in names:
        folder = run / "checkpoints" / candidate
        if folder.is_dir():
            return folder
    raise BadInputError(f"{run}: no checkpoint {' or '.join(names)} in it. Training has not saved one yet")
