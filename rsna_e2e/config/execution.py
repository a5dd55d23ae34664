"""Sections of the configuration that say how a run is saved, and how its processes communicate."""

from typing import Literal

from rsna_e2e.config.effects import Free, OfRun
from rsna_e2e.config.limits import Checkpoints, Mebibytes, Minutes, Steps, TimeoutS
from rsna_e2e.config.sections import Frozen


class CheckpointConfig(Frozen):
    """When a run is saved, besides at the end of every epoch, and how many checkpoints are kept besides the best."""

    every_steps: Free[Steps | None] = None
    """Save whenever this many steps were taken; null: only by time and at the end of epochs."""
    every_minutes: Free[Minutes | None] = 10.0
    """Save whenever this much time has passed; null: never by time."""
    keep_last: Free[Checkpoints] = 2
    """Number of the newest checkpoints that are kept."""
    keep_epochs: OfRun[bool] = False
    """Keep the checkpoint at the end of every epoch; predict and embed take them with --checkpoint epoch-N."""
    on_disk_full: Free[Literal["stop", "continue"]] = "stop"
    """What to do when the disk is full. continue: train on with the checkpoints that were saved before."""


class DistributedConfig(Frozen):
    """Communication between the processes of a run, one for each GPU (ranks)."""

    timeout_s: TimeoutS = 300.0
    """A rank that does not answer for so long ends the run. Below 60 s, restarts fail to connect."""
    bucket_mib: Mebibytes = 25
    """Gradients are exchanged in pieces of this size."""
