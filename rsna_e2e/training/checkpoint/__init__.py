"""The state of a training run on disk: everything that a resumed run needs to end like an uninterrupted one.

`RUN/checkpoints/step-00000123-epoch-002/` holds model.safetensors, optimizer.safetensors and ema.safetensors (if
used) and checkpoint.json: counters, the sha256 of every file, and its own. A folder appears complete, by one rename to
a unique name, so there is always a valid checkpoint. Nothing is ever unpickled.
"""

from rsna_e2e.training.checkpoint.run import (
    Checkpoint,
    drop_epochs,
    find_checkpoint,
    kept_epochs,
    load_model,
    restore,
    save_checkpoint,
    valid_checkpoints,
    weights_sha256,
)
from rsna_e2e.training.checkpoint.state import Best, CheckpointState, check_task

__all__ = [
    "Best",
    "Checkpoint",
    "CheckpointState",
    "check_task",
    "drop_epochs",
    "find_checkpoint",
    "kept_epochs",
    "load_model",
    "restore",
    "save_checkpoint",
    "valid_checkpoints",
    "weights_sha256",
]
